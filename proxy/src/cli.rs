//! The command line: what may be said on it. What is done with it is elsewhere (`main`, `app`, `probe`).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::doctor::flags::Doctor;
use crate::injector::flags::{Inject, Injector};
use crate::top::flags::Top;

/// Lets thousands of PostgreSQL and Redis clients share a few upstream connections.
#[derive(Debug, Parser)]
#[command(
    name = "sidepool",
    version,
    about,
    args_conflicts_with_subcommands = true,
    after_help = "sidepool FILE.ini, and the program under the name pgbouncer, take PgBouncer's flags (-d -q -v -u -R -V) and its configuration file.\n\
                  Without a file and without URLs, DATABASE_URL and REDIS_URL are taken from the environment.\n\
                  Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT end gracefully, a second one at once."
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub from: From,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Report every problem of a configuration and end: 0 if it can be used, 2 if it cannot.
    Check(Box<From>),
    /// Examine a configuration against the servers and this machine, and say what to do: 0 if nothing is broken, 1 if something is.
    Doctor(Box<Doctor>),
    /// Print every setting of the configuration file with its default, what it may be and what it means.
    Settings,
    /// Say a pgbouncer.ini as sidepool.toml, on standard output.
    Migrate {
        /// The pgbouncer.ini.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Serve the admission webhook that puts the sidecar into pods which ask for it.
    Injector(Box<Injector>),
    /// Put the sidecar into Kubernetes manifests, as the webhook does into pods.
    Inject(Box<Inject>),
    /// Print what a shell needs to complete this command line.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, as `man -l -` reads it.
    Man,
    /// Ask a running sidepool whether it is alive: 0 if it is, 1 if not. For the HEALTHCHECK of images without a shell.
    Healthcheck(Target),
    /// Wait until a running sidepool is ready for clients.
    Wait {
        /// Whom to ask.
        #[command(flatten)]
        target: Target,
        /// How long to wait, as `30s` or `2m`.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// Watch a running sidepool in the terminal: pools, queues, waits, databases and users, pins, Redis lanes.
    Top(Top),
    /// Print the alerts and recording rules for Prometheus.
    Alerts(Alerts),
    /// Print a Grafana dashboard.
    Dashboard {
        /// The one for many sidepools, such as the sidecars of a cluster.
        #[arg(long)]
        fleet: bool,
    },
}

/// Which form of the alerts.
#[derive(Debug, Args)]
pub struct Alerts {
    /// As a PrometheusRule, for the Prometheus operator.
    #[arg(long)]
    pub kubernetes: bool,
    /// The runbook instead: for each alert what it means, what to look at, what to do.
    #[arg(long, conflicts_with = "kubernetes")]
    pub runbook: bool,
    /// Where the runbook is to be found; alerts link to their entry in it.
    #[arg(long, value_name = "URL", default_value = crate::operate::rules::RUNBOOK)]
    pub runbook_url: String,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub struct From {
    /// The configuration file (sidepool.toml, or a pgbouncer.ini).
    #[arg(value_name = "FILE", conflicts_with_all = ["config", "postgres", "redis"])]
    pub file: Option<PathBuf>,
    /// Take over from the sidepool that runs with this configuration: its listening sockets, and its clients without dropping one.
    #[arg(long, short = 'R')]
    pub take_over: bool,
    /// The configuration file, said as a flag.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["postgres", "redis"])]
    pub config: Option<PathBuf>,
    /// The PostgreSQL server: postgres://USER:PASSWORD@HOST:PORT/DBNAME.
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
    /// The Redis server: redis://USER:PASSWORD@HOST:PORT/DATABASE.
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Worker threads, or auto. Like all that follow, this wins over the file.
    #[arg(long, value_name = "N")]
    pub workers: Option<String>,
    /// Most upstream connections of each pool, whatever the file says about one of them.
    #[arg(long, value_name = "N")]
    pub pool_size: Option<String>,
    /// Where PostgreSQL clients connect, separated by commas.
    #[arg(long, value_name = "ADDRESSES")]
    pub postgres_listen: Option<String>,
    /// Where Redis clients connect, separated by commas.
    #[arg(long, value_name = "ADDRESSES")]
    pub redis_listen: Option<String>,
    /// Where /metrics and the health endpoints listen, or off.
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// The least severe level that is logged.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Which running sidepool to ask.
#[derive(Debug, Args)]
pub struct Target {
    /// Its admin listener, with or without a path.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9127")]
    pub url: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    sidepool_config::units::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_file_or_urls_but_not_both() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["sidepool"], words].concat());
        assert!(parse(&["sidepool.toml", "--workers", "2"]).is_ok());
        assert!(parse(&["--config", "sidepool.toml"]).is_ok());
        assert!(parse(&["--postgres", "postgres://h/d", "--redis", "redis://h", "--pool-size", "5"]).is_ok());
        assert!(parse(&["sidepool.toml", "--postgres", "postgres://h/d"]).is_err());
        assert!(parse(&["sidepool.toml", "--pool-size", "5", "--log-level", "debug", "--admin-listen", "off"]).is_ok());
        assert!(parse(&["--config", "sidepool.toml", "--redis", "redis://h"]).is_err());
        assert!(parse(&["settings"]).is_ok());
        assert!(parse(&["check", "sidepool.toml"]).is_ok());
        assert!(parse(&["wait", "--timeout", "soon"]).is_err());
    }
}
