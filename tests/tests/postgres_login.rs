//! Logins of PostgreSQL clients: each method, wrong secrets, strangers, and those who do not speak the protocol at all.

use sidepool_tests::conformance::proves;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::wire::{first_error, tags};
use sidepool_tests::postgres::{Cluster, Message, Wire, frame};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

const METHODS: [&str; 4] = ["scram-sha-256", "md5", "plain", "trust"];

async fn attempt(pool: &Pooler, user: &str, database: &str, password: &str) -> Result<Wire, Message> {
    Wire::try_login(pool.postgres_port(), &[("user", user), ("database", database)], password).await
}

fn code(error: &Message) -> String {
    error.field(b'C').expect("an error has a code")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_lets_the_right_password_in() {
    let cluster = Cluster::start().await;
    for method in METHODS {
        let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.auth_type", method)).await;
        let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{method}: {:?}", error.field(b'M')));
        assert_eq!(wire.value("SELECT current_user").await, USER, "{method}");
        let client = pool.client().await;
        let row = client.query_one("SELECT 6 * 7", &[]).await.expect("a driver asks");
        assert_eq!(row.get::<_, i32>(0), 42, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let cluster = Cluster::start().await;
    for method in METHODS.into_iter().filter(|method| *method != "trust") {
        let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.auth_type", method)).await;
        let wrong = attempt(&pool, USER, "app", "wrong").await.err().expect("a wrong password is refused");
        let unknown = attempt(&pool, "xyz", "app", "wrong").await.err().expect("a stranger is refused");
        assert_eq!(code(&wrong), "28P01", "{method}");
        assert_eq!(code(&unknown), "28P01", "{method}");
        let message = |error: &Message, user: &str| error.field(b'M').expect("a message").replace(user, "USER");
        assert_eq!(message(&wrong, USER), message(&unknown, "xyz"), "{method}");
        assert_eq!(wrong.field(b'D'), unknown.field(b'D'), "{method}");
        assert_eq!(cluster.connections().await, 0, "{method}: nobody who is not logged in causes an upstream connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_salt_does_not_tell_strangers_from_users() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.auth_type", "scram-sha-256")).await;
    let mut salts = Vec::new();
    for user in [USER, USER, "xyz", "xyz"] {
        let mut wire = Wire::connect(pool.postgres_port()).await;
        wire.send(&frame::startup(&[("user", user), ("database", "app")])).await;
        let offer = wire.read().await.expect("the server offers mechanisms");
        assert!(String::from_utf8_lossy(&offer.body).contains("SCRAM-SHA-256"));
        let first = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO";
        wire.send(&frame::message(b'p', &[b"SCRAM-SHA-256\0".as_slice(), &[0, 0, 0, 28], first].concat())).await;
        let challenge = wire.read().await.expect("a challenge");
        let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
        let part = |key: &str| text.split(',').find(|part| part.starts_with(key)).expect(key).to_owned();
        salts.push((part("s="), part("i=")));
    }
    assert_eq!(salts[0] == salts[1], salts[2] == salts[3], "constant for both or for neither");
    assert_eq!(salts[0].1, salts[2].1, "the same number of iterations");
    assert_eq!(salts[0].0.len(), salts[2].0.len(), "a salt of the same length");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_verifier_is_enough() {
    let cluster = Cluster::start().await;
    let row = cluster.superuser("app").await.query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'", &[]).await;
    let verifier: String = row.expect("the superuser reads it").get(0);
    assert!(verifier.starts_with("SCRAM-SHA-256$"));
    let settings = Settings::postgres(&cluster)
        .set("postgres.auth_type", "scram-sha-256")
        .set("postgres.users.app.password", verifier)
        .set("postgres.databases.app.user", USER)
        .set("postgres.databases.app.password", PASSWORD);
    let pool = Pooler::start(settings).await;
    let mut wire = attempt(&pool, USER, "app", PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", error.field(b'M')));
    assert_eq!(wire.value("SELECT 1").await, "1");
    assert_eq!(code(&attempt(&pool, USER, "app", "wrong").await.err().expect("refused")), "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_works_towards_the_server() {
    let cluster = Cluster::start().await;
    let upstream = [("app", PASSWORD), ("legacy", "legacy-secret"), ("clear", "clear-secret"), ("open", "")];
    let mut settings = Settings::postgres(&cluster);
    for (user, password) in upstream {
        settings = settings.database(&format!("as_{user}"), &cluster).set(&format!("postgres.databases.as_{user}.dbname"), "app");
        settings = settings.set(&format!("postgres.databases.as_{user}.user"), user);
        if !password.is_empty() {
            settings = settings.set(&format!("postgres.databases.as_{user}.password"), password);
        }
    }
    let pool = Pooler::start(settings).await;
    for (user, _) in upstream {
        let mut wire =
            attempt(&pool, USER, &format!("as_{user}"), PASSWORD).await.unwrap_or_else(|error| panic!("{:?}", error.field(b'M')));
        assert_eq!(wire.value("SELECT current_user").await, user);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_towards_the_server_is_told_without_it() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.databases.app.user", USER)
        .set("postgres.databases.app.password", "outdated-8472")
        .set("postgres.query_wait_timeout", "2s");
    let pool = Pooler::start(settings).await;
    let mut told = Vec::new();
    match attempt(&pool, USER, "app", PASSWORD).await {
        Err(error) => told.push(error),
        Ok(mut wire) => told.extend(wire.query("SELECT 1").await),
    }
    let error = first_error(&told).expect("the client is told");
    let text = String::from_utf8_lossy(&error.body).into_owned();
    assert!(!text.contains("outdated-8472"), "{text}");
    assert!(text.contains("app"), "the error names the pool: {text}");
    assert!(!pool.process().log().tail(1000).contains("outdated-8472"), "the log holds no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_database_is_named_in_the_error() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let error = attempt(&pool, USER, "nowhere", PASSWORD).await.err().expect("refused");
    assert!(["3D000", "08P01"].contains(&code(&error).as_str()), "{}", code(&error));
    assert!(error.field(b'M').expect("a message").contains("nowhere"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encryption_request_is_answered_and_the_login_goes_on() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let gss_request = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
    let mut wire = Wire::connect(pool.postgres_port()).await;
    wire.send(&gss_request).await;
    assert_eq!(wire.read_exactly(1).await, b"N");
    wire.send(&frame::ssl_request()).await;
    assert_eq!(wire.read_exactly(1).await, b"N");
    let messages = wire.ask(&frame::startup(&[("user", USER), ("database", "app")])).await;
    assert!(tags(&messages).starts_with('R') && tags(&messages).ends_with("KZ"), "{}", tags(&messages));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_protocol_is_negotiated() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let mut startup = frame::startup(&[("user", USER), ("database", "app"), ("_pq_.future", "1")]);
    startup[7] = 9;
    let mut wire = Wire::connect(pool.postgres_port()).await;
    let messages = wire.ask(&startup).await;
    assert_eq!(messages.first().map(|message| message.tag), Some(b'v'), "NegotiateProtocolVersion comes first: {}", tags(&messages));
    assert!(messages[0].body.windows(11).any(|window| window == b"_pq_.future"));
    assert_eq!(wire.value("SELECT 1").await, "1");
}

/// What strangers say: a name for the failure message, and the bytes.
fn strangers() -> Vec<(&'static str, Vec<u8>)> {
    let mut wrong_length = frame::startup(&[("user", USER)]);
    wrong_length[3] = 7;
    let mut unterminated = frame::startup(&[("user", USER), ("database", "app")]);
    let last = unterminated.len() - 1;
    unterminated[last] = b'x';
    vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a TLS hello", [&[0x16, 0x03, 0x01, 0x00, 0xf8, 0x01, 0x00, 0x00, 0xf4, 0x03, 0x03], [0x42; 200].as_slice()].concat()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("a length of 4 GB", [&[0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0], [0x41; 64].as_slice()].concat()),
        ("a length of 2 GB", [&[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], [0x41; 64].as_slice()].concat()),
        ("a length of zero", vec![0; 64]),
        ("a length that ends too soon", wrong_length),
        ("text without its end", unterminated),
        ("protocol 2", [0, 0, 0, 8, 0, 2, 0, 0].to_vec()),
        ("protocol 4", [0, 0, 0, 8, 0, 4, 0, 0].to_vec()),
        ("no user", frame::startup(&[("database", "app")])),
        ("noise", (0..=255).collect()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_the_protocol_is_turned_away_and_others_go_on() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut good = pool.wire().await;
    // Only now: a good login may take as long as a slow machine wants.
    pool.reload(settings.set("postgres.client_login_timeout", "2s")).await;
    for (what, bytes) in strangers() {
        let mut wire = Wire::connect(pool.postgres_port()).await;
        wire.try_send(&bytes).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let answer = wait::soon(what, wire.until_closed()).await;
        assert!(answer.iter().all(|message| message.tag == b'E'), "{what}: {answer:?}");
        assert_eq!(good.value("SELECT 1").await, "1", "after {what}");
    }
    let faults = pool.scrape().await.sum("sidepool_client_faults_total", &[("protocol", "postgres")]);
    assert!(faults >= 10.0, "each was counted, not {faults}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_message_that_lies_about_its_length_ends_the_login() {
    let cluster = Cluster::start().await;
    for method in ["scram-sha-256", "md5", "plain"] {
        let settings = Settings::postgres(&cluster).set("postgres.auth_type", method);
        let pool = Pooler::start(settings).await;
        for lie in [[0xff, 0xff, 0xff, 0xff], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0], [0, 0, 0, 4]] {
            let mut wire = Wire::connect(pool.postgres_port()).await;
            wire.send(&frame::startup(&[("user", USER), ("database", "app")])).await;
            assert_eq!(wire.read().await.map(|message| message.tag), Some(b'R'));
            wire.try_send(&[b"p", lie.as_slice(), &[0x41; 100]].concat()).await.expect("we are still listened to");
            let answer = wire.until_closed().await;
            assert!(answer.iter().all(|message| message.tag == b'E'), "{method} {lie:?}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_ends_at_the_login_timeout() {
    let _proof = proves(&["message client_login_timeout"]);
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster).set("postgres.auth_type", "plain").set("postgres.client_login_timeout", "1s");
    let pool = Pooler::start(settings).await;
    let startup = frame::startup(&[("user", USER), ("database", "app")]);
    for said in [&startup[..0], &startup[..3], &startup[..12], &startup[..]] {
        let mut wire = Wire::connect(pool.postgres_port()).await;
        wire.send(said).await;
        let answer = wire.until_closed().await;
        assert!(answer.iter().all(|message| [b'R', b'E'].contains(&message.tag)), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clients_than_allowed_are_refused_with_a_reason() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster).set("postgres.max_client_conn", 3)).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(pool.wire().await);
    }
    let error = attempt(&pool, USER, "app", PASSWORD).await.err().expect("the fourth is refused");
    assert_eq!(code(&error), "53300");
    clients.pop().expect("there is one").send(&frame::terminate()).await;
    wait::until("room for another", async || attempt(&pool, USER, "app", PASSWORD).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_name_or_too_long_a_one_or_speaks_an_old_version_is_told() {
    let _proof = proves(&["message no username supplied", "message username too long", "message old V2 protocol not supported"]);
    let cluster = Cluster::start().await;
    let pool = Pooler::start(Settings::postgres(&cluster)).await;
    let long = "u".repeat(128);
    // A startup packet of version 2 has a fixed length.
    let mut old = vec![0; 296];
    old[..8].copy_from_slice(&[0, 0, 1, 40, 0, 2, 0, 0]);
    for (startup, expected, message) in [
        (frame::startup(&[("database", "app")]), "28000", "no username supplied"),
        (frame::startup(&[("user", &long), ("database", "app")]), "08P01", "username too long"),
        (old, "0A000", "old V2 protocol not supported"),
    ] {
        let mut wire = Wire::connect(pool.postgres_port()).await;
        wire.send(&startup).await;
        let last = wire.until_closed().await;
        let error = first_error(&last).unwrap_or_else(|| panic!("{message}: {}", tags(&last)));
        assert_eq!((code(error), error.field(b'M')), (expected.to_owned(), Some(message.to_owned())));
    }
    let longest = "u".repeat(127);
    let stranger = attempt(&pool, &longest, "app", "").await.err().expect("nobody of that name");
    assert_eq!(stranger.field(b'M').as_deref(), Some("\"trust\" authentication failed"), "it is read");
}
