//! What a command is to a proxy: where it may run, what it counts as, and whether it may be asked twice. Data is in `command_table`.

use super::command_table::COMMANDS;

/// One command or sub-command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// In lower case; a sub-command as `container|name`.
    pub name: &'static str,
    /// What sidepool does with it.
    pub handling: Handling,
    /// What it counts as in metrics.
    pub kind: Kind,
    /// Whether it may be asked again when its reply was lost.
    pub replay: Replay,
    /// Whether it can keep the server busy for long: it then goes down a connection of which nobody expects quick answers.
    pub heavy: bool,
    /// What it does to everybody, where that is more than to read and write some keys.
    pub gate: Option<Gate>,
}

impl Command {
    /// The same command behind a gate.
    pub(super) const fn gated(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Whether it is behind one of the `closed` gates.
    #[must_use]
    pub fn is_denied(&self, closed: Gates) -> bool {
        self.gate.is_some_and(|gate| closed.has(gate))
    }
}

/// What a command does to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Empties databases.
    Flush,
    /// Walks over all keys.
    Keys,
    /// Swaps databases under everybody.
    SwapDb,
    /// Changes settings or statistics.
    Config,
    /// Reads or changes who may do what.
    Acl,
    /// Writes the data to disk.
    Persistence,
    /// Halts all clients.
    Pause,
    /// Ends somebody's script.
    Kill,
    /// Removes scripts or functions.
    Scripts,
    /// Sees what everybody does.
    Monitor,
    /// Becomes or makes a replica.
    Replication,
    /// Changes a cluster, or moves keys.
    Topology,
    /// Ends the server.
    Shutdown,
    /// Looks or reaches inside the server.
    Debug,
    /// Loads or unloads code.
    Modules,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 15] = [
        Self::Flush,
        Self::Keys,
        Self::SwapDb,
        Self::Config,
        Self::Acl,
        Self::Persistence,
        Self::Pause,
        Self::Kill,
        Self::Scripts,
        Self::Monitor,
        Self::Replication,
        Self::Topology,
        Self::Shutdown,
        Self::Debug,
        Self::Modules,
    ];
}

/// Some gates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gates(u16);

impl Gates {
    /// With one more gate.
    #[must_use]
    pub fn with(self, gate: Gate) -> Self {
        Self(self.0 | 1 << gate as u16)
    }

    /// Whether `gate` is one of them.
    #[must_use]
    pub fn has(self, gate: Gate) -> bool {
        self.0 & 1 << gate as u16 != 0
    }
}

/// What sidepool does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handling {
    /// One reply, nothing left behind: goes down the connection that clients share.
    Share,
    /// As `Share`, unless a `BLOCK` option stands among the arguments; then as `Block`.
    ShareUnlessBlock,
    /// May wait on the server: a connection of its own until the reply.
    Block,
    /// A connection of its own until the reply, for any other reason.
    Lease,
    /// Must get through while the server is busy with a script: a connection of its own in database 0, which such a server still lets in.
    Control,
    /// Asks about this connection's own writes: a connection of its own, told first that writes have happened.
    Wait,
    /// Starts a transaction.
    Multi,
    /// Ends a transaction.
    Exec,
    /// Gives a transaction up.
    Discard,
    /// A connection of its own until `EXEC`, `DISCARD` or `UNWATCH`.
    Watch,
    /// Ends what `WATCH` began.
    Unwatch,
    /// A connection of its own until `RESET` or the end.
    Monitor,
    /// A connection of its own for as long as tracking is on.
    Tracking,
    /// Joins a channel, pattern or shard channel.
    Subscribe,
    /// Leaves one.
    Unsubscribe,
    /// `HELLO`.
    Hello,
    /// `AUTH`.
    Auth,
    /// `SELECT`.
    Select,
    /// `RESET`.
    Reset,
    /// `QUIT`.
    Quit,
    /// `CLIENT SETNAME`.
    SetName,
    /// `CLIENT GETNAME`.
    GetName,
    /// `CLIENT SETINFO`.
    SetInfo,
    /// `CLIENT ID`.
    ClientId,
    /// `CLIENT INFO`.
    ClientInfo,
    /// `CLIENT LIST`.
    ClientList,
    /// `CLIENT KILL`.
    ClientKill,
    /// `CLIENT UNBLOCK`.
    ClientUnblock,
    /// `CLIENT REPLY`.
    ReplyMode,
    /// `CLIENT NO-EVICT` and `CLIENT NO-TOUCH`: `ON` or `OFF`.
    Switch,
    /// `CLIENT CAPA`: accepted, of no effect through a proxy.
    Accept,
    /// `ACL WHOAMI`.
    WhoAmI,
    /// An `ACL` command that asks about one user by name.
    AboutUser,
    /// `CLIENT GETREDIR`.
    GetRedir,
    /// Takes the connection over: it gets one of its own, of which nothing is understood any more, to the end of the client.
    Takeover,
    /// Would take the connection over or change it for everybody: never sent.
    Refuse,
}

/// What a command counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Reads data.
    Read,
    /// Changes data.
    Write,
    /// May wait on the server.
    Blocking,
    /// Channels.
    PubSub,
    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    Transaction,
    /// Scripts and functions.
    Script,
    /// State of the connection itself.
    Connection,
    /// The server: configuration, inspection, persistence.
    Admin,
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = 8;
}

/// Whether a command may be asked again when its reply was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replay {
    /// It changes nothing.
    Safe,
    /// It may have been executed.
    Never,
}

/// The slots of the hash table: a power of two well above the number of commands.
const SLOTS: usize = 2048;
const EMPTY: u16 = u16::MAX;

static TABLE: [u16; SLOTS] = build_table();

/// The longest name in the table; nothing longer is looked up.
const NAME_MAX: usize = 40;

const fn hash_byte(hash: u32, byte: u8) -> u32 {
    (hash ^ (byte.to_ascii_lowercase() as u32)).wrapping_mul(0x0100_0193)
}

const HASH_START: u32 = 0x811c_9dc5;

const fn slot(hash: u32) -> usize {
    ((hash >> 15) ^ hash) as usize & (SLOTS - 1)
}

const fn build_table() -> [u16; SLOTS] {
    let mut table = [EMPTY; SLOTS];
    let mut index = 0;
    while index < COMMANDS.len() {
        let name = COMMANDS[index].name.as_bytes();
        assert!(name.len() <= NAME_MAX);
        let mut hash = HASH_START;
        let mut at = 0;
        while at < name.len() {
            hash = hash_byte(hash, name[at]);
            at += 1;
        }
        let mut place = slot(hash);
        while table[place] != EMPTY {
            place = (place + 1) % SLOTS;
        }
        table[place] = index as u16;
        index += 1;
    }
    table
}

/// How many rows the table has.
pub const COUNT: usize = COMMANDS.len();

/// The place of a row in the table.
#[must_use]
pub fn number(command: &'static Command) -> usize {
    (std::ptr::from_ref(command).addr() - COMMANDS.as_ptr().addr()) / size_of::<Command>()
}

/// Finds a command that has no sub-commands, or the container of one, by its name in any case. Allocates nothing.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    find(hash(HASH_START, name), |candidate| candidate.eq_ignore_ascii_case(name), name.len())
}

/// Finds `container`'s sub-command by its name in any case.
#[must_use]
pub fn lookup_sub(container: &Command, sub: &[u8]) -> Option<&'static Command> {
    let whole = container.name.len() + 1 + sub.len();
    let hash = hash(hash_byte(hash(HASH_START, container.name.as_bytes()), b'|'), sub);
    let same = |candidate: &[u8]| {
        candidate.starts_with(container.name.as_bytes()) && candidate[container.name.len() + 1..].eq_ignore_ascii_case(sub)
    };
    find(hash, same, whole)
}

/// Whether the second argument of this command says what it really is.
#[must_use]
pub fn is_container(command: &Command) -> bool {
    match command.name.as_bytes() {
        b"client" | b"config" | b"acl" | b"cluster" | b"command" | b"function" | b"latency" | b"memory" | b"module" | b"object"
        | b"pubsub" | b"script" | b"slowlog" | b"xgroup" | b"xinfo" => true,
        _other_name => false,
    }
}

fn hash(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| hash_byte(hash, *byte))
}

fn find(hash: u32, same: impl Fn(&[u8]) -> bool, length: usize) -> Option<&'static Command> {
    if length > NAME_MAX {
        return None;
    }
    let mut place = slot(hash);
    loop {
        let index = TABLE[place];
        if index == EMPTY {
            return None;
        }
        let command = &COMMANDS[usize::from(index)];
        if command.name.len() == length && same(command.name.as_bytes()) {
            return Some(command);
        }
        place = (place + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_in_any_case() {
        for command in &COMMANDS {
            let found = match command.name.split_once('|') {
                None => lookup(command.name.to_uppercase().as_bytes()),
                Some((container, sub)) => lookup_sub(lookup(container.as_bytes()).unwrap(), sub.to_uppercase().as_bytes()),
            };
            assert_eq!(found.map(|found| found.name), Some(command.name));
            assert_eq!(found.map(|found| COMMANDS[number(found)].name), Some(command.name));
        }
    }

    #[test]
    fn containers_are_exactly_the_commands_with_sub_commands() {
        for command in &COMMANDS {
            let has_subs = COMMANDS.iter().any(|other| other.name.strip_prefix(command.name).is_some_and(|rest| rest.starts_with('|')));
            assert_eq!(is_container(command), has_subs, "{}", command.name);
        }
    }

    #[test]
    fn unknown_names_are_not_found() {
        for name in [&b""[..], b"foo", b"getx", b"ge", b"json.set", b"set\r", &[b'a'; 5000], b"\xff\xfe"] {
            assert_eq!(lookup(name), None);
        }
        assert_eq!(lookup_sub(lookup(b"client").unwrap(), b"nonsense"), None);
        assert_eq!(lookup_sub(lookup(b"client").unwrap(), &[b'x'; 5000]), None);
    }

    #[test]
    fn the_classes_that_must_not_share_do_not() {
        for name in ["blpop", "brpop", "blmove", "blmpop", "brpoplpush", "bzpopmin", "bzpopmax", "bzmpop"] {
            assert_eq!(lookup(name.as_bytes()).unwrap().handling, Handling::Block, "{name}");
        }
        assert_eq!(lookup(b"GET").unwrap().replay, Replay::Safe);
        assert_eq!(lookup(b"Set").unwrap().replay, Replay::Never);
        assert_eq!(lookup(b"xread").unwrap().handling, Handling::ShareUnlessBlock);
        assert!(
            COMMANDS.iter().all(|row| row.replay == Replay::Never || matches!(row.handling, Handling::Share | Handling::ShareUnlessBlock))
        );
    }
}
