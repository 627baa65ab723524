//! What may be said to `sidepool top` on the command line.

use std::time::Duration;

use clap::Args;

/// Whom to watch, and how.
#[derive(Debug, Args)]
pub struct Top {
    /// The admin listener of the sidepool to watch: an address or a URL.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9127")]
    pub admin: String,
    /// How often to ask it, as `500ms` or `2s`.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print what there is to see once, as text, and end: for scripts and pipes.
    #[arg(long)]
    pub once: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = sidepool_config::units::parse_duration(text).map_err(|error| error.to_string())?;
    let sensible = Duration::from_millis(100)..=Duration::from_secs(3600);
    if sensible.contains(&interval) { Ok(interval) } else { Err("from 100ms to 1h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert!(interval("1ms").is_err() && interval("2h").is_err() && interval("soon").is_err());
    }
}
