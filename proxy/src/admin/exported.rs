//! What the configuration says about the metrics themselves, and what of it is a number: read at each scrape, replaced at each reload.

use sidepool_config::model::{Admin, Config, MetricsNames};
use sidepool_config::tls::Expiry;

/// What a scrape needs to know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// How the metrics of pools are called.
    pub names: MetricsNames,
    /// How many pools have series of their own.
    pub max_pools: usize,
    /// By which names browsers may ask for the status, beside those that are nobody else's.
    pub allowed_hosts: Vec<String>,
    /// Until when certificates hold, by the section that names their file.
    pub expiries: Vec<(String, Expiry)>,
}

impl Default for Exported {
    fn default() -> Self {
        Self::of(&Config::default())
    }
}

impl Exported {
    /// Of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let Admin { listen: _, quitquitquit: _, allowed_hosts, metrics_names, metrics_max_pools } = &config.admin;
        let mut expiries = Vec::new();
        let mut note = |section: &str, found: &[Expiry]| expiries.extend(found.iter().map(|expiry| (section.to_owned(), *expiry)));
        if let Some(postgres) = &config.postgres {
            note("postgres", postgres.client_tls.context.as_ref().map_or(&[], |context| &context.expiries));
            note("postgres", postgres.server_tls.context.as_ref().map_or(&[], |context| &context.expiries));
            for (name, database) in &postgres.databases {
                let own = database.server_tls.as_ref().and_then(|tls| tls.context.as_ref());
                note(&format!("postgres.databases.{name}"), own.map_or(&[], |context| &context.expiries));
            }
        }
        for (name, redis) in &config.redis {
            let section = format!("redis.{name}");
            note(&section, redis.client_tls.context.as_ref().map_or(&[], |context| &context.expiries));
            note(&section, redis.server_tls.context.as_ref().map_or(&[], |context| &context.expiries));
        }
        let max_pools = usize::try_from(*metrics_max_pools).unwrap_or(usize::MAX);
        Self { names: *metrics_names, max_pools, allowed_hosts: allowed_hosts.clone(), expiries }
    }
}
