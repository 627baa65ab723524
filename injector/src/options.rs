//! What the operator of the injector decides for all pods. Annotations of a pod win where both have a say.

/// Whether the sidecar becomes a native one: an init container that stays (Kubernetes 1.29 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NativeSidecar {
    /// Native. Where the version of the cluster is known to be too old nothing is injected at all: it would drop the field that makes the
    /// sidecar one, and the pod would wait for ever.
    #[default]
    Auto,
    /// Native, whatever the version is said to be.
    Always,
    /// An ordinary container, in front of the others.
    Never,
}

/// The first minor version of Kubernetes 1 that has native sidecars switched on.
pub const NATIVE_SINCE: u32 = 29;

/// What holds for all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The image of the sidecar.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: String,
    /// Whether the sidecar is a native one.
    pub native: NativeSidecar,
    /// The minor version of the cluster (the 31 of 1.31), if it is known.
    pub kubernetes_minor: Option<u32>,
    /// The user and group that it runs as; `None`: whatever the cluster assigns (OpenShift).
    pub run_as: Option<u32>,
    /// What it asks for and may use.
    pub resources: Resources,
    /// Where PostgreSQL clients connect, on loopback.
    pub port: u16,
    /// Where Redis clients connect, on loopback.
    pub redis_port: u16,
    /// Where metrics and probes are, on all addresses.
    pub admin_port: u16,
    /// The format of its log.
    pub log_format: String,
}

/// What the sidecar asks for and may use, as Kubernetes writes quantities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Processor time that is kept for it.
    pub cpu_request: String,
    /// Memory that is kept for it.
    pub memory_request: String,
    /// The most memory that it may have.
    pub memory_limit: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: format!("sidepool:{}", env!("CARGO_PKG_VERSION")),
            pull_policy: "IfNotPresent".to_owned(),
            native: NativeSidecar::Auto,
            kubernetes_minor: None,
            run_as: Some(65532),
            resources: Resources { cpu_request: "50m".to_owned(), memory_request: "32Mi".to_owned(), memory_limit: "128Mi".to_owned() },
            port: 6432,
            redis_port: 6380,
            admin_port: 9127,
            log_format: "json".to_owned(),
        }
    }
}

/// Reads the version of a cluster as it writes it: `1.31`, `v1.31.2`, `v1.29.3+k3s1`. The answer is the minor version.
pub fn kubernetes_minor(text: &str) -> Result<u32, String> {
    let minor = text.trim().trim_start_matches('v').strip_prefix("1.").map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse().ok()
    });
    minor.flatten().ok_or_else(|| format!("\"{text}\" is no version of Kubernetes: write it as 1.31"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_clusters_write_them() {
        for (text, minor) in [("1.31", 31), ("v1.31.2", 31), ("v1.29.3+k3s1", 29), ("1.28-gke", 28)] {
            assert_eq!(kubernetes_minor(text), Ok(minor), "{text}");
        }
        for text in ["", "1", "2.0", "v1.", "latest"] {
            assert!(kubernetes_minor(text).unwrap_err().contains("1.31"), "{text}");
        }
    }
}
