//! The command lines of `sidepool injector` and `sidepool inject`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sidepool_config::units::parse_duration;
use sidepool_injector::options::{NativeSidecar, Options, Resources, kubernetes_minor};

/// `sidepool injector`.
#[derive(Debug, Args)]
pub struct Injector {
    /// Where the API server comes, over TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    pub listen: SocketAddr,
    /// Where /metrics, /livez and /readyz are, without TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9127")]
    pub admin_listen: SocketAddr,
    /// The directory with tls.crt and tls.key, as Kubernetes mounts a Secret. It is watched.
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/sidepool/tls")]
    pub certificates: PathBuf,
    /// How long it goes on after SIGTERM while the API server learns of it.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub accept_for: Duration,
    /// The least severe level that is logged.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
    /// What sidecars are like.
    #[command(flatten)]
    pub sidecar: Sidecar,
}

/// `sidepool inject`.
#[derive(Debug, Args)]
pub struct Inject {
    /// The manifests, YAML or JSON; - is standard input. May be given several times.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Print what would change and not the whole.
    #[arg(long)]
    pub diff: bool,
    /// What sidecars are like.
    #[command(flatten)]
    pub sidecar: Sidecar,
}

/// What sidecars are like. Annotations of a pod win.
#[derive(Debug, Args)]
pub struct Sidecar {
    /// The image of the sidecar.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// When it is pulled.
    #[arg(long, value_name = "POLICY", value_enum, default_value = "IfNotPresent")]
    image_pull_policy: PullPolicy,
    /// auto and always: an init container that stays; never: an ordinary container. auto refuses where the version of the cluster is known to be too old.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    native_sidecar: When,
    /// The version of the cluster, such as 1.31.
    #[arg(long, value_name = "VERSION", value_parser = kubernetes_minor)]
    kubernetes_version: Option<u32>,
    /// The numeric user and group of the sidecar, or none to leave it to the cluster.
    #[arg(long, value_name = "ID", default_value = "65532")]
    run_as: String,
    /// Processor time that is kept for the sidecar.
    #[arg(long, value_name = "AMOUNT")]
    cpu_request: Option<String>,
    /// Memory that is kept for it.
    #[arg(long, value_name = "AMOUNT")]
    memory_request: Option<String>,
    /// The most memory that it may have.
    #[arg(long, value_name = "AMOUNT")]
    memory_limit: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PullPolicy {
    #[value(name = "Always")]
    Always,
    #[value(name = "IfNotPresent")]
    IfNotPresent,
    #[value(name = "Never")]
    Never,
}

impl Sidecar {
    /// As the library wants it.
    pub fn options(&self) -> Result<Options, String> {
        let defaults = Options::default();
        let or = |given: &Option<String>, default: String| given.clone().unwrap_or(default);
        let run_as = match self.run_as.as_str() {
            "none" => None,
            "0" => return Err("--run-as: never as root".to_owned()),
            id => Some(id.parse().map_err(|_| "--run-as: must be a number or none".to_owned())?),
        };
        Ok(Options {
            image: or(&self.image, defaults.image),
            pull_policy: match self.image_pull_policy {
                PullPolicy::Always => "Always",
                PullPolicy::IfNotPresent => "IfNotPresent",
                PullPolicy::Never => "Never",
            }
            .to_owned(),
            native: match self.native_sidecar {
                When::Auto => NativeSidecar::Auto,
                When::Always => NativeSidecar::Always,
                When::Never => NativeSidecar::Never,
            },
            kubernetes_minor: self.kubernetes_version,
            run_as,
            resources: Resources {
                cpu_request: or(&self.cpu_request, defaults.resources.cpu_request),
                memory_request: or(&self.memory_request, defaults.resources.memory_request),
                memory_limit: or(&self.memory_limit, defaults.resources.memory_limit),
            },
            ..defaults
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}
