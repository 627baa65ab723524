//! PgBouncer's command line: short flags in one word, long ones with `=` or a space and by any beginning that is one flag's alone, in any order.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Serve, as said.
    Serve(Flags),
    /// `-V`
    Version,
    /// `-h`
    Help,
    /// Not understood: what to say.
    Wrong(String),
}

/// How to serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// The configuration.
    pub file: PathBuf,
    /// `-d`: in the background.
    pub daemon: bool,
    /// `-q`: nothing to standard error.
    pub quiet: bool,
    /// `-R`: take the sockets of the process that runs.
    pub reboot: bool,
    /// `-v`, so many times.
    pub verbose: u32,
    /// `-u`: who to become.
    pub user: Option<String>,
}

const LONG: &[(&str, char)] =
    &[("daemon", 'd'), ("help", 'h'), ("quiet", 'q'), ("reboot", 'R'), ("user", 'u'), ("verbose", 'v'), ("version", 'V')];

/// The words that are commands of sidepool's own command line.
const COMMANDS: &[&str] = &["check", "doctor", "healthcheck", "help", "migrate", "settings", "wait"];

/// Whether this command line is one for PgBouncer: by the program's name, or because it names an `.ini` file.
#[must_use]
pub fn wanted(program: &str, words: &[OsString]) -> bool {
    if base(program) == "pgbouncer" {
        return true;
    }
    let is_command = words.first().and_then(|word| word.to_str()).is_some_and(|word| COMMANDS.contains(&word));
    let named = words.iter().enumerate().any(|(at, word)| {
        let is_ini = word.to_str().is_some_and(|word| word.ends_with(".ini") && !word.starts_with('-'));
        // After one of these the file is for the other command line, which knows such files as well.
        is_ini && !at.checked_sub(1).and_then(|before| words[before].to_str()).is_some_and(|word| word == "--config" || word == "-c")
    });
    named && !is_command
}

/// Reads the command line behind the program's name.
#[must_use]
pub fn parse(program: &str, words: &[OsString]) -> Asked {
    let mut flags = Flags::default();
    let mut files: Vec<OsString> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--" {
            files.extend(words.by_ref().cloned());
        } else if let Some(long) = text.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value.to_owned())));
            let Some(flag) = long_flag(name) else { return wrong(program, &format!("unrecognized option '--{name}'")) };
            if value.is_some() && flag != 'u' {
                return wrong(program, &format!("option '--{name}' doesn't allow an argument"));
            }
            let mut next = || value.clone().or_else(|| words.next().map(|word| word.to_string_lossy().into_owned()));
            match flags.take(flag, &mut next) {
                Ok(None) => {}
                Ok(Some(asked)) => return asked,
                Err(Unfit) => return wrong(program, &format!("option '--{name}' requires an argument")),
            }
        } else if let Some(short) = text.strip_prefix('-').filter(|short| !short.is_empty()) {
            let mut rest = short;
            while let Some(flag) = rest.chars().next() {
                rest = &rest[flag.len_utf8()..];
                if !LONG.iter().any(|(_, known)| *known == flag) {
                    return wrong(program, &format!("invalid option -- '{flag}'"));
                }
                let attached = rest;
                if flag == 'u' {
                    rest = "";
                }
                let mut next = || match attached {
                    "" => words.next().map(|word| word.to_string_lossy().into_owned()),
                    value => Some(value.to_owned()),
                };
                match flags.take(flag, &mut next) {
                    Ok(None) => {}
                    Ok(Some(asked)) => return asked,
                    Err(Unfit) => return wrong(program, &format!("option requires an argument -- '{flag}'")),
                }
            }
        } else {
            files.push(word.clone());
        }
    }
    match <[OsString; 1]>::try_from(files) {
        Ok([file]) => Asked::Serve(Flags { file: file.into(), ..flags }),
        Err(files) if files.is_empty() => wrong(program, "no configuration file specified"),
        Err(_) => wrong(program, "more than one configuration file specified"),
    }
}

/// The value of a flag is missing.
struct Unfit;

impl Flags {
    fn take(&mut self, flag: char, value: &mut dyn FnMut() -> Option<String>) -> Result<Option<Asked>, Unfit> {
        match flag {
            'd' => self.daemon = true,
            'q' => self.quiet = true,
            'R' => self.reboot = true,
            'v' => self.verbose = self.verbose.saturating_add(1),
            'u' => self.user = Some(value().ok_or(Unfit)?),
            'V' => return Ok(Some(Asked::Version)),
            _ => return Ok(Some(Asked::Help)),
        }
        Ok(None)
    }
}

/// The flag of this name, or of a name that begins so if there is only one.
fn long_flag(name: &str) -> Option<char> {
    if let Some((_, flag)) = LONG.iter().find(|(long, _)| *long == name) {
        return Some(*flag);
    }
    let mut found = LONG.iter().filter(|(long, _)| !name.is_empty() && long.starts_with(name));
    match (found.next(), found.next()) {
        (Some((_, flag)), None) => Some(*flag),
        (_, _) => None,
    }
}

fn wrong(program: &str, what: &str) -> Asked {
    Asked::Wrong(format!("{program}: {what}\nTry \"{program} --help\" for more information."))
}

/// What `-h` says.
#[must_use]
pub fn help(program: &str) -> String {
    format!(
        "{program} is a connection pooler for PostgreSQL (sidepool in the place of PgBouncer).\n\n\
         Usage:\n  {program} [OPTION]... CONFIG_FILE\n\n\
         Options:\n  \
         -d, --daemon         run in background (as a daemon)\n  \
         -q, --quiet          run quietly\n  \
         -R, --reboot         do an online reboot\n  \
         -u, --user=USERNAME  assume identity of USERNAME\n  \
         -v, --verbose        increase verbosity\n  \
         -V, --version        show version, then exit\n  \
         -h, --help           show this help, then exit\n"
    )
}

/// The last part of the program's path.
fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn flags(text: &str) -> Flags {
        match parse("pgbouncer", &words(text)) {
            Asked::Serve(flags) => flags,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn flags_come_in_any_order_and_form() {
        let file = || PathBuf::from("p.ini");
        assert_eq!(flags("p.ini"), Flags { file: file(), ..Flags::default() });
        assert_eq!(flags("p.ini -qd -vv"), Flags { file: file(), quiet: true, daemon: true, verbose: 2, ..Flags::default() });
        assert_eq!(
            flags("--quiet --reboot --verb p.ini"),
            Flags { file: file(), quiet: true, reboot: true, verbose: 1, ..Flags::default() }
        );
        for form in ["-u bob p.ini", "-ubob p.ini", "-qubob p.ini", "p.ini --user bob", "--user=bob -- p.ini", "--us=bob p.ini"] {
            assert_eq!(flags(form).user.as_deref(), Some("bob"), "{form}");
        }
        assert_eq!(parse("p", &words("-qV nothing else")), Asked::Version);
        assert_eq!(parse("p", &words("--help")), Asked::Help);
    }

    #[test]
    fn what_is_wrong_has_a_hint() {
        let table = [
            ("", "no configuration file specified"),
            ("a b", "more than one"),
            ("-x a", "invalid option -- 'x'"),
            ("--what a", "unrecognized option '--what'"),
            ("--ver a", "unrecognized option '--ver'"),
            ("a -u", "option requires an argument -- 'u'"),
            ("a --user", "option '--user' requires an argument"),
            ("--quiet=1 a", "doesn't allow an argument"),
        ];
        for (text, expected) in table {
            let Asked::Wrong(said) = parse("pgbouncer", &words(text)) else { panic!("{text}") };
            assert!(said.contains(expected) && said.ends_with("Try \"pgbouncer --help\" for more information."), "{said}");
        }
    }

    #[test]
    fn an_ini_file_or_the_name_make_it_pgbouncer() {
        for (program, text) in
            [("/usr/sbin/pgbouncer", ""), ("pgbouncer", "x.toml"), ("sidepool", "-q /etc/p.ini"), ("sidepool", "-R p.ini")]
        {
            assert!(wanted(program, &words(text)), "{program} {text}");
        }
        for text in ["", "sidepool.toml", "check p.ini", "migrate p.ini", "--config p.ini", "-c p.ini"] {
            assert!(!wanted("/usr/bin/sidepool", &words(text)), "{text}");
        }
    }
}
