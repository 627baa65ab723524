//! How the values of closed settings are written: one list an enum, for reading, printing and for what is allowed in an error.

use crate::model::{
    AuthType, ClientSslMode, CommandClass, CommandPolicy, Following, IoBackend, ListenGap, LoadBalance, LogFormat, LogLevel, MetricsNames,
    PoolMode, QueueFairness, RedisAuth, SubscriberGap, UpstreamTls,
};

/// An enum whose values have names in the configuration.
pub trait Named: Copy + PartialEq + Sized + 'static {
    /// Every name with its value.
    const NAMES: &'static [(&'static str, Self)];

    /// The name of this value.
    #[must_use]
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }

    /// The value of this name.
    #[must_use]
    fn from_name(given: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| *name == given).map(|(_, value)| *value)
    }

    /// Every name.
    #[must_use]
    fn all_names() -> Vec<&'static str> {
        Self::NAMES.iter().map(|(name, _)| *name).collect()
    }
}

impl Named for PoolMode {
    const NAMES: &'static [(&'static str, Self)] =
        &[("transaction", Self::Transaction), ("session", Self::Session), ("statement", Self::Statement)];
}

impl Named for AuthType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("scram-sha-256", Self::ScramSha256),
        ("md5", Self::Md5),
        ("plain", Self::Plain),
        ("trust", Self::Trust),
        ("any", Self::Any),
        ("cert", Self::Cert),
        ("hba", Self::Hba),
        ("ldap", Self::Ldap),
        ("pam", Self::Pam),
    ];
}

impl Named for IoBackend {
    const NAMES: &'static [(&'static str, Self)] = &[("epoll", Self::Epoll), ("io_uring", Self::IoUring)];
}

impl Named for MetricsNames {
    const NAMES: &'static [(&'static str, Self)] = &[("sidepool", Self::Sidepool), ("otel", Self::Otel), ("both", Self::Both)];
}

impl Named for Following {
    const NAMES: &'static [(&'static str, Self)] = &[("follow", Self::Follow), ("always", Self::Always), ("off", Self::Off)];
}

impl Named for LoadBalance {
    const NAMES: &'static [(&'static str, Self)] = &[("round-robin", Self::RoundRobin), ("disable", Self::Disable)];
}

impl Named for QueueFairness {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("user", Self::User),
        ("application_name", Self::ApplicationName),
        ("address", Self::Address),
        ("listener", Self::Listener),
        ("off", Self::Off),
    ];
}

impl Named for ListenGap {
    const NAMES: &'static [(&'static str, Self)] = &[("close", Self::Close), ("warn", Self::Warn)];
}

impl Named for ClientSslMode {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Named for UpstreamTls {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Named for LogLevel {
    const NAMES: &'static [(&'static str, Self)] =
        &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug), ("trace", Self::Trace)];
}

impl Named for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Named for RedisAuth {
    const NAMES: &'static [(&'static str, Self)] = &[("inject", Self::Inject), ("map", Self::Map), ("pass-through", Self::PassThrough)];
}

impl Named for SubscriberGap {
    const NAMES: &'static [(&'static str, Self)] = &[("resume", Self::Resume), ("close", Self::Close)];
}

impl Named for CommandPolicy {
    const NAMES: &'static [(&'static str, Self)] = &[("drop-in", Self::DropIn), ("sidecar", Self::Sidecar)];
}

impl Named for CommandClass {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("flush", Self::Flush),
        ("keys", Self::Keys),
        ("swapdb", Self::SwapDb),
        ("config", Self::Config),
        ("acl", Self::Acl),
        ("persistence", Self::Persistence),
        ("pause", Self::Pause),
        ("kill", Self::Kill),
        ("scripts", Self::Scripts),
        ("monitor", Self::Monitor),
        ("replication", Self::Replication),
        ("topology", Self::Topology),
        ("shutdown", Self::Shutdown),
        ("debug", Self::Debug),
        ("modules", Self::Modules),
    ];
}

/// Every `sslmode` that libpq knows, and what node-postgres calls `require`.
pub(crate) fn sslmode(given: &str) -> Option<UpstreamTls> {
    if given == "no-verify" { Some(UpstreamTls::Require) } else { UpstreamTls::from_name(given) }
}
