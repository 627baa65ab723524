//! `sidepool migrate`: a `pgbouncer.ini` said as `sidepool.toml`, with a comment for each thing that has no equal there.
//!
//! Users stay in the file that `auth_file` names. Passwords of `[databases]` are written as they were: into a file as secret as the one they
//! came from.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::document::{self, Document, Entry};
use super::draft::{Draft, draft, flag, list, number, quoted, text as said};
use super::value;
use crate::file::Rejected;
use crate::problem::Problem;
use crate::sources::Sources;

/// Settings of the process that `sidepool.toml` does not have, and what to do instead.
const LEFT_OUT: &[(&str, &str)] = &[
    ("job_name", "nothing has that name here"),
    ("logfile", "the log goes to standard error: let the service manager or a redirection put it into a file"),
    ("pidfile", "the service manager knows the process"),
    ("syslog", "the log goes to standard error: let the service manager hand it on"),
    ("syslog_facility", "see syslog"),
    ("syslog_ident", "see syslog"),
    ("user", "start it as that user"),
];

/// The file at `path`, said as `sidepool.toml`.
pub fn file(path: &Path) -> Result<String, Rejected> {
    let mut sources = Sources::default();
    let (document, problems) = document::read(path, &mut |path| {
        let bytes = sources.read(path)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
    });
    finish(document, problems, sources)
}

/// The text, as if it stood in the file `path`, said as `sidepool.toml`.
pub fn text(text: &str, path: &Path) -> Result<String, Rejected> {
    let reader = &mut |named: &Path| if named == path { Ok(text.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) };
    let (document, problems) = document::read(path, reader);
    finish(document, problems, Sources::default())
}

fn finish(mut document: Document, mut problems: Vec<Problem>, sources: Sources) -> Result<String, Rejected> {
    let mut notes = prepare(&mut document);
    let mut draft = draft(&document);
    problems.append(&mut draft.problems);
    if problems.iter().any(Problem::is_error) {
        return Err(Rejected { problems, sources });
    }
    notes.append(&mut draft.notes);
    notes.extend(left_out(&document));
    Ok(write(&document, &draft, &notes))
}

/// Makes the document sayable: files by their full names, because theirs are relative to where the program runs and ours to the file; databases
/// that nobody could use are left out.
fn prepare(document: &mut Document) -> Vec<String> {
    for (name, said) in &mut document.settings {
        if name.ends_with("_file")
            && !said.text.is_empty()
            && let Ok(full) = std::path::absolute(&said.text)
        {
            said.text = full.display().to_string();
        }
    }
    let mut notes = Vec::new();
    if said(document, "auth_type").eq_ignore_ascii_case("any") {
        let has_user = |entry: &Entry| entry.pairs.iter().any(|(key, _)| key == "user");
        document.databases.retain(|name, entry| {
            if !has_user(entry) {
                notes.push(format!("database {name} is left out: with auth_type any nobody can log in to one without a user of its own"));
            }
            has_user(entry)
        });
    }
    if document.databases.is_empty() {
        notes.push(
            "no databases are left, and without any the file is refused: add a section [postgres.databases.NAME] with a host".to_owned(),
        );
    }
    notes
}

fn left_out(document: &Document) -> impl Iterator<Item = String> {
    let is_said = |name: &str| document.settings.get(name).is_some_and(|said| !said.text.is_empty());
    LEFT_OUT.iter().filter(move |(name, _)| is_said(name)).map(|(name, why)| format!("{name} has no equal: {why}"))
}

fn write(document: &Document, draft: &Draft, notes: &[String]) -> String {
    let mut toml = format!("# Made of {} by \"sidepool migrate\".\n", one_line(&document.path.display().to_string()));
    toml.push_str(
        "# What sidepool does otherwise: SIGTERM lets clients finish within [drain] timeout instead of waiting for them for ever.\n",
    );
    for note in notes {
        let _ = writeln!(toml, "# {}", one_line(note));
    }
    let workers = said(document, "workers");
    if workers != "auto" {
        let _ = writeln!(toml, "\nworkers = {workers}");
    }
    let backend = said(document, "io_backend").to_ascii_lowercase();
    if backend != "epoll" {
        let _ = writeln!(toml, "\nio_backend = {}", quoted(&backend));
    }
    admin(document, &mut toml);
    log(document, &mut toml);
    for line in draft.lines.iter().filter(|line| !line.is_default) {
        if line.text.starts_with('[') {
            toml.push('\n');
        }
        let _ = writeln!(toml, "{}", line.text);
        if line.text == "[postgres]" {
            listen(document, &mut toml);
        }
    }
    toml
}

fn admin(document: &Document, toml: &mut String) {
    toml.push_str("\n[admin]\n");
    match said(document, "metrics_listen") {
        "" => toml.push_str("# PgBouncer has no metrics; leave this out for http://127.0.0.1:9127/metrics.\nlisten = \"off\"\n"),
        address => {
            let _ = writeln!(toml, "listen = {}", quoted(address));
        }
    }
    let names = said(document, "metrics_names").to_ascii_lowercase();
    if names != "sidepool" {
        let _ = writeln!(toml, "metrics_names = {}", quoted(&names));
    }
    if said(document, "metrics_max_pools") != "200" {
        let _ = writeln!(toml, "metrics_max_pools = {}", said(document, "metrics_max_pools"));
    }
    let hosts = value::list(said(document, "metrics_allowed_hosts"));
    if !hosts.is_empty() {
        let _ = writeln!(toml, "allowed_hosts = {}", list(&hosts));
    }
}

fn log(document: &Document, toml: &mut String) {
    toml.push_str("\n[log]\n");
    let level = match number(document, "verbose").unwrap_or(0) {
        ..=0 => "info",
        1 => "debug",
        2.. => "trace",
    };
    let _ = writeln!(toml, "level = \"{level}\"");
    for name in ["connections", "disconnections", "pooler_errors", "stats"] {
        let _ = writeln!(toml, "{name} = {}", flag(document, &format!("log_{name}")));
    }
}

/// The listeners and the users' file, with which `[postgres]` begins.
fn listen(document: &Document, toml: &mut String) {
    let port = said(document, "listen_port");
    let port = value::int(port).unwrap_or_default();
    let mut listens = Vec::new();
    for host in value::list(said(document, "listen_addr")) {
        match host.as_str() {
            "*" => listens.extend([format!("*:{port}"), format!("[::]:{port}")]),
            host if host.contains(':') && !host.starts_with('[') => listens.push(format!("[{host}]:{port}")),
            host => listens.push(format!("{host}:{port}")),
        }
    }
    match said(document, "unix_socket_dir") {
        "" => {}
        directory if directory.starts_with('/') => listens.push(format!("unix:{}/.s.PGSQL.{port}", directory.trim_end_matches('/'))),
        directory => {
            let _ = writeln!(toml, "# unix_socket_dir has no equal: {} is no absolute path", one_line(directory));
        }
    }
    listens.dedup();
    let listens: Vec<String> = listens.iter().map(|listen| quoted(listen)).collect();
    let _ = writeln!(toml, "listen = [{}]", listens.join(", "));
    let users = said(document, "auth_file");
    if !users.is_empty() {
        let _ = writeln!(toml, "auth_file = {}", quoted(users));
    }
}

/// Nothing of others may end a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file as toml;
    use crate::model::Config;
    use crate::pgbouncer::load_text;

    fn migrated(ini: &str) -> String {
        text(ini, Path::new("p.ini")).unwrap_or_else(|rejected| panic!("{rejected}"))
    }

    fn read(text: &str) -> Config {
        toml::load_text(text, Path::new("/etc/s.toml"), &|_| None).unwrap_or_else(|rejected| panic!("{rejected}\n{text}")).config
    }

    const INI: &str = "[databases]\na = host=db,db2 port=5433 user=u password='p \"w' pool_size=3\nb = dbname=x\n* = host=10.0.0.1\n\
        [users]\nalice = pool_mode=transaction\n[peers]\n2 = host=h\n\
        [pgbouncer]\nlisten_addr = 127.0.0.1, ::1\nunix_socket_dir = /run/x\nquery_wait_timeout = 30\nverbose = 1\nserver_login_retry = 0.05\n";

    #[test]
    fn it_means_the_same() {
        let ini = INI.replace("db,db2", "db");
        let (before, mut after) = (load_text(&ini, Path::new("p.ini")).unwrap().config, read(&migrated(&ini)));
        // What only the process of an ini file has.
        after.pgbouncer.clone_from(&before.pgbouncer);
        assert_eq!(before, after);
    }

    #[test]
    fn what_holds_anyway_is_not_said() {
        let text = migrated(INI);
        for absent in ["server_reset_query", "tcp_keepalive", "server_lifetime", "max_db_connections"] {
            assert!(!text.contains(absent), "{absent}\n{text}");
        }
        for present in ["pool_mode = \"session\"", "max_client_conn = 100", "query_wait_timeout = \"30s\"", "auth_type = \"md5\""] {
            assert!(text.contains(present), "{present}\n{text}");
        }
    }

    #[test]
    fn what_has_no_equal_is_a_comment() {
        let ini = "[databases]\nx = password=hunter2\ny = user=u\n[pgbouncer]\nauth_type = any\npidfile = /p\nlogfile = l\npkt_buf = 1\nunix_socket_dir = @a\n\
                   listen_addr = *\nauth_hba_file = hba\n";
        let text = text(ini, Path::new("p\n.ini")).unwrap();
        for comment in [
            "# database x is left out: with auth_type any",
            "# pidfile has no equal: ",
            "# logfile has no equal: ",
            "# pkt_buf changes nothing: ",
            "# unix_socket_dir has no equal: @a",
            "# Made of p .ini by",
        ] {
            assert!(text.contains(comment), "{comment}\n{text}");
        }
        assert!(!text.contains("hunter2"));
        let hba = std::path::absolute("hba").unwrap().display().to_string();
        assert!(text.contains(&format!("auth_hba_file = \"{hba}\"")), "{text}");
        let listens = read(&text.replace(&format!("auth_hba_file = \"{hba}\""), "")).postgres.unwrap().listen;
        assert_eq!(listens.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0:6432", "[::]:6432"]);
    }

    #[test]
    fn that_there_are_no_databases_is_a_comment() {
        let comment = "# no databases are left, and without any the file is refused";
        assert!(migrated("[pgbouncer]\n").contains(comment) && !migrated(INI).contains(comment));
    }

    #[test]
    fn what_cannot_be_used_is_not_migrated() {
        let rejected = text("[pgbouncer]\npool_mode = x\n", Path::new("p.ini")).unwrap_err();
        assert!(rejected.to_string().starts_with("p.ini:2: invalid value"));
    }
}
