//! Where traces are sent, and of how many transactions and batches of commands there are some.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::tls::ServerContext;

/// Traces, by OpenTelemetry's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Where they are sent; `None`: there are none.
    pub endpoint: Option<Arc<OtlpEndpoint>>,
    /// The authority that vouches for the collector's certificate; `None`: those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// One transaction (Redis: batch of commands) in so many is traced, beside those that an application traces itself.
    pub sample_one_in: u32,
    /// Whether they have the texts of statements, without values.
    pub statements: bool,
}

impl Default for Traces {
    fn default() -> Self {
        Self { endpoint: None, ca_file: None, sample_one_in: 100, statements: false }
    }
}

/// Where a collector takes traces over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, from its slash on.
    pub path: String,
    /// Whether it is spoken to under TLS.
    pub secure: bool,
    /// With what, once that is loaded.
    pub tls: Option<Arc<ServerContext>>,
}

/// The port of collectors, and the path of traces there (OpenTelemetry, "OTLP Specification").
const DEFAULT: (u16, &str) = (4318, "/v1/traces");

impl OtlpEndpoint {
    /// Reads `http://HOST[:PORT][/PATH]`, or the same with `https`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("expected http://HOST:PORT or https://HOST:PORT (or with a path other than {}): {text:?} is not that", DEFAULT.1);
        let (rest, secure) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return Err(wrong()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if path.contains(|c: char| c.is_control() || c.is_whitespace())
            || authority.contains(|c: char| c == '@' || c.is_control() || c.is_whitespace())
        {
            return Err(wrong());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
            Some(_) | None => (authority, DEFAULT.0),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        let path = if path.len() > 1 { path } else { DEFAULT.1 }.to_owned();
        Ok(Self { host: host.to_owned(), port, path, secure, tls: None })
    }

    /// The host and the port, as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "https" } else { "http" }, self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::OtlpEndpoint;

    #[test]
    fn endpoints_are_read_and_written_back() {
        for (text, whole) in [
            ("http://localhost", "http://localhost:4318/v1/traces"),
            ("http://otel:4319/", "http://otel:4319/v1/traces"),
            ("http://[::1]:1/x/y", "http://[::1]:1/x/y"),
            ("http://[::1]", "http://[::1]:4318/v1/traces"),
            ("https://otel.example", "https://otel.example:4318/v1/traces"),
        ] {
            let endpoint = OtlpEndpoint::parse(text).unwrap();
            assert_eq!(endpoint.to_string(), whole);
            assert_eq!(OtlpEndpoint::parse(whole), Ok(endpoint));
        }
        for wrong in [
            "",
            "localhost:4318",
            "grpc://otel",
            "https://",
            "http://",
            "http://:1",
            "http://h:0",
            "http://h:x",
            "http://u:p@h",
            "http://h/a b",
        ] {
            assert!(OtlpEndpoint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
