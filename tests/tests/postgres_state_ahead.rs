//! A client's state goes to a connection together with the client's first message, in one write: where the state cannot be carried, the message
//! never runs. With servers that would run it all the same, it waits.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cancel::send_cancel;
use sidepool_tests::postgres::frame::{bind, execute, parse, query, sync};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What was sent to the server, one entry for each piece in which it came.
type Pieces = Arc<Mutex<Vec<Vec<u8>>>>;

/// Stands before a server, keeps what goes there, and has the server not know the setting `exit_on_error` if told so.
async fn listen_in(port: u16, knows: bool) -> (u16, Pieces) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let here = listener.local_addr().expect("an address").port();
    let pieces = Pieces::default();
    let kept = Arc::clone(&pieces);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("a server");
            tokio::spawn(pass(client, server, Arc::clone(&kept), knows));
        }
    });
    (here, pieces)
}

async fn pass(client: TcpStream, server: TcpStream, kept: Pieces, knows: bool) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        let mut piece = buffer[..read].to_vec();
        let word = b"exit_on_error";
        while let Some(at) = piece.windows(word.len()).position(|window| !knows && window == word) {
            piece[at..at + word.len()].copy_from_slice(b"exit_on_errox");
        }
        kept.lock().expect("nobody panicked").push(piece.clone());
        if to_server.write_all(&piece).await.is_err() {
            return;
        }
    }
}

async fn start(knows: bool) -> (Cluster, Pooler, Pieces) {
    let cluster = Cluster::start().await;
    cluster.sql("CREATE ROLE writer; GRANT writer TO app; CREATE TABLE log (n text); GRANT ALL ON log TO writer, app").await;
    let (port, pieces) = listen_in(cluster.port(), knows).await;
    let settings = Settings::postgres(&cluster).set("postgres.default_pool_size", 1).set("postgres.databases.app.port", i64::from(port));
    (cluster, Pooler::start(settings).await, pieces)
}

/// Sends a message behind somebody else's, and answers in how many pieces it went to the server with what was carried before it.
async fn pieces_of(wire: &mut Wire, other: &mut Wire, pieces: &Pieces, message: &[u8]) -> usize {
    other.query("SELECT 'somebody else'").await;
    pieces.lock().expect("nobody panicked").clear();
    let answer = wire.ask(message).await;
    assert_eq!(first_column(&answer), ["eu"], "{:?}", first_error(&answer));
    pieces.lock().expect("nobody panicked").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn state_and_the_first_message_are_one_write() {
    let (_cluster, pool, pieces) = start(true).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.query("SET app.region = 'eu'").await;
    let ask = "SELECT current_setting('app.region')";
    // Whether the server knows the setting is asked behind the first carry.
    other.query("SELECT 'somebody else'").await;
    wire.query(ask).await;
    let prepared = [parse("", ask), bind("", "", &[]), execute("", 0), sync()].concat();
    for message in [query(ask), prepared] {
        assert_eq!(pieces_of(&mut wire, &mut other, &pieces, &message).await, 1);
    }
    // Not more than once it takes to be told what is still to be carried, whatever was answered in the same breath.
    other.query("SELECT 'somebody else'").await;
    let answer = wire.query("SET application_name = 'renamed'; SELECT current_setting('app.region')").await;
    assert_eq!(tags(&answer).matches('S').count(), 1, "{}", tags(&answer));
    other.query("SELECT 'somebody else'").await;
    assert_eq!(wire.value("SHOW application_name").await, "renamed");
    assert_ne!(other.value("SHOW application_name").await, "renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_server_that_goes_on_after_errors_the_message_waits() {
    let (_cluster, pool, pieces) = start(false).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.query("SET app.region = 'eu'").await;
    for _ in 0..3 {
        let ask = query("SELECT current_setting('app.region')");
        assert_eq!(pieces_of(&mut wire, &mut other, &pieces, &ask).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_a_state_that_cannot_be_carried_never_runs() {
    let insert = "INSERT INTO log VALUES (current_user)";
    for (knows, message) in [
        (true, query(insert)),
        (true, [parse("", insert), bind("", "", &[]), execute("", 0), sync()].concat()),
        (true, [query("BEGIN"), query(insert), query("COMMIT")].concat()),
        (true, query("BEGIN")),
        (false, query(insert)),
    ] {
        let (cluster, pool, _pieces) = start(knows).await;
        let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
        wire.query("SET ROLE writer").await;
        for _ in 0..2 {
            assert_eq!(other.value("SELECT current_user").await, "app");
            assert_eq!(wire.value("SELECT current_user").await, "writer");
        }
        assert_eq!(other.value("SELECT current_user").await, "app");
        cluster.sql("REVOKE writer FROM app").await;
        wire.send(&message).await;
        let told = wire.until_closed().await;
        let error = first_error(&told).expect("an error");
        assert!(error.field(b'M').is_some_and(|message| message.contains("permission denied to set role \"writer\"")), "{error:?}");
        assert_eq!(tags(&told), "E");
        assert_eq!(other.value("SELECT count(*) FROM log").await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_what_was_sent_with_its_state() {
    let (_cluster, pool, pieces) = start(true).await;
    let (mut wire, mut other) = (pool.wire().await, pool.wire().await);
    wire.query("SET app.region = 'eu'").await;
    let ((process, key), mut missed) = (wire.cancel_key.clone().expect("a key"), 0);
    for round in 0..20 {
        other.query("SELECT 'somebody else'").await;
        pieces.lock().expect("nobody panicked").clear();
        wire.send(&query("SELECT pg_sleep(60)")).await;
        // It comes while the state is carried, or later.
        wait::until("the query is on its way", async || (!pieces.lock().expect("nobody panicked").is_empty()).then_some(())).await;
        let mut answer = pin!(wire.until_ready());
        let answer = wait::until("the cancel to hit", async || {
            send_cancel(pool.postgres_port(), process, &key).await;
            let hit = tokio::time::timeout(Duration::from_secs(3), answer.as_mut()).await.ok();
            missed += u32::from(hit.is_none());
            hit
        })
        .await;
        assert_eq!(first_error(&answer).and_then(|error| error.field(b'C')).as_deref(), Some("57014"), "round {round}");
    }
    // PostgreSQL ignores one that overtakes what was sent to it.
    assert!(missed <= 2, "{missed} cancels of 20 did not hit");
    assert_eq!(wire.value("SELECT current_setting('app.region')").await, "eu");
}
