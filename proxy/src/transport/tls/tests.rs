//! Tests of streams under TLS against each other, over real sockets: sizes, endings, memory, and a peer that stops reading.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Waker};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sidepool_config::model::{ClientSslMode, ClientTls, ServerTls, UpstreamTls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What both sides are met with: `localhost`, and a client called `bob`.
fn contexts(protocols: &str) -> (Arc<ClientContext>, Arc<ServerContext>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
    };
    let ((server_cert, server_key), (client_cert, client_key)) = (issue("localhost"), issue("bob"));
    let files = [
        ("ca", ca.pem()),
        ("server.crt", server_cert),
        ("server.key", server_key),
        ("client.crt", client_cert),
        ("client.key", client_key),
    ];
    let mut read = |path: &Path| {
        let text = &files.iter().find(|(name, _)| Path::new(name) == path).unwrap().1;
        (path.to_owned(), Ok(text.as_bytes().to_vec().into()))
    };
    let path = |name: &str| Some(PathBuf::from(name));
    let mut client = ClientTls {
        sslmode: ClientSslMode::VerifyCa,
        protocols: protocols.to_owned(),
        ca_file: path("ca"),
        key_file: path("server.key"),
        cert_file: path("server.crt"),
        ..ClientTls::default()
    };
    assert_eq!(client.load(&mut read), []);
    let mut server = ServerTls { ca_file: path("ca"), key_file: path("client.key"), cert_file: path("client.crt"), ..ServerTls::default() };
    assert_eq!(server.load(&[UpstreamTls::VerifyFull], &mut read), []);
    (client.context.unwrap(), server.context.unwrap())
}

async fn plain() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Stream::Tcp(near), Stream::Tcp(listener.accept().await.unwrap().0))
}

/// A client's end and a server's.
async fn pair(protocols: &str) -> (Stream, Stream) {
    let (clients, servers) = contexts(protocols);
    let (mut near, mut far) = plain().await;
    let config = Arc::clone(servers.for_mode(UpstreamTls::VerifyFull));
    let (connected, accepted) = tokio::join!(connect(&mut near, "localhost", config), accept(&mut far, &clients, Vec::new(), None));
    connected.unwrap();
    accepted.unwrap();
    (near, far)
}

#[tokio::test]
async fn bytes_of_every_size_pass_and_no_buffer_is_left() {
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        let (mut near, mut far) = pair(protocols).await;
        for size in [1, 100, 4096, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 64 * 1024 + 1, 3_000_000] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let there = async {
                near.write_all(&bytes).await.unwrap();
                near.flush().await.unwrap();
            };
            let mut got = vec![0; size];
            let (_, read) = tokio::join!(there, far.read_exact(&mut got));
            read.unwrap();
            assert_eq!(got, bytes);
            // Back, through a buffer that is smaller than a record.
            let back = async {
                far.write_all(&bytes).await.unwrap();
                far.flush().await.unwrap();
            };
            let small = async {
                let (mut got, mut buffer) = (Vec::new(), [0; 1000]);
                while got.len() < size {
                    let read = poll_fn(|cx| near.poll_read(cx, &mut buffer)).await.unwrap();
                    got.extend_from_slice(&buffer[..read]);
                }
                got
            };
            assert_eq!(tokio::join!(back, small).1, bytes);
        }
        for stream in [&near, &far] {
            let Stream::Tls(tls) = stream else { panic!() };
            assert_eq!(tls.buffered_capacity(), 0, "an idle connection holds no buffer");
        }
    }
}

#[tokio::test]
async fn both_know_the_other() {
    let (near, far) = pair("tlsv1.3").await;
    assert_eq!(far.tls_peer().unwrap().common_name().as_deref(), Some("bob"));
    assert_eq!(near.tls_peer().unwrap().common_name().as_deref(), Some("localhost"));
    assert_eq!(near.tls_peer().unwrap().server_certificate(), far.tls_peer().unwrap().server_certificate());
    assert_eq!(near.tls_peer().unwrap().alpn(), Some(ALPN));
    assert_eq!(far.tls_description().as_deref(), Some("TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519"));
    assert!(pair("tlsv1.2").await.1.tls_description().unwrap().starts_with("TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH="));
    assert!(far.local_address().is_some() && matches!(far.peer(), crate::transport::stream::Peer::Tcp(_)));
}

#[tokio::test]
async fn an_end_is_an_end_with_goodbye_or_without() {
    let (mut near, mut far) = pair("tlsv1.3").await;
    near.write_all(b"last words").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"last words");
    far.write_all(b"still heard").await.unwrap();
    let mut answer = [0; 11];
    near.read_exact(&mut answer).await.unwrap();

    let (mut near, mut far) = pair("tlsv1.3").await;
    near.write_all(b"cut").await.unwrap();
    let Stream::Tls(cut) = near else { panic!() };
    drop(cut);
    let mut heard = Vec::new();
    // The socket may be reset because of the ticket that nobody has read.
    let _ = far.read_to_end(&mut heard).await;
    assert_eq!(heard, b"cut");
}

#[tokio::test]
async fn who_does_not_read_is_waited_for_and_costs_one_piece() {
    let (mut near, mut far) = pair("tlsv1.3").await;
    let bytes = vec![7; 64 * 1024];
    let mut cx = Context::from_waker(Waker::noop());
    let mut sent = 0;
    while let std::task::Poll::Ready(count) = near.poll_write(&mut cx, &bytes) {
        sent += count.unwrap();
    }
    assert!(near.poll_sent(&mut cx).is_pending());
    let Stream::Tls(tls) = &near else { panic!() };
    assert!(tls.buffered_capacity() <= 160 * 1024, "{}", tls.buffered_capacity());
    let reader = async {
        let (mut total, mut buffer) = (0, vec![0; 9000]);
        while total < sent {
            total += far.read(&mut buffer).await.unwrap();
        }
    };
    let (result, ()) = tokio::join!(poll_fn(|cx| near.poll_sent(cx)), reader);
    result.unwrap();
    let Stream::Tls(tls) = &near else { panic!() };
    assert_eq!(tls.buffered_capacity(), 0);
}

#[tokio::test]
async fn what_is_not_tls_is_an_error_and_leaves_the_plain_stream() {
    let (clients, _) = contexts("secure");
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 4, 1, 0, 0, 0], &[0x15, 3, 1, 0, 2, 2, 40], &[0x17, 3, 3, 0, 1, 0]] {
        let (mut near, mut far) = plain().await;
        near.write_all(junk).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(accept(&mut far, &clients, Vec::new(), None).await.is_err(), "{junk:?}");
        assert!(matches!(far, Stream::Tcp(_)));
    }
    // A message that claims to be longer than any is refused before it is held.
    let (mut near, mut far) = plain().await;
    let endless = async {
        let record = [&[0x16, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
        while near.write_all(&record).await.is_ok() {}
    };
    let refused = async {
        assert!(accept(&mut far, &clients, Vec::new(), None).await.is_err());
        drop(far);
    };
    tokio::join!(endless, refused);
}

#[tokio::test]
async fn it_moves_to_another_runtime() {
    let (mut near, far) = pair("tlsv1.3").await;
    let mut far = Stream::attach(far.detach().unwrap()).unwrap();
    near.write_all(b"moved").await.unwrap();
    let mut heard = [0; 5];
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"moved");
}
