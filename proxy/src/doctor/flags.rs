//! What may be said to `sidepool doctor`.

use clap::Args;

use crate::cli::From;

/// What to examine.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Where the configuration comes from: the same as for serving.
    #[command(flatten)]
    pub from: From,
    /// How many processes with this configuration there are to be: the server has to have room for the pools of all.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub replicas: u32,
    /// As JSON, for machines.
    #[arg(long)]
    pub json: bool,
}
