//! A name server of the test's own: it knows the names that the test gives it, changes its answers on command, and counts what it is asked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{place, wait};

/// What it says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These addresses hold for so many seconds.
    Addresses(u32, Vec<Ipv4Addr>),
    /// There is no such name (as for all names that it was told nothing of).
    NoSuchName,
    /// Something is wrong with the server.
    Failure,
    /// Nothing at all.
    Silence,
}

/// A running name server, ended when dropped.
pub struct NameServer {
    names: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: watch::Receiver<BTreeMap<String, u64>>,
    resolv_conf: PathBuf,
    impatient: PathBuf,
    _task: JoinSet<()>,
}

impl NameServer {
    /// Starts one that knows nothing.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let directory = place::directory("dns");
        let [resolv_conf, impatient] = [("resolv.conf", 10), ("impatient.conf", 1)].map(|(name, seconds)| {
            let text = format!("nameserver {address}\nsearch test.example\noptions timeout:{seconds} attempts:1\n");
            let file = directory.join(name);
            std::fs::write(&file, text).expect("our own directory");
            file
        });
        let names = Arc::new(Mutex::new(BTreeMap::new()));
        let (count, asked) = watch::channel(BTreeMap::new());
        let mut task = JoinSet::new();
        task.spawn(serve(socket, Arc::clone(&names), count));
        Self { names, asked, resolv_conf, impatient, _task: task }
    }

    /// The file that leads there, with the patience that a name server of a busy machine needs: else it would be asked twice, or taken for silent.
    pub fn resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }

    /// The same for whoever is to find it silent, after a second.
    pub fn impatient_resolv_conf(&self) -> &Path {
        &self.impatient
    }

    /// Says this of `name` from now on.
    pub fn say(&self, name: &str, answer: Answer) {
        self.names.lock().expect("nobody panics with it").insert(name.to_owned(), answer);
    }

    /// Says from now on that `name` has these addresses for a second at a time.
    pub fn lead(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.say(name, Answer::Addresses(1, addresses));
    }

    /// How often it was asked for the addresses of `name`.
    pub fn asked(&self, name: &str) -> u64 {
        self.asked.borrow().get(name).copied().unwrap_or_default()
    }

    /// Waits until it has been asked for `name` `times` times more.
    pub async fn is_asked(&self, name: &str, times: u64) {
        let (mut asked, goal) = (self.asked.clone(), self.asked(name) + times);
        let enough = asked.wait_for(|asked| asked.get(name).is_some_and(|count| *count >= goal));
        wait::soon("questions to the name server", enough).await.expect("it lives");
        // The answer is on its way then.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn serve(socket: UdpSocket, names: Arc<Mutex<BTreeMap<String, Answer>>>, count: watch::Sender<BTreeMap<String, u64>>) {
    let mut buffer = [0; 512];
    loop {
        let Ok((size, from)) = socket.recv_from(&mut buffer).await else { return };
        let Some((name, is_a, question)) = read(&buffer[..size]) else { continue };
        let answer = names.lock().expect("nobody panics with it").get(&name).cloned().unwrap_or(Answer::NoSuchName);
        if is_a {
            count.send_modify(|count| *count.entry(name).or_default() += 1);
        }
        reply(&socket, from, &buffer[..2], question, &answer, is_a).await;
    }
}

/// The name that is asked for, whether its IPv4 addresses are, and the question as it stands there.
fn read(packet: &[u8]) -> Option<(String, bool, &[u8])> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let size = usize::from(*packet.get(at)?);
        at += 1;
        if size == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + size)?).to_lowercase());
        at += size;
    }
    let kind = packet.get(at..at + 2)?;
    Some((labels.join("."), kind == [0, 1], packet.get(12..at + 4)?))
}

async fn reply(socket: &UdpSocket, to: SocketAddr, id: &[u8], question: &[u8], answer: &Answer, is_a: bool) {
    let (code, ttl, addresses) = match answer {
        Answer::Addresses(ttl, addresses) => (0, *ttl, addresses.as_slice()),
        Answer::NoSuchName => (3, 0, [].as_slice()),
        Answer::Failure => (2, 0, [].as_slice()),
        Answer::Silence => return,
    };
    let addresses = if is_a { addresses } else { &[] };
    let mut packet = id.to_vec();
    // An answer, recursion desired and available; one question.
    packet.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::try_from(addresses.len()).expect("few"), 0, 0, 0, 0]);
    packet.extend_from_slice(question);
    for address in addresses {
        packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        packet.extend_from_slice(&ttl.to_be_bytes());
        packet.extend_from_slice(&[0, 4]);
        packet.extend_from_slice(&address.octets());
    }
    // Who asked may have left.
    let _ = socket.send_to(&packet, to).await;
}
