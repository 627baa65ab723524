//! How a password is checked against an LDAP server: the options of the method `ldap` in `auth_hba_file`, and `auth_ldap_options`.
//!
//! Two ways: *simple bind*, as `ldapprefix USER ldapsuffix`; or *search and bind*, which finds the user's entry below `ldapbasedn` first.
//! Source: PostgreSQL documentation, "LDAP Authentication". Pure; who talks to the server is the proxy.

use percent_encoding::percent_decode_str;

use super::words::{self, Field};
use crate::secret::Secret;

/// How a password is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ldap {
    /// The servers, each as a URL of scheme, host and port; tried in this order.
    pub servers: Vec<String>,
    /// Whether TLS is asked for on a plain connection (StartTLS).
    pub start_tls: bool,
    /// How the user's entry is found.
    pub way: Way,
}

/// How the user's entry is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Its name is put together.
    Prefix {
        /// Before the user name.
        prefix: String,
        /// After it.
        suffix: String,
    },
    /// It is searched for.
    Search {
        /// Below this entry.
        base: String,
        /// How deep.
        scope: Scope,
        /// As whom; `None`: as nobody.
        bind: Option<(String, Secret)>,
        /// With this filter, in which the user name stands for `$username`.
        filter: String,
    },
}

/// How deep a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The entry itself.
    Base,
    /// Its children.
    One,
    /// All below it.
    Subtree,
}

/// What stands for the user name in a filter.
const USER: &str = "$username";

/// The attribute that a search looks at when none is named, as in PostgreSQL.
const DEFAULT_ATTRIBUTE: &str = "uid";

/// The options as they are given.
#[derive(Default)]
struct Options {
    server: Option<String>,
    port: Option<u16>,
    scheme: Option<String>,
    tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<Secret>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Option<Scope>,
}

/// Reads `auth_ldap_options`.
pub fn parse(text: &str) -> Result<Ldap, String> {
    Ldap::read(&words::fields(text)?)
}

impl Ldap {
    pub(super) fn read(fields: &[Field]) -> Result<Self, String> {
        let mut options = Options::default();
        for field in fields {
            options.take(&joined(field))?;
        }
        options.finish()
    }

    /// The entry to bind as, where it is put together.
    #[must_use]
    pub fn entry(&self, user: &str) -> Option<String> {
        match &self.way {
            Way::Prefix { prefix, suffix } => Some(format!("{prefix}{user}{suffix}")),
            Way::Search { .. } => None,
        }
    }
}

impl Way {
    /// The filter that finds `user`, with everything in the name escaped that means something there (RFC 4515).
    #[must_use]
    pub fn filter_for(filter: &str, user: &str) -> String {
        let mut escaped = String::with_capacity(user.len());
        for char in user.chars() {
            match char {
                '*' | '(' | ')' | '\\' | '\0' => {
                    escaped.push_str(&format!("\\{:02x}", u32::from(char)));
                }
                _ => escaped.push(char),
            }
        }
        filter.replace(USER, &escaped)
    }
}

/// The words of an option: its value may have commas in it, even outside of quotes.
fn joined(field: &Field) -> String {
    field.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(",")
}

impl Options {
    fn take(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("expected NAME=VALUE, found \"{}\"", first_word(option)))?;
        let text = || Some(value.to_owned());
        match name {
            "ldapserver" => self.server = text(),
            "ldapport" => {
                let port = value.parse().ok().filter(|port| *port > 0);
                self.port = Some(port.ok_or("ldapport is not a port from 1 to 65535")?);
            }
            "ldapscheme" => self.scheme = Some(scheme(value)?.to_owned()),
            "ldaptls" => {
                self.tls = match value {
                    "1" => true,
                    "0" => false,
                    _ => return Err("ldaptls is 0 or 1".to_owned()),
                }
            }
            "ldapprefix" => self.prefix = text(),
            "ldapsuffix" => self.suffix = text(),
            "ldapbasedn" => self.base = text(),
            "ldapbinddn" => self.bind_dn = text(),
            "ldapbindpasswd" => self.bind_password = Some(Secret::new(value)),
            "ldapsearchattribute" => self.attribute = text(),
            "ldapsearchfilter" => self.filter = text(),
            "ldapurl" => self.take_url(value)?,
            other => {
                return Err(format!(
                    "unknown option \"{other}\": expected ldapserver, ldapport, ldapscheme, ldaptls, ldapprefix, ldapsuffix, ldapbasedn, \
                     ldapbinddn, ldapbindpasswd, ldapsearchattribute, ldapsearchfilter or ldapurl"
                ));
            }
        }
        Ok(())
    }

    /// `ldap[s]://host[:port]/basedn[?[attribute][?[scope][?[filter]]]]`
    fn take_url(&mut self, url: &str) -> Result<(), String> {
        let wrong = || "ldapurl is not of the form ldap://HOST:PORT/BASEDN?ATTRIBUTE?SCOPE?FILTER".to_owned();
        let (given, rest) = url.split_once("://").ok_or_else(wrong)?;
        self.scheme = Some(scheme(given)?.to_owned());
        let (place, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.contains('[') || host.ends_with(']') => (host, Some(port)),
            Some(_) | None => (place, None),
        };
        if !host.is_empty() {
            self.server = Some(decoded(host)?);
        }
        if let Some(port) = port {
            self.port = Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?);
        }
        let mut parts = rest.split('?');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        self.base = next().map(decoded).transpose()?.or(self.base.take());
        self.attribute = next().map(decoded).transpose()?.or(self.attribute.take());
        self.scope = match next() {
            None => self.scope,
            Some("base") => Some(Scope::Base),
            Some("one") => Some(Scope::One),
            Some("sub") => Some(Scope::Subtree),
            Some(_) => return Err("the scope in ldapurl is base, one or sub".to_owned()),
        };
        self.filter = next().map(decoded).transpose()?.or(self.filter.take());
        if parts.next().is_some() { Err(wrong()) } else { Ok(()) }
    }

    fn finish(self) -> Result<Ldap, String> {
        let search = self.base.is_some() || self.bind_dn.is_some() || self.attribute.is_some() || self.filter.is_some();
        let bind = self.prefix.is_some() || self.suffix.is_some();
        let servers = servers(self.server.as_deref(), self.scheme.as_deref().unwrap_or("ldap"), self.port)?;
        if search && bind {
            return Err("ldapprefix and ldapsuffix do not go together with options of a search".to_owned());
        }
        if self.attribute.is_some() && self.filter.is_some() {
            return Err("ldapsearchattribute and ldapsearchfilter say the same: keep one".to_owned());
        }
        if self.tls && self.scheme.as_deref() == Some("ldaps") {
            return Err("ldaptls asks for TLS inside of ldaps: keep one".to_owned());
        }
        let way = if bind {
            Way::Prefix { prefix: self.prefix.unwrap_or_default(), suffix: self.suffix.unwrap_or_default() }
        } else {
            let base = self.base.ok_or("says neither ldapprefix or ldapsuffix (simple bind) nor ldapbasedn (search and bind)")?;
            let attribute = self.attribute.as_deref().unwrap_or(DEFAULT_ATTRIBUTE);
            let filter = self.filter.unwrap_or_else(|| format!("({attribute}={USER})"));
            let filter = if filter.starts_with('(') { filter } else { format!("({filter})") };
            let bind = match (self.bind_dn, self.bind_password) {
                (Some(dn), password) => Some((dn, password.unwrap_or_else(|| Secret::new("")))),
                (None, Some(_)) => return Err("ldapbindpasswd without ldapbinddn".to_owned()),
                (None, None) => None,
            };
            Way::Search { base, scope: self.scope.unwrap_or(Scope::Subtree), bind, filter }
        };
        Ok(Ldap { servers, start_tls: self.tls, way })
    }
}

fn servers(hosts: Option<&str>, scheme: &str, port: Option<u16>) -> Result<Vec<String>, String> {
    let port = port.unwrap_or(if scheme == "ldaps" { 636 } else { 389 });
    let hosts: Vec<&str> = hosts.unwrap_or_default().split_whitespace().collect();
    if hosts.is_empty() {
        return Err("ldapserver is missing".to_owned());
    }
    if hosts.iter().any(|host| host.contains(['/', '@', '?', '#'])) {
        return Err("ldapserver is a list of host names".to_owned());
    }
    let own_port = |host: &str| host.rsplit_once(':').is_some_and(|(name, _)| !name.contains(':') || name.ends_with(']'));
    Ok(hosts.iter().map(|host| if own_port(host) { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") }).collect())
}

fn scheme(given: &str) -> Result<&str, String> {
    match given {
        "ldap" | "ldaps" => Ok(given),
        _ => Err("the scheme is ldap or ldaps".to_owned()),
    }
}

fn decoded(part: &str) -> Result<String, String> {
    percent_decode_str(part).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| "ldapurl is not UTF-8".to_owned())
}

/// The beginning of what may hold a secret.
fn first_word(text: &str) -> String {
    text.chars().take_while(|char| char.is_ascii_alphanumeric()).take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simple_bind() {
        let ldap = parse("ldapserver=ldap.example.net ldapprefix=\"cn=\" ldapsuffix=\", dc=example, dc=net\"").unwrap();
        assert_eq!(ldap.servers, ["ldap://ldap.example.net:389"]);
        assert_eq!(ldap.entry("bob").as_deref(), Some("cn=bob, dc=example, dc=net"));
        assert!(!ldap.start_tls);
    }

    #[test]
    fn search_and_bind() {
        let text = "ldapserver=\"one two:1389\" ldapport=3890 ldaptls=1 ldapbasedn=dc=example,dc=net ldapbinddn=\"cn=reader\" \
                    ldapbindpasswd=hunter2 ldapsearchattribute=mail";
        let ldap = parse(text).unwrap();
        assert_eq!(ldap.servers, ["ldap://one:3890", "ldap://two:1389"]);
        assert!(ldap.start_tls && ldap.entry("bob").is_none());
        let Way::Search { base, scope, bind, filter } = &ldap.way else { panic!("{ldap:?}") };
        assert_eq!((base.as_str(), *scope, filter.as_str()), ("dc=example,dc=net", Scope::Subtree, "(mail=$username)"));
        assert_eq!(bind.as_ref().map(|(dn, secret)| (dn.as_str(), secret.reveal())), Some(("cn=reader", "hunter2")));
        assert!(!format!("{ldap:?}").contains("hunter2"));
    }

    #[test]
    fn a_url_says_all_in_one() {
        let ldap = parse("ldapurl=\"ldaps://ldap.example.net:1636/dc=example,dc=net?uid?one?(objectClass=person)\"").unwrap_err();
        assert!(ldap.contains("keep one"), "{ldap}");
        let ldap = parse("ldapurl=ldaps://ldap.example.net/dc=example,dc=net?uid?one").unwrap();
        assert_eq!(ldap.servers, ["ldaps://ldap.example.net:636"]);
        assert!(matches!(&ldap.way, Way::Search { scope: Scope::One, filter, .. } if filter == "(uid=$username)"));
        let ldap = parse("ldapurl=ldap://[::1]:390/dc=x%20y???(&(a=b)(cn=$username))").unwrap();
        assert_eq!(ldap.servers, ["ldap://[::1]:390"]);
        assert!(matches!(&ldap.way, Way::Search { base, filter, .. } if base == "dc=x y" && filter == "(&(a=b)(cn=$username))"));
    }

    #[test]
    fn names_are_escaped_in_filters() {
        assert_eq!(Way::filter_for("(uid=$username)", "bob"), "(uid=bob)");
        assert_eq!(Way::filter_for("(uid=$username)", "*)(uid=a\\"), "(uid=\\2a\\29\\28uid=a\\5c)");
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        for bad in [
            "",
            "ldapserver=x",
            "ldapprefix=cn=",
            "ldapserver=x ldapprefix=a ldapbasedn=b",
            "ldapserver=x ldapbasedn=b ldapport=0",
            "ldapserver=x ldapbasedn=b ldaptls=yes",
            "ldapserver=x ldapbasedn=b ldapscheme=http",
            "ldapserver=x ldapbasedn=b ldapscheme=ldaps ldaptls=1",
            "ldapserver=x ldapbasedn=b ldapbindpasswd=hunter2",
            "ldapserver=x ldapbasedn=b nonsense=hunter2",
            "ldapserver=a/b ldapbasedn=b",
            "ldapurl=ldap:x",
            "ldapurl=ldap://x/b?a?deep",
            "ldapurl=ldap://x/b?a?sub??more",
            "ldapserver=\"x",
        ] {
            let message = parse(bad).expect_err(bad);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
