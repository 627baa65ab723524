//! `HELLO`, `AUTH`, `SELECT` and client names as data: what a client asked for, or the line that Redis refuses it with.
//!
//! The other direction too: what a login to a server says. Whose password is right is not decided here.

use super::encode::{self, Resp};
use super::request::parse_integer;

/// `-NOAUTH` for anything but `HELLO`.
pub const NOAUTH: &str = "NOAUTH Authentication required.";
/// `-NOAUTH` for `HELLO` without `AUTH`.
pub const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
/// For a wrong user or password, whichever it is.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// For a database number beyond the server's last.
pub const DB_OUT_OF_RANGE: &str = "ERR DB index is out of range";
/// For a client name that would break the lines of `CLIENT LIST`.
pub const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// What `HELLO` asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version to speak from now on; `None`: as before.
    pub version: Option<Resp>,
    /// User and password.
    pub auth: Option<Credentials>,
    /// The client's name.
    pub name: Option<Vec<u8>>,
}

/// A user name and the password that came with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user; `default` when the client named none.
    pub user: Vec<u8>,
    /// The password.
    pub password: zeroize::Zeroizing<Vec<u8>>,
    /// Whether the client named the user.
    pub named: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &String::from_utf8_lossy(&self.user)).finish_non_exhaustive()
    }
}

impl Credentials {
    fn new(user: &[u8], password: &[u8]) -> Self {
        Self { user: user.to_vec(), password: zeroize::Zeroizing::new(password.to_vec()), named: true }
    }
}

/// Reads `HELLO`; `arguments` begin with the name of the command. The error is a whole line without its `-`.
pub fn hello(arguments: &[&[u8]]) -> Result<Hello, String> {
    let mut asked = Hello { version: None, auth: None, name: None };
    let Some(version) = arguments.get(1) else { return Ok(asked) };
    asked.version = match parse_integer(version) {
        None => return Err("ERR Protocol version is not an integer or out of range".to_owned()),
        Some(2) => Some(Resp::Two),
        Some(3) => Some(Resp::Three),
        Some(_other) => return Err("NOPROTO unsupported protocol version".to_owned()),
    };
    let mut rest = &arguments[2..];
    while let [option, tail @ ..] = rest {
        rest = match tail {
            [user, password, more @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                asked.auth = Some(Credentials::new(user, password));
                more
            }
            [name, more @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                check_name(name)?;
                asked.name = Some(name.to_vec());
                more
            }
            _otherwise => return Err(format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option))),
        };
    }
    Ok(asked)
}

/// Reads `AUTH`.
pub fn auth(arguments: &[&[u8]]) -> Result<Credentials, String> {
    match arguments {
        [_, password] => Ok(Credentials { named: false, ..Credentials::new(b"default", password) }),
        [_, user, password] => Ok(Credentials::new(user, password)),
        [] | [_] => Err(wrong_arity("auth")),
        _too_many => Err("ERR syntax error".to_owned()),
    }
}

/// Reads `SELECT`.
pub fn select(arguments: &[&[u8]]) -> Result<u32, String> {
    let [_, index] = arguments else { return Err(wrong_arity("select")) };
    let Some(index) = parse_integer(index) else { return Err("ERR value is not an integer or out of range".to_owned()) };
    let Ok(index) = i32::try_from(index) else {
        return Err("ERR value is out of range, value must between -2147483648 and 2147483647".to_owned());
    };
    u32::try_from(index).map_err(|_negative| DB_OUT_OF_RANGE.to_owned())
}

/// Whether this can be a client's name.
pub fn check_name(name: &[u8]) -> Result<(), String> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) { Ok(()) } else { Err(BAD_NAME.to_owned()) }
}

/// The line for a wrong number of arguments. `name` in lower case; sub-commands as `container|name`.
#[must_use]
pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// What a login to a server says, and how many replies it is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The bytes, one write.
    pub bytes: Vec<u8>,
    /// What each reply answers, in order.
    pub steps: Vec<LoginStep>,
}

/// One step of a login to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginStep {
    /// `RESET`.
    Reset,
    /// `AUTH`.
    Auth,
    /// `HELLO 3`, with the credentials where there are any.
    Hello3,
    /// `HELLO` without a version, for what it tells; a server that does not know it is too old for RESP3 and still of use.
    Ask,
    /// `SELECT`.
    Select,
    /// `CLIENT NO-EVICT` or `CLIENT NO-TOUCH`.
    Habit,
}

/// What the server is to do otherwise for a connection than for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Habits {
    /// `CLIENT NO-EVICT ON`: the connection is not closed for its memory.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH ON`: its commands do not make keys look used.
    pub no_touch: bool,
}

impl Habits {
    /// Those that are on, as `CLIENT` calls them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [(self.no_evict, "NO-EVICT"), (self.no_touch, "NO-TOUCH")].into_iter().filter(|(on, _)| *on).map(|(_, name)| name)
    }
}

/// When a login selects its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selects {
    /// Once it is authenticated.
    Last,
    /// Before that, as somebody who need not authenticate: the user itself may have no right to.
    First,
}

/// Composes a login. `reset`: the connection was used before.
#[must_use]
pub fn login(version: Resp, credentials: Option<(&str, &str)>, database: u32, selects: Selects, habits: Habits, reset: bool) -> Login {
    let mut login = Login { bytes: Vec::with_capacity(160), steps: Vec::with_capacity(4) };
    let bytes = &mut login.bytes;
    if reset {
        encode::command(bytes, &[b"RESET"]);
        login.steps.push(LoginStep::Reset);
    }
    if selects == Selects::First {
        select_database(bytes, &mut login.steps, database);
    }
    match (version, credentials) {
        (Resp::Three, Some((user, password))) => {
            encode::command(bytes, &[b"HELLO", b"3", b"AUTH", user.as_bytes(), password.as_bytes()]);
            login.steps.push(LoginStep::Hello3);
        }
        (Resp::Three, None) => {
            encode::command(bytes, &[b"HELLO", b"3"]);
            login.steps.push(LoginStep::Hello3);
        }
        (Resp::Two, credentials) => {
            if let Some((user, password)) = credentials {
                authenticate(bytes, user, password);
                login.steps.push(LoginStep::Auth);
            }
            encode::command(bytes, &[b"HELLO"]);
            login.steps.push(LoginStep::Ask);
        }
    }
    if selects == Selects::Last {
        select_database(bytes, &mut login.steps, database);
    }
    for name in habits.names() {
        encode::command(bytes, &[b"CLIENT", name.as_bytes(), b"ON"]);
        login.steps.push(LoginStep::Habit);
    }
    login
}

/// Appends an `AUTH`. Servers before Redis 6 know only the form without a user.
pub fn authenticate(bytes: &mut Vec<u8>, user: &str, password: &str) {
    match user {
        "default" => encode::command(bytes, &[b"AUTH", password.as_bytes()]),
        named => encode::command(bytes, &[b"AUTH", named.as_bytes(), password.as_bytes()]),
    }
}

/// Every connection begins in database 0, and a server that is busy with a script takes a login but no `SELECT`.
fn select_database(bytes: &mut Vec<u8>, steps: &mut Vec<LoginStep>, database: u32) {
    if database != 0 {
        encode::command(bytes, &[b"SELECT", database.to_string().as_bytes()]);
        steps.push(LoginStep::Select);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn hello_takes_every_option_and_names_every_error() {
        assert_eq!(hello(&words("HELLO")), Ok(Hello { version: None, auth: None, name: None }));
        let full = hello(&words("hello 3 setname app AUTH u p")).unwrap();
        assert_eq!((full.version, full.name.as_deref()), (Some(Resp::Three), Some(&b"app"[..])));
        assert_eq!(full.auth, Some(Credentials::new(b"u", b"p")));
        for (text, line) in [
            ("HELLO x", "ERR Protocol version is not an integer or out of range"),
            ("HELLO 4", "NOPROTO unsupported protocol version"),
            ("HELLO 3 FOO", "ERR Syntax error in HELLO option 'FOO'"),
            ("HELLO 3 AUTH a", "ERR Syntax error in HELLO option 'AUTH'"),
            ("HELLO 3 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
        ] {
            assert_eq!(hello(&words(text)), Err(line.to_owned()), "{text}");
        }
        assert_eq!(hello(&[b"HELLO", b"3", b"SETNAME", b"a b"]), Err(BAD_NAME.to_owned()));
    }

    #[test]
    fn auth_and_select_fail_in_the_words_of_redis() {
        assert_eq!(auth(&words("AUTH")), Err("ERR wrong number of arguments for 'auth' command".to_owned()));
        assert_eq!(auth(&words("AUTH a b c")), Err("ERR syntax error".to_owned()));
        assert_eq!(auth(&words("AUTH pw")).unwrap().user, b"default");
        assert_eq!(select(&words("SELECT 7")), Ok(7));
        assert_eq!(select(&words("SELECT -1")), Err(DB_OUT_OF_RANGE.to_owned()));
        assert_eq!(select(&words("SELECT x")), Err("ERR value is not an integer or out of range".to_owned()));
        assert!(select(&words("SELECT 99999999999")).unwrap_err().starts_with("ERR value is out of range"));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert!(!format!("{:?}", auth(&words("AUTH hunter2")).unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_login_is_one_write() {
        let two = login(Resp::Two, Some(("default", "pw")), 3, Selects::Last, Habits::default(), false);
        assert_eq!(two.steps, [LoginStep::Auth, LoginStep::Ask, LoginStep::Select]);
        assert!(two.bytes.starts_with(b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"));
        let first = login(Resp::Two, Some(("default", "pw")), 3, Selects::First, Habits::default(), false);
        assert_eq!(first.steps, [LoginStep::Select, LoginStep::Auth, LoginStep::Ask]);
        let three = login(Resp::Three, Some(("u", "pw")), 0, Selects::Last, Habits { no_touch: true, ..Habits::default() }, true);
        assert_eq!(three.steps, [LoginStep::Reset, LoginStep::Hello3, LoginStep::Habit], "database 0 is where every connection begins");
    }
}
