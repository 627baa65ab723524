//! Reads `auth_hba_file`: lines into rules, with what is wrong by line.
//!
//! Source: PgBouncer's documentation, "HBA file format", and PostgreSQL's of `pg_hba.conf`. What PostgreSQL has beyond PgBouncer is taken
//! where it is clear without a server: `hostnogssenc` is every TCP connection here, `hostgssenc` none.

use super::address::Address;
use super::hba::{Databases, Kind, Method, Names, PAM_SERVICE, Rule, Rules};
use super::ldap::Ldap;
use super::words::{self, Fault, Field, Word};

/// Most names that one column may come to, files included.
const MOST_NAMES: usize = 100_000;

/// How deep files may name files.
const DEEPEST: u32 = 4;

/// Reads a file that another one names with `@`.
pub(super) type Include<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

/// Reads the rules, and what is wrong. `include` reads the files that are named with `@`.
///
/// The rules are safe to use even with faults: a line of which only the method cannot be read refuses what it matches.
pub fn parse(text: &str, include: &mut dyn FnMut(&str) -> Result<String, String>) -> (Rules, Vec<Fault>) {
    let (mut rules, mut faults) = (Vec::new(), Vec::new());
    for (line, fields) in words::lines(text) {
        let scope = fields.map_err(str::to_owned).and_then(|fields| scope(&fields, include));
        let (scope, rest) = match scope {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(message) => {
                faults.push(Fault::new(line, message));
                continue;
            }
        };
        let method = method(scope.kind, &rest).unwrap_or_else(|message| {
            faults.push(Fault { refuses: true, ..Fault::new(line, message) });
            Method::Reject
        });
        let Scope { kind, databases, users, addresses } = scope;
        rules.push(Rule { line, kind, databases, users, addresses, method });
    }
    (Rules(rules), faults)
}

/// What a line is for.
struct Scope {
    kind: Kind,
    databases: Databases,
    users: Names,
    addresses: Address,
}

/// What a line is for, and its columns from the method on; `None` when it is for nothing that we ever see.
fn scope(fields: &[Field], include: Include<'_>) -> Result<Option<(Scope, Vec<Field>)>, String> {
    let [kind, databases, users, rest @ ..] = fields else {
        return Err("too short: expected TYPE DATABASE USER [ADDRESS] METHOD".to_owned());
    };
    let kind = match single(kind)?.text.as_str() {
        "local" => Kind::Local,
        "host" | "hostnogssenc" => Kind::Host,
        "hostssl" => Kind::HostTls,
        "hostnossl" => Kind::HostPlain,
        "hostgssenc" => return Ok(None),
        other => return Err(format!("unknown type \"{other}\": expected local, host, hostssl or hostnossl")),
    };
    let databases = read_databases(databases, include)?;
    let users = read_users(users, include)?;
    let (addresses, rest) = match kind {
        Kind::Local => (Address::All, rest),
        Kind::Host | Kind::HostTls | Kind::HostPlain => addresses(rest)?,
    };
    Ok(Some((Scope { kind, databases, users, addresses }, rest.to_vec())))
}

fn addresses(fields: &[Field]) -> Result<(Address, &[Field]), String> {
    let [first, rest @ ..] = fields else { return Err("the address is missing".to_owned()) };
    let word = single(first)?;
    if word.is("all") {
        return Ok((Address::All, rest));
    }
    if word.is("samehost") || word.is("samenet") {
        return Err(format!("\"{}\" is not supported: write the addresses", word.text));
    }
    if let Some(network) = Address::with_bits(&word.text) {
        return Ok((network?, rest));
    }
    if word.text.parse::<std::net::IpAddr>().is_err() {
        return Err(format!(
            "\"{}\" is not an address: expected ADDRESS/BITS, ADDRESS and MASK, or all; names of hosts are not supported",
            word.text
        ));
    }
    let [mask, rest @ ..] = rest else { return Err("the address needs a mask: write ADDRESS/BITS".to_owned()) };
    Ok((Address::with_mask(&word.text, &single(mask)?.text)?, rest))
}

fn read_databases(field: &Field, include: Include<'_>) -> Result<Databases, String> {
    let mut databases = Databases::default();
    let (mut all, mut names) = (false, Vec::new());
    for word in expanded(field, include)? {
        if word.is("all") {
            all = true;
        } else if word.is("sameuser") {
            databases.same_user = true;
        } else if word.is("replication") {
            databases.replication = true;
        } else if word.is("samerole") || word.is("samegroup") {
            return Err(format!("\"{}\" is not supported: who has which role only the server knows", word.text));
        } else {
            names.push(name(word)?);
        }
    }
    databases.names = Names::new(all, names);
    Ok(databases)
}

fn read_users(field: &Field, include: Include<'_>) -> Result<Names, String> {
    let (mut all, mut names) = (false, Vec::new());
    for word in expanded(field, include)? {
        if word.is("all") {
            all = true;
        } else if !word.quoted && word.text.starts_with('+') {
            return Err(format!("\"{}\" is not supported: who has which role only the server knows", word.text));
        } else {
            names.push(name(word)?);
        }
    }
    Ok(Names::new(all, names))
}

fn name(word: Word) -> Result<String, String> {
    if !word.quoted && word.text.starts_with('/') {
        return Err("regular expressions are not supported".to_owned());
    }
    if word.text.is_empty() { Err("an empty name".to_owned()) } else { Ok(word.text) }
}

/// The words of a field, with those of the files that it names in their place.
fn expanded(field: &Field, include: Include<'_>) -> Result<Vec<Word>, String> {
    let mut found = Vec::new();
    let mut open: Vec<(u32, Word)> = field.iter().rev().map(|word| (0, word.clone())).collect();
    while let Some((depth, word)) = open.pop() {
        let Some(file) = word.file() else {
            found.push(word);
            if found.len() > MOST_NAMES {
                return Err(format!("more than {MOST_NAMES} names"));
            }
            continue;
        };
        if depth >= DEEPEST {
            return Err(format!("\"@{file}\" is named by a file that is named by a file, and so on: at most {DEEPEST} deep"));
        }
        let words = words::all_words(&include(file)?).map_err(|message| format!("\"@{file}\": {message}"))?;
        if open.len() + words.len() > MOST_NAMES {
            return Err(format!("more than {MOST_NAMES} names"));
        }
        open.extend(words.into_iter().rev().map(|word| (depth + 1, word)));
    }
    Ok(found)
}

/// The method and its options.
fn method(kind: Kind, fields: &[Field]) -> Result<Method, String> {
    let [name, options @ ..] = fields else { return Err("the method is missing".to_owned()) };
    let name = single(name)?.text;
    let plain = |method: Method| match options {
        [] => Ok(method),
        _ => Err(format!("method \"{name}\" has no options here")),
    };
    match name.as_str() {
        "trust" => plain(Method::Trust),
        "reject" => plain(Method::Reject),
        "md5" => plain(Method::Md5),
        "password" => plain(Method::Password),
        "scram-sha-256" => plain(Method::ScramSha256),
        "peer" if kind == Kind::Local => Ok(Method::Peer(map(options)?)),
        "peer" => Err("method \"peer\" works over Unix sockets alone: it belongs in a \"local\" line".to_owned()),
        "cert" if kind == Kind::HostTls => Ok(Method::Cert(map(options)?)),
        "cert" => Err("method \"cert\" needs TLS: it belongs in a \"hostssl\" line".to_owned()),
        "ldap" => Ok(Method::Ldap(Box::new(Ldap::read(options)?))),
        "pam" => Ok(Method::Pam(pam_service(options)?)),
        other => Err(format!("unknown method \"{other}\": expected trust, reject, md5, password, scram-sha-256, peer, cert, ldap or pam")),
    }
}

/// The service that PAM is asked for: the options are PostgreSQL's.
fn pam_service(options: &[Field]) -> Result<Box<str>, String> {
    let mut service = PAM_SERVICE;
    let words = options.iter().map(single).collect::<Result<Vec<_>, _>>()?;
    for word in &words {
        match word.text.split_once('=') {
            Some(("pamservice", name)) if !name.is_empty() && !name.contains('/') => service = name,
            Some(("pam_use_hostname", "0")) => {}
            Some(("pam_use_hostname", _)) => return Err("pam_use_hostname is not supported: PAM is told the client's address".to_owned()),
            Some(_) | None => return Err("the only option here is pamservice=NAME".to_owned()),
        }
    }
    Ok(service.into())
}

fn map(options: &[Field]) -> Result<Option<String>, String> {
    match options {
        [] => Ok(None),
        [option] => match single(option)?.text.split_once('=') {
            Some(("map", map)) if !map.is_empty() => Ok(Some(map.to_owned())),
            Some(_) | None => Err("the only option here is map=NAME".to_owned()),
        },
        _ => Err("the only option here is map=NAME".to_owned()),
    }
}

fn single(field: &Field) -> Result<Word, String> {
    match field.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err("a list where one word is expected".to_owned()),
    }
}
