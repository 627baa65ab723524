//! Tests of the login: a worker of our own, a client that is a script or `protocol`'s other side, a scripted server behind the pool.

use std::future::Future;
use std::sync::Arc;

use bytes::BytesMut;
use sidepool_config::model::{AuthType, PgDatabase, PgUser, Upstream};
use sidepool_config::secret::Secret;
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::login::keys::ScramKeys;
use sidepool_protocol::postgres::login::upstream_side::{Progress, ServerError, UpstreamError, UpstreamLogin, Welcome};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::upstream::postgres::scripted::{Scripted, refusal, welcome};
use crate::worker::{Commons, Mailboxes, WorkerId};

/// Runs a test on a worker that serves `change`d settings in front of a server that lets everybody in.
async fn on_worker<F: Future<Output = ()>>(change: impl FnOnce(&mut Postgres, &Scripted), test: impl FnOnce(Rc<Worker>) -> F) {
    behind(vec![vec![welcome()]], change, test).await;
}

/// The same in front of a server with these scripts.
async fn behind<F: Future<Output = ()>>(
    scripts: Vec<Vec<Vec<u8>>>,
    change: impl FnOnce(&mut Postgres, &Scripted),
    test: impl FnOnce(Rc<Worker>) -> F,
) {
    LocalSet::new()
        .run_until(async {
            let server = Scripted::start(scripts);
            let mut postgres = Postgres::default();
            let mut shop = PgDatabase::at(Upstream::Unix(server.path()));
            shop.limits.query_wait_timeout = Duration::from_millis(300);
            postgres.databases.insert("shop".into(), shop);
            postgres.users.insert("bob".into(), PgUser { password: Some(Secret::new("pw")), ..PgUser::default() });
            change(&mut postgres, &server);
            let worker = Worker::new(WorkerId(0), Mailboxes::new(Vec::new()), Commons::new(1).unwrap());
            worker.apply(&Arc::new(Config { postgres: Some(postgres), ..Config::default() }));
            test(worker).await;
        })
        .await;
}

async fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, Stream::Tcp(listener.accept().await.unwrap().0))
}

/// What a client that says `words` and then waits gets to hear, up to the end of the connection.
async fn say(worker: &Rc<Worker>, words: &[u8]) -> Vec<u8> {
    let (mut client, ours) = pair().await;
    client.write_all(words).await.unwrap();
    let (arrival, heard) = tokio::join!(login(ours, worker), async move {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        heard
    });
    assert!(arrival.is_none());
    heard
}

fn packet(user: &str, database: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    UpstreamLogin::begin((user, database), &[], None, "abc".into(), &mut out).unwrap();
    out.to_vec()
}

/// Logs in as drivers do. Answers what the client got, what became of the connection, and the tags of all messages.
async fn log_in(
    worker: &Rc<Worker>,
    user: &str,
    database: &str,
    password: Option<&str>,
) -> (Result<Welcome, UpstreamError>, Option<Arrival>, String) {
    let (mut client, ours) = pair().await;
    let (arrival, (result, tags)) = tokio::join!(login(ours, worker), async move {
        let mut out = BytesMut::new();
        let mut machine = UpstreamLogin::begin((user, database), &[], password, "abc".into(), &mut out).unwrap();
        let mut tags = String::new();
        loop {
            client.write_all(&out).await.unwrap();
            out.clear();
            let mut head = [0; HEAD_BYTES];
            client.read_exact(&mut head).await.unwrap();
            let head = frame::head(&head).unwrap().unwrap();
            let mut body = vec![0; head.body];
            client.read_exact(&mut body).await.unwrap();
            tags.push(char::from(head.tag));
            match machine.on_message(head.tag, &body, &mut out) {
                Ok(Progress::Read) => {}
                Ok(Progress::NeedKeys(parameters)) => {
                    machine.on_keys(&ScramKeys::derive(password.unwrap(), parameters), &mut out).unwrap();
                }
                Ok(Progress::LoggedIn(welcome)) => return (Ok(welcome), tags),
                Err(error) => return (Err(error), tags),
            }
        }
    });
    (result, arrival, tags)
}

fn refused(result: Result<Welcome, UpstreamError>) -> ServerError {
    match result {
        Err(UpstreamError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_method_lets_the_right_password_in_and_no_other() {
    let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let md5 = format!("md5{}", *sidepool_protocol::postgres::login::md5::stored_digest("bob", "pencil"));
    for (auth_type, secret) in [
        (AuthType::Plain, "pencil"),
        (AuthType::Plain, &md5),
        (AuthType::Plain, verifier),
        (AuthType::Md5, "pencil"),
        (AuthType::Md5, &md5),
        (AuthType::Md5, verifier),
        (AuthType::ScramSha256, "pencil"),
        (AuthType::ScramSha256, verifier),
    ] {
        let settings = |postgres: &mut Postgres, _: &Scripted| {
            postgres.auth_type = auth_type;
            postgres.users.get_mut("bob").unwrap().password = Some(Secret::new(secret));
        };
        on_worker(settings, |worker| async move {
            let (result, arrival, _) = log_in(&worker, "bob", "shop", Some("pencil")).await;
            assert_eq!(result.unwrap().parameters.get("server_version"), Some("15.3"), "{auth_type:?}");
            assert!(matches!(arrival, Some(Arrival::Session(_))));
            let (result, arrival, tags) = log_in(&worker, "bob", "shop", Some("pencils")).await;
            let wrong = refused(result);
            assert_eq!(wrong.sqlstate, Some(SqlState::INVALID_PASSWORD));
            assert!(arrival.is_none());
            // Nobody can tell a user that does not exist from a wrong password.
            let (result, _, strangers_tags) = log_in(&worker, "eve", "shop", Some("pencil")).await;
            let stranger = refused(result);
            if tags == strangers_tags {
                assert_eq!(stranger.message, wrong.message);
            } else {
                assert_eq!((auth_type, secret), (AuthType::Md5, verifier), "as in PgBouncer, md5 asks by SCRAM where there is a verifier");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_secret_that_the_method_cannot_use_is_a_wrong_password() {
    let md5 = format!("md5{}", *sidepool_protocol::postgres::login::md5::stored_digest("bob", "pencil"));
    for secret in [Some(md5), Some(String::new()), None] {
        let settings = |postgres: &mut Postgres, _: &Scripted| {
            postgres.users.get_mut("bob").unwrap().password = secret.map(Secret::new);
        };
        on_worker(settings, |worker| async move {
            let error = refused(log_in(&worker, "bob", "shop", Some("pencil")).await.0);
            assert_eq!(error.sqlstate, Some(SqlState::INVALID_PASSWORD));
            assert_eq!(refused(log_in(&worker, "bob", "shop", Some("")).await.0), error);
        })
        .await;
    }
}

#[tokio::test]
async fn trust_knows_its_users_and_any_needs_a_forced_one() {
    on_worker(
        |postgres, _| postgres.auth_type = AuthType::Trust,
        |worker| async move {
            assert!(log_in(&worker, "bob", "shop", None).await.0.is_ok());
            assert_eq!(refused(log_in(&worker, "eve", "shop", None).await.0).sqlstate, Some(SqlState::INVALID_AUTHORIZATION));
        },
    )
    .await;
    let settings = |postgres: &mut Postgres, server: &Scripted| {
        postgres.auth_type = AuthType::Any;
        let forced = PgDatabase { user: Some("app".into()), ..PgDatabase::at(Upstream::Unix(server.path())) };
        postgres.databases.insert("forced".into(), forced);
    };
    on_worker(settings, |worker| async move {
        assert!(log_in(&worker, "whoever", "forced", None).await.0.is_ok());
        assert_eq!(refused(log_in(&worker, "bob", "shop", None).await.0).sqlstate, Some(SqlState::INVALID_AUTHORIZATION));
    })
    .await;
}

#[tokio::test]
async fn databases_are_named_only_to_those_who_are_in() {
    on_worker(
        |_, _| {},
        |worker| async move {
            let (result, _, _) = log_in(&worker, "bob", "absent", Some("pw")).await;
            let error = refused(result);
            assert_eq!(error.sqlstate, Some(SqlState::INVALID_CATALOG_NAME));
            assert!(!error.message.contains("shop"));
            for user in ["bob", "eve"] {
                let (result, _, _) = log_in(&worker, user, "absent", Some("wrong")).await;
                assert_eq!(refused(result).sqlstate, Some(SqlState::INVALID_PASSWORD));
            }
        },
    )
    .await;
}

#[tokio::test]
async fn every_other_database_goes_to_the_fallback_and_absent_ones_leave_no_pool() {
    let settings = |postgres: &mut Postgres, server: &Scripted| {
        postgres.databases.clear();
        postgres.databases.insert(route::ANY.into(), PgDatabase::at(Upstream::Unix(server.path())));
    };
    behind(vec![vec![welcome()], vec![refusal(b"3D000", "no such database")]], settings, |worker| async move {
        assert!(log_in(&worker, "bob", "first", Some("pw")).await.0.is_ok());
        let error = refused(log_in(&worker, "bob", "second", Some("pw")).await.0);
        assert_eq!((error.sqlstate, &*error.message), (Some(SqlState::INVALID_CATALOG_NAME), "database \"second\" does not exist"));
        let names: Vec<_> = worker.postgres.pools(clock::now()).into_iter().map(|pool| pool.name).collect();
        assert_eq!(names, ["first.bob".into()]);
    })
    .await;
}

#[tokio::test]
async fn without_a_server_the_refusal_has_the_facts() {
    let settings = |postgres: &mut Postgres, _: &Scripted| {
        postgres.databases.get_mut("shop").unwrap().hosts = vec![Upstream::Unix("/nowhere/at/all".into())];
    };
    on_worker(settings, |worker| async move {
        let (result, arrival, _) = log_in(&worker, "bob", "shop", Some("pw")).await;
        let error = refused(result);
        assert_eq!(error.sqlstate, Some(SqlState::TOO_MANY_CONNECTIONS));
        assert_eq!(error.message, "query_wait_timeout");
        assert!(arrival.is_none());
        let refused = worker.record.numbers().counters[WorkerCounter::PostgresLoginRefused as usize];
        assert_eq!(refused, 1);
    })
    .await;
}

#[tokio::test]
async fn strangers_are_answered_in_their_own_words() {
    on_worker(
        |_, _| {},
        |worker| async move {
            for (words, answer) in [
                (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &b"HTTP/1.1 400 "[..]),
                (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", b"\x15\x03"),
                (b"PING\r\n", b"-ERR this port"),
                (b"*1\r\n$4\r\nPING\r\n", b"-ERR this port"),
                (b"\xff\xff\xff\xff", b"E\0"),
                (b"\0\0\0\x04\0\0\0\0", b"E\0"),
                (b"\0\0\0\x10\0\x02\0\0\0\0\0\0", b"E\0"),
                (b"\0\0\0\x09\0\x03\0\0\0", b"E\0"),
                (b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08\x04\xd2\x16\x2f", b"NE\0"),
            ] {
                let heard = say(&worker, words).await;
                assert!(heard.starts_with(answer), "{words:?} was answered {:?}", String::from_utf8_lossy(&heard));
            }
        },
    )
    .await;
}

#[tokio::test]
async fn who_says_nothing_or_too_little_is_let_go_in_time() {
    on_worker(
        |postgres, _| postgres.client_login_timeout = Duration::from_millis(50),
        |worker| async move {
            for words in [&b""[..], b"\0\0", b"\0\0\0\x08\x04\xd2\x16\x30", &packet("bob", "shop")] {
                let heard = say(&worker, words).await;
                assert!(String::from_utf8_lossy(&heard).contains("client_login_timeout"), "{words:?}");
            }
            assert_eq!(worker.record.numbers().counters[WorkerCounter::PostgresLoginTimeout as usize], 4);
        },
    )
    .await;
}

#[tokio::test]
async fn who_leaves_is_forgotten() {
    on_worker(
        |_, _| {},
        |worker| async move {
            for words in [&b""[..], b"\0\0", &packet("bob", "shop")] {
                let (mut client, ours) = pair().await;
                client.write_all(words).await.unwrap();
                drop(client);
                assert!(login(ours, &worker).await.is_none());
            }
        },
    )
    .await;
}

#[tokio::test]
async fn what_is_too_long_for_a_login_is_refused_before_it_is_read() {
    on_worker(
        |_, _| {},
        |worker| async move {
            let mut words = packet("bob", "shop");
            words.extend(b"p\x00\xff\xff\xff");
            let heard = say(&worker, &words).await;
            assert!(String::from_utf8_lossy(&heard).contains("invalid message length"));
        },
    )
    .await;
}

#[tokio::test]
async fn encryption_is_declined_and_unknown_versions_are_negotiated() {
    on_worker(
        |postgres, _| postgres.auth_type = AuthType::Trust,
        |worker| async move {
            let (mut client, ours) = pair().await;
            let mut startup = b"user\0bob\0database\0shop\0_pq_.thing\0on\0\0".to_vec();
            startup.splice(0..0, [0, 3, 0, 2]);
            let length = u32::try_from(startup.len() + 4).unwrap().to_be_bytes();
            let words = [&b"\0\0\0\x08\x04\xd2\x16\x30\0\0\0\x08\x04\xd2\x16\x2f"[..], &length, &startup].concat();
            client.write_all(&words).await.unwrap();
            let arrival = login(ours, &worker).await;
            assert!(matches!(arrival, Some(Arrival::Session(_))));
            let mut heard = vec![0; 26];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, b"NNv\0\0\0\x17\0\x03\0\0\0\0\0\x01_pq_.thing\0");
        },
    )
    .await;
}

#[tokio::test]
async fn what_belongs_to_the_session_is_left_for_it() {
    on_worker(
        |postgres, _| postgres.auth_type = AuthType::Trust,
        |worker| async move {
            let (mut client, ours) = pair().await;
            client.write_all(&[packet("bob", "shop"), b"Q\0\0\0\x0dselect 1\0".to_vec()].concat()).await.unwrap();
            let Some(Arrival::Session(start)) = login(ours, &worker).await else { panic!() };
            assert_eq!(start.said, b"Q\0\0\0\x0dselect 1\0");
            assert_eq!(start.pool.record().numbers().counters[PoolCounter::BytesFromClient as usize], 14);
            assert_eq!(start.ticket.presence().state().get("TimeZone"), Some("UTC"));
        },
    )
    .await;
}

#[tokio::test]
async fn who_has_asked_and_says_no_more_is_let_in_and_who_has_left_is_not() {
    for said in [&b""[..], b"Q\0\0\0\x0dselect 1\0X\0\0\0\x04"] {
        // The pool is cold, so that there is a wait for the server.
        on_worker(
            |postgres, _| postgres.auth_type = AuthType::Trust,
            |worker| async move {
                let (mut client, ours) = pair().await;
                client.write_all(&[&packet("bob", "shop"), said].concat()).await.unwrap();
                client.shutdown().await.unwrap();
                match login(ours, &worker).await {
                    None => assert!(said.is_empty(), "what it has asked is lost"),
                    Some(Arrival::Session(start)) => assert!(!said.is_empty() && start.said == said),
                    Some(_) => panic!("no session"),
                }
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_cancel_request_is_passed_on_with_its_key() {
    on_worker(
        |_, _| {},
        |worker| async move {
            let (mut client, ours) = pair().await;
            client.write_all(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x2a\x01\x02\x03\x04").await.unwrap();
            let Some(Arrival::Cancel(canceller)) = login(ours, &worker).await else { panic!() };
            let key = canceller.key.expect("as long as ours");
            assert_eq!((key.process_id(), key.secret()), (42, [1, 2, 3, 4]));
            let (mut client, ours) = pair().await;
            client.write_all(b"\0\0\0\x14\x04\xd2\x16\x2e\0\0\0\x2a\x01\x02\x03\x04\x05\x06\x07\x08").await.unwrap();
            let Some(Arrival::Cancel(canceller)) = login(ours, &worker).await else { panic!() };
            assert!(canceller.key.is_none(), "a longer secret than ours have");
        },
    )
    .await;
}

#[tokio::test]
async fn a_replication_connection_is_opened_with_the_clients_own_parameters() {
    let scripts = vec![vec![welcome()]];
    let mut heard = None;
    behind(
        scripts,
        |postgres, server| {
            postgres.auth_type = AuthType::Trust;
            heard = Some(server.log());
        },
        |worker| async move {
            let (mut client, ours) = pair().await;
            let body = b"\0\x03\0\0user\0bob\0database\0shop\0replication\0on\0options\0-c geqo=off\0\0";
            let words = [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat();
            client.write_all(&words).await.unwrap();
            let Some(Arrival::Replication(replicating, ..)) = login(ours, &worker).await else { panic!() };
            assert_eq!(replicating.kind().label(), "physical");
        },
    )
    .await;
    let heard = heard.unwrap().borrow().clone();
    assert_eq!(heard.len(), 1, "it takes a connection of its own, and no other is opened for it");
    assert!(heard[0].ends_with(b"user\0bob\0database\0shop\0replication\0true\0options\0-c geqo=off\0\0"), "{:?}", heard[0]);
}

#[tokio::test]
async fn pools_that_clients_name_are_bounded_and_unused_ones_give_way() {
    let settings = |postgres: &mut Postgres, server: &Scripted| {
        postgres.databases.insert(route::ANY.into(), PgDatabase::at(Upstream::Unix(server.path())));
    };
    on_worker(settings, |worker| async move {
        let config = Arc::clone(&worker.config.borrow());
        let postgres = config.postgres.as_ref().unwrap();
        let pools = &worker.postgres.pools;
        let get = |name: String| pools.get(&route::route(postgres, &name, "bob").unwrap(), &worker);
        let mut held: Vec<_> = (0..super::super::pools::MAX_AUTO_POOLS).map(|index| get(format!("db{index}")).unwrap()).collect();
        assert!(get("one more".into()).is_err());
        assert!(get("db0".into()).is_ok());
        assert!(get("shop".into()).is_ok(), "the configured ones are not counted");
        held.pop();
        assert!(get("one more".into()).is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_reload_resizes_replaces_and_drains() {
    on_worker(
        |_, _| {},
        |worker| async move {
            assert!(log_in(&worker, "bob", "shop", Some("pw")).await.0.is_ok());
            let old = Config::clone(&worker.config.borrow());
            let max = |worker: &Worker| worker.postgres.pools(clock::now())[0].state.max;
            assert_eq!(max(&worker), 20);

            let mut bigger = old.clone();
            let shop = bigger.postgres.as_mut().unwrap().databases.get_mut("shop").unwrap();
            shop.limits.pool_size = 7;
            shop.password = Some(Secret::new("rotated"));
            worker.apply(&Arc::new(bigger.clone()));
            assert_eq!(max(&worker), 7);
            let route = route::route(bigger.postgres.as_ref().unwrap(), "shop", "bob").unwrap();
            let pool = worker.postgres.pools.get(&route, &worker).unwrap();
            assert_eq!(pool.pool.connector().target().password, Some(Secret::new("rotated")));

            let mut without = bigger;
            without.postgres.as_mut().unwrap().databases.remove("shop");
            worker.apply(&Arc::new(without));
            assert!(worker.postgres.pools(clock::now()).is_empty());
            assert!(pool.pool.snapshot(clock::now()).draining);
            let (result, _, _) = log_in(&worker, "bob", "shop", Some("pw")).await;
            assert_eq!(refused(result).sqlstate, Some(SqlState::INVALID_CATALOG_NAME));
        },
    )
    .await;
}
