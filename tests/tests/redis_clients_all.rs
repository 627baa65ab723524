//! Questions about Redis clients are about those of all workers of the process, with what each is and does.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// Enough that each of three workers has some.
const MANY: usize = 24;

async fn crowd(workers: i64) -> (RedisServer, Pooler, Vec<Wire>) {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", workers)).await;
    let mut wires = Vec::new();
    for number in 0..MANY {
        let mut wire = pool.redis_wire().await;
        assert_eq!(wire.command(&["CLIENT", "SETNAME", &format!("client-{number}")]).await.text(), "OK");
        wires.push(wire);
    }
    (server, pool, wires)
}

async fn id(wire: &mut Wire) -> String {
    wire.command(&["CLIENT", "ID"]).await.text()
}

async fn list(wire: &mut Wire, options: &[&str]) -> Vec<String> {
    let words = [&["CLIENT", "LIST"], options].concat();
    wire.command(&words).await.text().lines().map(str::to_owned).collect()
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| panic!("{name} in {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_workers_are_listed_killed_and_unblocked() {
    let (_server, _pool, mut wires) = crowd(3).await;
    let mut ids = Vec::new();
    for wire in &mut wires {
        ids.push(id(wire).await.parse::<u64>().expect("a number"));
    }
    let workers: std::collections::BTreeSet<u64> = ids.iter().map(|id| id % 3).collect();
    assert!(workers.len() > 1, "clients are on several workers: {ids:?}");
    let lines = list(&mut wires[0], &[]).await;
    assert_eq!(lines.len(), MANY);
    let mut listed: Vec<u64> = lines.iter().map(|line| field(line, "id").parse().expect("a number")).collect();
    assert!(listed.is_sorted(), "{listed:?}");
    listed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(listed, ids);
    let some = [ids[3].to_string(), ids[9].to_string(), "987654".to_owned()];
    assert_eq!(list(&mut wires[5], &["ID", &some[0], &some[1], &some[2]]).await.len(), 2);
    assert_eq!(list(&mut wires[5], &["TYPE", "pubsub"]).await.len(), 0);
    // A client that holds a connection of its own asks just as well.
    let last = wires.len() - 1;
    wires[last].command(&["WATCH", "w"]).await;
    assert_eq!(list(&mut wires[last], &[]).await.len(), MANY);
    let blocked = id(&mut wires[1]).await;
    wires[1].send(&request(&["BLPOP", "nothing", "0"])).await;
    for asks in [0, last] {
        wait::until("it to be unblocked", async || {
            (wires[asks].command(&["CLIENT", "UNBLOCK", &blocked]).await == Reply::Integer(1)).then_some(())
        })
        .await;
        assert_eq!(wires[1].reply().await, Reply::Null);
        wires[1].send(&request(&["BLPOP", "nothing", "0"])).await;
    }
    let [second, third] = [id(&mut wires[2]).await, id(&mut wires[3]).await];
    let address = field(&list(&mut wires[0], &["ID", &second]).await[0], "addr").to_owned();
    assert_eq!(wires[0].command(&["CLIENT", "KILL", &address]).await.text(), "OK");
    assert_eq!(wires[2].read().await, None);
    assert!(wires[0].command(&["CLIENT", "KILL", &address]).await.is_error("ERR"));
    assert_eq!(wires[last].command(&["CLIENT", "KILL", "ID", &third]).await, Reply::Integer(1));
    assert_eq!(wires[3].read().await, None);
    wires[0].send(&[request(&["CLIENT", "REPLY", "SKIP"]), request(&["CLIENT", "LIST"]), request(&["ECHO", "next"])].concat()).await;
    assert_eq!(wires[0].reply().await.text(), "next", "SKIP is for one request");
    assert_eq!(wires[0].command(&["CLIENT", "KILL", "TYPE", "normal"]).await, Reply::Integer(MANY as i64 - 3));
    assert_eq!(list(&mut wires[0], &[]).await.len(), 1);
    assert_eq!(wires[0].command(&["CLIENT", "KILL", "USER", "default", "SKIPME", "no"]).await, Reply::Integer(1));
    assert_eq!(wires[0].read().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_tells_what_a_client_is_and_does() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let (mut asks, mut told) = (pool.redis_wire().await, pool.redis_wire().await);
    let me = id(&mut told).await;
    let mut look = async |name: &str| {
        let lines = list(&mut asks, &["ID", &me]).await;
        field(&lines[0], name).to_owned()
    };
    for words in [
        &["HELLO", "3", "SETNAME", "x"][..],
        &["CLIENT", "SETINFO", "LIB-NAME", "a-library"],
        &["CLIENT", "SETINFO", "LIB-VER", "1.2"],
        &["SELECT", "7"],
        &["INCR", "n"],
    ] {
        told.command(words).await;
    }
    for (name, value) in
        [("name", "x"), ("lib-name", "a-library"), ("lib-ver", "1.2"), ("db", "7"), ("resp", "3"), ("cmd", "incr"), ("multi", "-1")]
    {
        assert_eq!(look(name).await, value, "{name}");
    }
    assert_eq!(look("flags").await, "N");
    assert!(look("tot-mem").await.parse::<u64>().expect("a number") > 100);
    told.command(&["MULTI"]).await;
    told.command(&["GET", "n"]).await;
    assert_eq!([look("flags").await, look("multi").await, look("cmd").await], ["x", "1", "get"]);
    told.command(&["DISCARD"]).await;
    told.command(&["CLIENT", "TRACKING", "ON"]).await;
    assert_eq!([look("flags").await, look("redir").await], ["t", "0"]);
    told.command(&["CLIENT", "TRACKING", "OFF"]).await;
    assert_eq!([look("flags").await, look("redir").await], ["N", "-1"]);
    told.command(&["CLIENT", "NO-EVICT", "ON"]).await;
    assert_eq!(look("flags").await, "e");
    told.command(&["CLIENT", "NO-EVICT", "OFF"]).await;
    told.command(&["SUBSCRIBE", "a", "b"]).await;
    told.reply().await;
    assert_eq!([look("flags").await, look("sub").await, look("cmd").await], ["P", "2", "subscribe"]);
    wait::until("it to be idle", async || (look("idle").await.parse::<u32>().expect("a number") >= 1).then_some(())).await;
    told.command(&["RESET"]).await;
    assert_eq!(
        [look("flags").await, look("name").await, look("lib-name").await],
        ["N", "", "a-library"],
        "RESET leaves the library's name"
    );
    wait::until("a moment after a command", async || {
        told.command(&["RESET"]).await;
        (look("idle").await == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_became_a_replica_is_found_as_one() {
    let (_server, _pool, mut wires) = crowd(2).await;
    let mut replica = wires.pop().expect("many");
    assert_eq!(replica.command(&["REPLCONF", "listening-port", "7"]).await.text(), "OK");
    let lines = list(&mut wires[0], &["TYPE", "replica"]).await;
    assert_eq!(lines.len(), 1);
    assert_eq!((field(&lines[0], "name"), field(&lines[0], "flags")), (&*format!("client-{}", MANY - 1), "S"));
    assert_eq!(list(&mut wires[0], &["TYPE", "normal"]).await.len(), MANY - 1);
    assert_eq!(wires[0].command(&["CLIENT", "KILL", "TYPE", "slave"]).await, Reply::Integer(1));
    assert_eq!(replica.read().await, None);
    assert_eq!(list(&mut wires[0], &["TYPE", "replica"]).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_has_opened_no_connection_yet_answers_hello() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", 3)).await;
    let mut wires = Vec::new();
    for _ in 0..MANY {
        let mut wire = pool.redis_wire().await;
        let hello = wire.command(&["HELLO", "3"]).await;
        assert!(matches!(hello, Reply::Map(_)), "{hello:?}");
        wires.push(wire);
    }
}
