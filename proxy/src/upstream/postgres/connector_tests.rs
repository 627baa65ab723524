//! Tests of the connector against a scripted server.

use std::cell::RefCell;
use std::rc::Rc;

use sidepool_config::model::{TcpOptions, Upstream, UpstreamTls};
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::tracker::Owed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::super::pins::Cause;
use super::super::scripted::{Script, Scripted, complete, refusal, welcome};
use super::*;
use crate::upstream::dial::Dialing;

const BOUND: Duration = Duration::from_secs(3);

fn target(upstream: Upstream) -> Target {
    Target::of_bob(upstream)
}

fn to(target: Target) -> PgConnector {
    let dialer = Dialing::default().dialer(&target.hosts, target.balance, &TcpOptions::default(), BOUND);
    PgConnector::new(target, dialer, BOUND, Learned::default())
}

fn connector(server: &Scripted) -> PgConnector {
    to(target(Upstream::Unix(server.path())))
}

async fn connect(script: Script) -> Result<PgConnection, ConnectFault> {
    connector(&Scripted::start(vec![script])).connect().await
}

#[tokio::test]
async fn it_logs_in_and_learns() {
    LocalSet::new()
        .run_until(async {
            let server = Scripted::start(vec![vec![welcome()]]);
            let connector = connector(&server);
            assert!(connector.learned.get().is_none());
            let connection = connector.connect().await.unwrap();
            assert_eq!(connection.cancel.key(), [0, 0, 0, 42, 1, 2, 3, 4]);
            assert_eq!(connection.parameters.get("timezone"), Some("UTC"));
            assert!(Rc::ptr_eq(&connector.learned.get().unwrap(), &connection.baseline));
            assert!(server.heard()[0].ends_with(b"\0\x03\0\0user\0bob\0database\0shop\0\0"));
        })
        .await;
}

#[tokio::test]
async fn what_goes_wrong_is_classified() {
    LocalSet::new()
        .run_until(async {
            for (said, kind, code) in [
                (refusal(b"53300", "too many"), ConnectFaultKind::TooMany, Some("53300")),
                (refusal(b"57P03", "starting up"), ConnectFaultKind::Unavailable, Some("57P03")),
                (refusal(b"28P01", "wrong"), ConnectFaultKind::Auth, Some("28P01")),
                (refusal(b"3D000", "absent"), ConnectFaultKind::NoDatabase, Some("3D000")),
                (b"R\0\0\0\x08\0\0\0\x03".to_vec(), ConnectFaultKind::Auth, None),
                (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), ConnectFaultKind::Protocol, None),
                (b"Z\0\0\0\x05I".to_vec(), ConnectFaultKind::Protocol, None),
                (b"R\xff\xff\xff\xff".to_vec(), ConnectFaultKind::Protocol, None),
                (b"R\0\0".to_vec(), ConnectFaultKind::Timeout, None),
                (Vec::new(), ConnectFaultKind::Timeout, None),
                ([welcome(), b"Z".to_vec()].concat(), ConnectFaultKind::Protocol, None),
            ] {
                let fault = connect(vec![said.clone()]).await.unwrap_err();
                assert_eq!((fault.kind, fault.code.as_deref()), (kind, code), "{} after {said:?}", fault.message);
                assert!(fault.message.contains("socket"), "{}", fault.message);
            }
            assert_eq!(connect(Vec::new()).await.unwrap_err().kind, ConnectFaultKind::Unavailable);
        })
        .await;
}

#[test]
fn a_cancel_takes_little_of_the_stack_of_whoever_may_send_one() {
    let connector = to(target(Upstream::Unix("/nowhere".into())));
    let connection = Cancellable::new(Box::default(), Arc::new(Server::nowhere()));
    let bytes = size_of_val(&connector.cancel(&connection));
    assert!(bytes < 1024, "{bytes} bytes, for which each turn of each client's session may make room");
}

#[tokio::test]
async fn a_probe_is_an_empty_query() {
    LocalSet::new()
        .run_until(async {
            let mut alive = b"I\0\0\0\x04".to_vec();
            encode::ready_for_query(TransactionStatus::Idle, &mut alive);
            let server = Scripted::start(vec![vec![welcome(), alive]]);
            let connector = connector(&server);
            let mut connection = connector.connect().await.unwrap();
            connector.probe(&mut connection).await.unwrap();
            assert_eq!(server.heard()[1], b"Q\0\0\0\x05\0");
            assert_eq!(connector.probe(&mut connection).await.unwrap_err().kind, ConnectFaultKind::Unavailable);
        })
        .await;
}

#[tokio::test]
async fn a_reset_leaves_nothing() {
    LocalSet::new()
        .run_until(async {
            let mut said = Vec::new();
            encode::parameter_status("TimeZone", "UTC", &mut said);
            said.extend(complete(TransactionStatus::Idle));
            let server = Scripted::start(vec![vec![welcome(), said]]);
            let connector = connector(&server);
            let mut connection = connector.connect().await.unwrap();
            connection.parameters.set("TimeZone", "Europe/Zurich").unwrap();
            connection.link.pins.add(Cause::Listening);
            connector.reset(&mut connection).await.unwrap();
            assert_eq!(server.heard()[1], b"Q\0\0\0\x10DISCARD ALL\0");
            assert_eq!(connection.parameters.get("TimeZone"), Some("UTC"));
            assert!(connection.link.pins.is_empty());
        })
        .await;
}

#[tokio::test]
async fn a_reset_ends_an_open_transaction_first() {
    LocalSet::new()
        .run_until(async {
            let server = Scripted::start(vec![vec![welcome(), complete(TransactionStatus::Idle), complete(TransactionStatus::Idle)]]);
            let connector = connector(&server);
            let mut connection = connector.connect().await.unwrap();
            let tracker = &mut connection.link.tracker;
            tracker.owe(Owed::Query(crate::upstream::postgres::link::Note::None));
            tracker.on_ready(TransactionStatus::InTransaction).unwrap();
            connector.reset(&mut connection).await.unwrap();
            assert_eq!(server.heard()[1..], [b"Q\0\0\0\x0dROLLBACK\0".to_vec(), b"Q\0\0\0\x10DISCARD ALL\0".to_vec()]);
            assert_eq!(connection.link.tracker.status(), TransactionStatus::Idle);
        })
        .await;
}

#[tokio::test]
async fn a_reset_that_did_not_work_is_an_error() {
    LocalSet::new()
        .run_until(async {
            let mut failed = refusal(b"25001", "DISCARD ALL cannot run inside a transaction block");
            encode::ready_for_query(TransactionStatus::Idle, &mut failed);
            for said in [
                failed,
                complete(TransactionStatus::InTransaction),
                [complete(TransactionStatus::Idle), b"Z".to_vec()].concat(),
                b"1\0\0\0\x04".to_vec(),
                b"?\0\0\0\x04".to_vec(),
                b"Z\0\0\0\x00".to_vec(),
            ] {
                let server = Scripted::start(vec![vec![welcome(), said.clone()]]);
                let connector = connector(&server);
                let mut connection = connector.connect().await.unwrap();
                assert!(connector.reset(&mut connection).await.is_err(), "{said:?}");
            }
        })
        .await;
}

#[tokio::test]
async fn a_reset_waits_for_a_cancel_under_way_and_fails_on_a_doubtful_one() {
    LocalSet::new()
        .run_until(async {
            let server = Scripted::start(vec![vec![welcome(), complete(TransactionStatus::Idle)]]);
            let connector = connector(&server);
            let mut connection = connector.connect().await.unwrap();
            let flight = Rc::clone(&connection.cancel).begin();
            let reset = tokio::time::timeout(Duration::from_millis(20), connector.reset(&mut connection)).await;
            assert!(reset.is_err(), "it waits");
            flight.delivered();
            connector.reset(&mut connection).await.unwrap();

            let mut connection = connector.connect().await.unwrap();
            drop(Rc::clone(&connection.cancel).begin());
            assert!(connector.reset(&mut connection).await.is_err());
        })
        .await;
}

#[tokio::test]
async fn a_cancel_is_over_when_the_server_closes() {
    LocalSet::new()
        .run_until(async {
            let server = Scripted::start(vec![vec![]]);
            let at = |key: &[u8]| {
                let path = server.path();
                Cancellable::new(key.into(), Arc::new(Server::at(path)))
            };
            connector(&server).cancel(&at(&[0, 0, 0, 42, 1, 2, 3, 4])).await.unwrap();
            assert_eq!(server.heard(), [b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x2a\x01\x02\x03\x04".to_vec()]);
            assert!(connector(&server).cancel(&at(&[])).await.is_err());
            drop(server);
        })
        .await;
}

/// Answers the request for TLS with one byte, and what follows with a welcome.
async fn tls_against(answer: u8, tls: UpstreamTls) -> Result<PgConnection, ConnectFault> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request, *b"\0\0\0\x08\x04\xd2\x16\x2f");
        stream.write_all(&[answer]).await.unwrap();
        super::super::scripted::play(stream, vec![welcome()], Rc::new(RefCell::default())).await;
    });
    let target = Target { tls, ..target(Upstream::Tcp { host: "127.0.0.1".into(), port }) };
    to(target).connect().await
}

#[tokio::test]
async fn tls_is_asked_for_and_insisted_on() {
    LocalSet::new()
        .run_until(async {
            assert!(tls_against(b'N', UpstreamTls::Prefer).await.is_ok());
            for tls in [UpstreamTls::Require, UpstreamTls::VerifyFull] {
                assert_eq!(tls_against(b'N', tls).await.unwrap_err().kind, ConnectFaultKind::Tls);
            }
            assert_eq!(tls_against(b'E', UpstreamTls::Prefer).await.unwrap_err().kind, ConnectFaultKind::Protocol);
            // It agrees and then does not speak TLS.
            let fault = tls_against(b'S', UpstreamTls::Require).await.unwrap_err();
            assert!(matches!(fault.kind, ConnectFaultKind::Tls | ConnectFaultKind::Timeout), "{}", fault.message);
        })
        .await;
}
