//! A URL of a server, taken apart just far enough to turn it into one of loopback. What goes to the sidecar is never put together again: it
//! gets the text as it was.

/// The parts of a URL, as they stand in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address<'t> {
    /// What stands before `://`, with `jdbc:` if it is there.
    pub scheme: &'t str,
    /// Behind it, up to the `@`: a user, and a password behind a colon.
    pub userinfo: Option<&'t str>,
    /// Host and port.
    pub host: &'t str,
    /// The path without its slash; `None` if there is none.
    pub path: Option<&'t str>,
    /// What stands behind the `?`.
    pub query: Option<&'t str>,
}

/// Parameters that are about the way to the server, or about who one is there: they have no meaning on loopback.
const DROPPED: &[&str] = &[
    "sslmode",
    "ssl",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "sslnegotiation",
    "sslcertmode",
    "sslfactory",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
    "requiressl",
    "channel_binding",
    "gssencmode",
    "krbsrvname",
    "require_auth",
    "target_session_attrs",
    "load_balance_hosts",
    "host",
    "hostaddr",
    "port",
    "password",
    "passfile",
    "pass",
    "username",
];

impl<'t> Address<'t> {
    /// Takes a URL apart. `None`: it is none.
    #[must_use]
    pub fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let (userinfo, host) = authority.rsplit_once('@').map_or((None, authority), |(userinfo, host)| (Some(userinfo), host));
        Some(Self { scheme, userinfo, host, path, query })
    }

    /// The user, if there is one.
    #[must_use]
    pub fn user(&self) -> Option<&'t str> {
        self.userinfo?.split(':').next().filter(|user| !user.is_empty())
    }

    /// The same for clients on this machine: another host, no TLS, and no password. `user` and `path` are what to say in place of parts that
    /// are not to be seen because Kubernetes fills them in.
    #[must_use]
    pub fn on_loopback(&self, port: u16, user: &str, path: &str) -> String {
        let scheme = match self.scheme {
            "rediss" => "redis",
            "valkeys" => "valkey",
            other => other,
        };
        // Redis has no users that say nothing.
        let with_user = !["redis", "valkey"].contains(&scheme.split('+').next().unwrap_or_default());
        let mut url = format!("{scheme}://");
        if let Some(given) = self.user().filter(|_| with_user) {
            url.push_str(if is_plain(given) { given } else { user });
            url.push('@');
        }
        url.push_str(&format!("127.0.0.1:{port}"));
        if let Some(given) = self.path {
            url.push('/');
            url.push_str(if is_plain(given) { given } else { path });
        }
        self.push_query(&mut url, false);
        url
    }

    /// The same with another host and port and without TLS, user and password kept.
    #[must_use]
    pub fn with_host_only(&self, port: u16) -> String {
        let mut url = format!("{}://", self.scheme);
        if let Some(userinfo) = self.userinfo {
            url.push_str(userinfo);
            url.push('@');
        }
        url.push_str(&format!("127.0.0.1:{port}"));
        if let Some(path) = self.path {
            url.push('/');
            url.push_str(path);
        }
        self.push_query(&mut url, true);
        url
    }

    fn push_query(&self, url: &mut String, with_password: bool) {
        let mut separator = '?';
        for parameter in self.query.into_iter().flat_map(|query| query.split('&')).filter(|parameter| !parameter.is_empty()) {
            let name = parameter.split('=').next().unwrap_or_default();
            let is_kept = !DROPPED.contains(&name) || (with_password && ["password", "pass", "username"].contains(&name));
            if is_kept && is_plain(parameter) {
                url.push(separator);
                url.push_str(parameter);
                separator = '&';
            }
        }
    }
}

/// Whether it is what it says: Kubernetes would fill nothing in.
fn is_plain(text: &str) -> bool {
    !text.contains("$(") && !text.contains("$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(text: &str) -> String {
        Address::parse(text).expect(text).on_loopback(6432, "sidepool", "sidepool")
    }

    #[test]
    fn what_is_about_the_way_there_goes_and_all_else_stays() {
        let table = [
            (
                "postgres://app:s3cret@db.internal:5433/shop?sslmode=require&application_name=x",
                "postgres://app@127.0.0.1:6432/shop?application_name=x",
            ),
            ("postgresql+asyncpg://app:p%40ss@h/shop", "postgresql+asyncpg://app@127.0.0.1:6432/shop"),
            ("jdbc:postgresql://h:5432/shop?user=app&password=x&ssl=true", "jdbc:postgresql://127.0.0.1:6432/shop?user=app"),
            ("postgres://h", "postgres://127.0.0.1:6432"),
            ("postgres://h/", "postgres://127.0.0.1:6432/"),
            ("postgres://a:b@c:d@h/x", "postgres://a@127.0.0.1:6432/x"),
            ("rediss://:pw@cache:6379/3?ssl_cert_reqs=none&max=5#insecure", "redis://127.0.0.1:6432/3?max=5"),
            ("redis://user:pw@cache", "redis://127.0.0.1:6432"),
            ("postgres://$(U):$(P)@$(H):5432/$(D)?x=$(Y)&z=1", "postgres://sidepool@127.0.0.1:6432/sidepool?z=1"),
            ("postgres://app:$(P)@h/shop", "postgres://app@127.0.0.1:6432/shop"),
        ];
        for (text, wanted) in table {
            assert_eq!(loopback(text), wanted, "{text}");
        }
        assert_eq!(Address::parse("host=x user=y"), None);
    }

    #[test]
    fn where_a_file_knows_the_clients_their_password_stays() {
        let url = Address::parse("postgres://app:s3cret@db/shop?sslmode=require&password=x").unwrap().with_host_only(7000);
        assert_eq!(url, "postgres://app:s3cret@127.0.0.1:7000/shop?password=x");
    }
}
