//! Tests of the login to a server, some of them against our own server side.

use proptest::prelude::*;

use super::super::client_side::{Asked, Challenge, Method, Proven, Step};
use super::super::scram::{MECHANISM, Parameters, Verifier};
use super::*;
use crate::postgres::encode;
use crate::postgres::fault::Fault;
use crate::postgres::tracker::TransactionStatus;

fn begin(password: Option<&str>) -> UpstreamLogin {
    let mut out = BytesMut::new();
    let login = UpstreamLogin::begin(("bob", "shop"), &[], password, "abc".into(), &mut out).unwrap();
    assert_eq!(&out[8..], b"user\0bob\0database\0shop\0\0");
    login
}

/// Feeds messages that `encode` makes; the answer to the last.
fn feed(login: &mut UpstreamLogin, encode: impl FnOnce(&mut Vec<u8>)) -> (Result<Progress, UpstreamError>, BytesMut) {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    let mut out = BytesMut::new();
    (login.on_message(bytes[0], &bytes[5..], &mut out), out)
}

fn finish(login: &mut UpstreamLogin) -> Welcome {
    assert!(matches!(feed(login, encode::authentication_ok).0, Ok(Progress::Read)));
    assert!(matches!(feed(login, |out| encode::parameter_status("TimeZone", "UTC", out)).0, Ok(Progress::Read)));
    assert!(matches!(feed(login, |out| encode::backend_key_data(7, &[1, 2, 3, 4], out)).0, Ok(Progress::Read)));
    assert!(matches!(feed(login, |out| encode::notice_response(&Fault::error(SqlState::INTERNAL_ERROR, "n"), out)).0, Ok(Progress::Read)));
    match feed(login, |out| encode::ready_for_query(TransactionStatus::Idle, out)).0 {
        Ok(Progress::LoggedIn(welcome)) => welcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn trust_needs_no_password() {
    let welcome = finish(&mut begin(None));
    assert_eq!(welcome.parameters.get("timezone"), Some("UTC"));
    assert_eq!(&*welcome.key, [0, 0, 0, 7, 1, 2, 3, 4]);
}

#[test]
fn clear_text() {
    let mut login = begin(Some("pw"));
    let (progress, out) = feed(&mut login, encode::authentication_cleartext);
    assert!(matches!(progress, Ok(Progress::Read)));
    assert_eq!(&out[..], b"p\0\0\0\x07pw\0");
    finish(&mut login);
}

#[test]
fn md5_from_a_password_or_a_digest() {
    let digest = format!("md5{}", *md5::stored_digest("bob", "pw"));
    for secret in ["pw", &digest] {
        let mut login = begin(Some(secret));
        let (progress, out) = feed(&mut login, |out| encode::authentication_md5(*b"salt", out));
        assert!(matches!(progress, Ok(Progress::Read)));
        assert_eq!(&out[5..40], postgres_protocol::authentication::md5_hash(b"bob", b"pw", *b"salt").as_bytes());
        finish(&mut login);
    }
}

fn some_end_point() -> Option<EndPoint> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["db".to_owned()]).unwrap().self_signed(&key).unwrap();
    let end_point = EndPoint::of(certificate.der());
    assert!(end_point.is_some());
    end_point
}

#[test]
fn scram_against_our_own_server_side_bound_or_not() {
    let verifier = Verifier::derive("pw", Parameters::made_up(&[0; 32], "bob", 64));
    for end_point in [None, some_end_point()] {
        let mut login = begin(Some("pw")).bound_to(end_point.clone());
        let Ok(Some(Proven::Keys(keys))) = exchange(&mut login, &verifier) else { panic!() };
        finish(&mut login);
        let mut keyed = begin(None).bound_to(end_point).with_keys(Some(keys));
        assert!(exchange(&mut keyed, &verifier).unwrap().is_some());
        finish(&mut keyed);
    }
}

#[test]
fn it_binds_where_the_server_can_and_says_that_it_could_where_not() {
    for (offered, said) in [(&[PLUS, MECHANISM][..], "SCRAM-SHA-256-PLUS\0"), (&[MECHANISM], "y,,n=")] {
        let mut login = begin(Some("pw")).bound_to(some_end_point());
        let (progress, out) = feed(&mut login, |out| encode::authentication_sasl(offered, out));
        assert!(matches!(progress, Ok(Progress::Read)));
        assert!(String::from_utf8_lossy(&out).contains(said), "{said}");
    }
}

/// Logs `login` in to our own server side, which has `verifier`; what that learns of the password.
fn exchange(login: &mut UpstreamLogin, verifier: &Verifier) -> Result<Option<Proven>, UpstreamError> {
    let challenge =
        Challenge { md5_salt: [0; 4], scram_nonce: "nonce".into(), scram: verifier.parameters.clone(), end_point: login.end_point.clone() };
    let (mut from_server, mut to_server) = (Vec::new(), BytesMut::new());
    let mut asked = Asked::begin(Method::Scram, challenge, &mut from_server);
    loop {
        to_server.clear();
        if let Progress::NeedKeys(parameters) = login.on_message(b'R', &from_server[5..], &mut to_server)? {
            login.on_keys(&ScramKeys::derive("pw", parameters), &mut to_server)?;
        }
        from_server.clear();
        match asked.on_message(b'p', &to_server[5..], &mut from_server).unwrap() {
            Step::Ask(next) => asked = next,
            Step::Check(claim) => {
                let proven = claim.check("bob", Some(&Stored::Scram(Box::new(verifier.clone()))), &mut from_server);
                if proven.is_some() {
                    login.on_message(b'R', &from_server[5..], &mut to_server)?;
                }
                return Ok(proven);
            }
        }
    }
}

#[test]
fn the_keys_of_a_clients_login_are_enough() {
    let parameters = Parameters::made_up(&[0; 32], "bob", 64);
    let verifier = Verifier::derive("pw", parameters.clone());
    let Ok(Some(Proven::Keys(keys))) = exchange(&mut begin(Some("pw")), &verifier) else { panic!() };
    let stored = postgres_protocol::password::scram_sha_256(b"pw");
    for password in [None, Some(&*stored)] {
        let mut login = begin(password).with_keys(Some(keys.clone()));
        assert!(exchange(&mut login, &verifier).unwrap().is_some());
        finish(&mut login);
        assert!(
            exchange(&mut begin(password).with_keys(Some(keys.clone())), &Verifier::derive("px", parameters.clone())).unwrap().is_none()
        );
        let other = Verifier::derive("pw", Parameters::made_up(&[1; 32], "bob", 64));
        let error = exchange(&mut begin(password).with_keys(Some(keys.clone())), &other).unwrap_err();
        assert_eq!(error, UpstreamError::OtherVerifier);
    }
    let error = exchange(&mut begin(Some(&stored)), &verifier).unwrap_err();
    assert_eq!(error, UpstreamError::NoKeys);
    assert!(error.to_string().contains("log in by SCRAM-SHA-256 first"));
}

#[test]
fn a_server_that_does_not_know_the_password_is_not_believed() {
    let mut login = begin(Some("pw"));
    feed(&mut login, |out| encode::authentication_sasl(&[MECHANISM], out)).0.unwrap();
    // It skips the exchange.
    assert!(matches!(feed(&mut login, encode::authentication_ok).0, Err(UpstreamError::Protocol(_))));
    // It makes up its last message.
    let mut login = begin(Some("pw"));
    let (_, first) = feed(&mut login, |out| encode::authentication_sasl(&["X", MECHANISM], out));
    let nonce = std::str::from_utf8(&first).unwrap().split_once("r=").unwrap().1.to_owned();
    let server_first = format!("r={nonce}x,s=c2FsdA==,i=4096");
    let Ok(Progress::NeedKeys(parameters)) = feed(&mut login, |out| encode::authentication_sasl_continue(server_first.as_bytes(), out)).0
    else {
        panic!()
    };
    login.on_keys(&ScramKeys::derive("pw", parameters), &mut BytesMut::new()).unwrap();
    let made_up = b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert!(matches!(feed(&mut login, |out| encode::authentication_sasl_final(made_up, out)).0, Err(UpstreamError::Protocol(_))));
}

#[test]
fn without_a_usable_password_it_says_so() {
    let verifier = postgres_protocol::password::scram_sha_256(b"pw");
    for password in [None, Some(&*verifier)] {
        assert!(matches!(feed(&mut begin(password), encode::authentication_cleartext).0, Err(UpstreamError::NoPassword(_))));
        assert!(matches!(feed(&mut begin(password), |out| encode::authentication_md5(*b"salt", out)).0, Err(UpstreamError::NoPassword(_))));
        let error = feed(&mut begin(password), |out| encode::authentication_sasl(&[MECHANISM], out)).0.unwrap_err();
        assert!(matches!(error, UpstreamError::NoPassword(_) | UpstreamError::NoKeys));
        assert!(!error.to_string().contains("SCRAM-SHA-256$"));
    }
}

#[test]
fn refusals_and_nonsense_are_named() {
    let refusal = Fault::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
    let error = feed(&mut begin(None), |out| encode::error_response(&refusal, out)).0.unwrap_err();
    assert_eq!(error.to_string(), "sorry, too many clients already (SQLSTATE 53300)");
    for (tag, body) in [(b'Z', &b"I"[..]), (b'S', b"a\0b\0"), (b'K', b""), (b'R', b""), (b'R', b"\0\0\0\x63"), (b'H', b"TTP"), (b'?', b"")]
    {
        assert!(matches!(begin(None).on_message(tag, body, &mut BytesMut::new()), Err(UpstreamError::Protocol(_))), "{tag}");
    }
    for kind in [7, 9] {
        let error = begin(None).on_message(b'R', &[0, 0, 0, kind], &mut BytesMut::new()).unwrap_err();
        assert!(matches!(error, UpstreamError::Unsupported(_)));
    }
    assert!(matches!(
        feed(&mut begin(Some("x")), |out| encode::authentication_sasl(&["OTHER"], out)).0,
        Err(UpstreamError::Unsupported(_))
    ));
}

#[test]
fn the_number_of_messages_is_bounded() {
    let mut login = begin(None);
    for _ in 0..MAX_MESSAGES {
        login.on_message(b'N', b"\0", &mut BytesMut::new()).unwrap();
    }
    assert!(matches!(login.on_message(b'N', b"\0", &mut BytesMut::new()), Err(UpstreamError::Protocol(_))));
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(messages in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8)) {
        let mut login = begin(Some("pw"));
        let mut out = BytesMut::new();
        for (tag, body) in messages {
            for tag in [tag, b'R', b'E'] {
                if let Ok(Progress::NeedKeys(parameters)) = login.on_message(tag, &body, &mut out) {
                    let _ = login.on_keys(&ScramKeys::derive("pw", Parameters { iterations: 1, ..parameters }), &mut out);
                }
            }
        }
    }
}
