//! Lines of the log that people and tools look for by PgBouncer's words: TLS with servers, cancels, what has left the configuration, lines of the
//! HBA file, and what servers say.

use sidepool_tests::conformance::proves;
use sidepool_tests::ini::{IniPooler, Program};
use sidepool_tests::postgres::cancel::{cancel_at, is_cancelled, runs, send_cancel};
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::process::Signal;
use sidepool_tests::tls::{self, Authority};
use sidepool_tests::wait;

fn ini(cluster: &Cluster, databases: &str, more: &str) -> String {
    format!(
        "[databases]\napp = host=127.0.0.1 port={}\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = LISTEN_PORT\n\
         unix_socket_dir =\nauth_type = plain\nauth_file = USERS_FILE\npool_mode = transaction\n{more}\n",
        cluster.port()
    )
}

async fn start(ini: &str, files: &[(&str, &str)]) -> IniPooler {
    IniPooler::start_with(Program::Sidepool, ini, &format!("\"{USER}\" \"{PASSWORD}\"\n"), files).await
}

async fn login(pool: &IniPooler) -> Wire {
    Wire::login(pool.port(), USER, "app", PASSWORD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_server_is_a_line_before_the_new_connection() {
    let _proof = proves(&["log SSL established: X"]);
    let cluster = Cluster::start().await;
    let authority = Authority::new("the authority");
    tls::encrypt(&cluster, &authority.issue("server", &["127.0.0.1"]), &authority).await;
    let pool = start(&ini(&cluster, "", "server_tls_sslmode = require"), &[]).await;
    let mut wire = login(&pool).await;
    wire.query("SELECT 1").await;
    pool.process().log().line_with("new connection to server").await;
    let lines = pool.process().log().lines();
    let at = lines.iter().position(|line| line.contains("SSL established: ")).expect("a line");
    let (prefix, what) = lines[at].split_once("SSL established: ").expect("just found");
    assert!(prefix.contains(" LOG S-0x") && what.starts_with("TLSv1.3/"), "{}", lines[at]);
    // Its own next line: that the pooler is up, for example, may be said by another thread in between.
    let (_, number) = prefix.split_once(" LOG S-").expect("just seen");
    let own = format!(" S-{}: ", number.split_once(':').expect("a connection").0);
    let next = lines[at + 1..].iter().find(|line| line.contains(&own)).expect("a line behind it");
    assert!(next.contains("new connection to server"), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_is_closed_with_a_reason() {
    let _proof = proves(&["log successfully sent cancel request", "log failed cancel request", "log cancel request for idle client"]);
    let cluster = Cluster::start().await;
    let pool = start(&ini(&cluster, "", ""), &[]).await;
    let log = pool.process().log();
    let mut wire = login(&pool).await;
    cancel_at(pool.port(), &wire).await;
    let line = log.line_with("closing because: cancel request for idle client (age=").await;
    assert!(line.contains(" LOG C-0x") && line.contains(": (nodb)/(nouser)@127.0.0.1:"), "{line}");
    send_cancel(pool.port(), 12, &[1, 2, 3, 4]).await;
    log.line_with("closing because: failed cancel request (age=").await;
    Wire::connect(pool.port()).await.try_send(&frame::cancel(12, &[1; 8])).await.expect("it is listened to");
    log.line_with("closing because: bad cancel request (age=").await;
    wire.send(&frame::query("SELECT pg_sleep(60), 'meant'")).await;
    runs(&cluster, "meant").await;
    cancel_at(pool.port(), &wire).await;
    log.line_with("closing because: successfully sent cancel request (age=").await;
    is_cancelled(&mut wire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_the_configuration_is_dropped() {
    let _proof = proves(&["log dropping database 'X' as it does not exist anymore or inactive auto-database"]);
    let cluster = Cluster::start().await;
    let more = format!("other = host=127.0.0.1 port={}", cluster.port());
    let settings = "autodb_idle_timeout = 0.1\nserver_idle_timeout = 0.1";
    let pool =
        start(&ini(&cluster, &format!("{more}\n* = host=127.0.0.1 port={}\n[peers]\n7 = host=127.0.0.1", cluster.port()), settings), &[])
            .await;
    let log = pool.process().log();
    drop(Wire::login(pool.port(), USER, "postgres", PASSWORD).await);
    let line = log.line_with("dropping database 'postgres' as it does not exist anymore or inactive auto-database").await;
    assert!(line.contains(" WARNING "), "{line}");
    pool.rewrite(&ini(&cluster, "", settings));
    pool.process().signal(Signal::HUP);
    log.line_with("dropping database 'other' as it does not exist anymore or inactive auto-database").await;
    log.line_with("dropping peer 7 as it does not exist anymore").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_hba_file_that_cannot_be_read_is_named() {
    let _proof = proves(&["log could not parse hba config line N"]);
    let cluster = Cluster::start().await;
    let hba = "host all all 127.0.0.1/32 trust\nhost all all all gss\n";
    let settings = "auth_hba_file = SOCKET_DIRECTORY/hba";
    let pool = start(&ini(&cluster, "", settings).replace("auth_type = plain", "auth_type = hba"), &[("hba", hba)]).await;
    let line = pool.process().log().line_with("could not parse hba config line 2").await;
    assert!(line.contains(" WARNING ") && line.contains("unknown method \"gss\""), "{line}");
    assert_eq!(Wire::login(pool.port(), USER, "app", "").await.value("SELECT 1").await, "1", "the other lines hold");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_nobody_in_says_why_its_connection_is_closed() {
    let cluster = Cluster::start().await;
    let pool =
        start(&ini(&cluster, &format!("wrong = host=127.0.0.1 port={} dbname=app user=app password=nonsense", cluster.port()), ""), &[])
            .await;
    let refused = Wire::try_login(pool.port(), &[("user", USER), ("database", "wrong")], PASSWORD).await.err().expect("refused");
    assert_eq!(refused.field(b'M').as_deref(), Some("password authentication failed for user \"app\""));
    let log = pool.process().log();
    log.line_with("pooler error: password authentication failed for user \"app\"").await;
    for who in ["S", "C"] {
        let prefix = format!(" LOG {who}-0x");
        let is_it = |line: &String| {
            line.contains(&prefix) && line.contains("closing because: password authentication failed for user \"app\" (age=")
        };
        wait::until(&format!("the line of {who}"), async || log.lines().iter().any(is_it).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_connection_that_ends_with_its_client_says_why() {
    let _proof = proves(&["log client disconnect while server was not ready", "log client unexpected eof"]);
    let cluster = Cluster::start().await;
    let pool = start(&ini(&cluster, "", &format!("admin_users = {USER}")), &[]).await;
    let log = pool.process().log();
    let begun = async || {
        let mut wire = login(&pool).await;
        wire.query("BEGIN").await;
        (wire, log.len())
    };
    let ends = async |from: usize, who: &str, reason: &str| {
        let (who, what) = (format!(" LOG {who}-0x"), format!("closing because: {reason} (age="));
        let is_it = |line: &String| line.contains(&who) && line.contains(&what);
        wait::until(reason, async || log.lines()[from..].iter().any(is_it).then_some(())).await;
    };
    let (mut wire, from) = begun().await;
    wire.send(&frame::terminate()).await;
    ends(from, "C", "client close request").await;
    ends(from, "S", "client disconnect while server was not ready").await;
    let (wire, from) = begun().await;
    drop(wire);
    ends(from, "C", "client unexpected eof").await;
    ends(from, "S", "client disconnect while server was not ready").await;
    let (mut wire, from) = begun().await;
    cluster.terminate_connections().await;
    wire.until_closed().await;
    ends(from, "C", "server conn crashed?").await;
    ends(from, "S", "server conn crashed?").await;
    let mut idle = login(&pool).await;
    idle.query("SELECT 1").await;
    let from = log.len();
    drop(idle);
    ends(from, "C", "client unexpected eof").await;
    // Only now: the transactions above may be idle for as long as a machine is slow.
    let mut admin = Wire::login(pool.port(), USER, "pgbouncer", PASSWORD).await;
    assert_eq!(tags(&admin.query("SET idle_transaction_timeout = '0.2'").await), "CZ");
    // It may be over before we look again how far the log is.
    let from = log.len();
    let (mut wire, _) = begun().await;
    wire.until_closed().await;
    ends(from, "C", "idle transaction timeout").await;
    ends(from, "S", "idle transaction timeout").await;
}
