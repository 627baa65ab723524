//! Tests of the start-up packet reader.

use proptest::prelude::*;

use super::*;

fn head(length: u32, code: u32) -> [u8; 8] {
    let mut head = [0; 8];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4..].copy_from_slice(&code.to_be_bytes());
    head
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn requests_before_startup() {
    assert_eq!(opening(head(8, 80_877_103)), Ok(Opening::Ssl));
    assert_eq!(opening(head(8, 80_877_104)), Ok(Opening::Gss));
    assert_eq!(opening(head(9, 80_877_103)), Err(Stranger::RequestLength(9)));
    assert_eq!(opening(head(16, 80_877_102)), Ok(Opening::Cancel(8)));
    assert_eq!(opening(head(268, 80_877_102)), Ok(Opening::Cancel(260)));
    for length in [8, 15, 269] {
        assert_eq!(opening(head(length, 80_877_102)), Err(Stranger::RequestLength(length)));
    }
}

#[test]
fn versions_and_lengths() {
    assert_eq!(opening(head(8, 196_608)), Ok(Opening::Startup { minor: 0, remaining: 0 }));
    assert_eq!(opening(head(50, 196_610)), Ok(Opening::Startup { minor: 2, remaining: 42 }));
    assert_eq!(opening(head(10_004, 196_608)), Ok(Opening::Startup { minor: 0, remaining: 9_996 }));
    assert_eq!(opening(head(296, 131_072)), Err(Stranger::Version(2, 0)));
    assert_eq!(opening(head(8, 4 << 16)), Err(Stranger::Version(4, 0)));
    for length in [0, 4, 7, 10_005, 0x8000_0000, u32::MAX] {
        assert_eq!(opening(head(length, 196_608)), Err(Stranger::Length(length)));
    }
}

#[test]
fn strangers_are_named() {
    assert_eq!(opening(*b"GET / HT"), Err(Stranger::Http));
    assert_eq!(opening(*b"POST /x "), Err(Stranger::Http));
    assert_eq!(opening(*b"OPTIONS "), Err(Stranger::Http));
    assert_eq!(opening(*b"PRI * HT"), Err(Stranger::Http));
    assert_eq!(opening(*b"\x16\x03\x01\x02\x00\x01\x00\x01"), Ok(Opening::DirectTls));
    assert_eq!(opening(*b"*1\r\n$4\r\n"), Err(Stranger::Redis));
    assert_eq!(opening(*b"PING\r\n\0\0"), Err(Stranger::Redis));
    for stranger in
        [Stranger::Http, Stranger::Tls, Stranger::Redis, Stranger::Length(1), Stranger::Version(2, 0), Stranger::RequestLength(9)]
    {
        assert!(!stranger.label().is_empty() && !stranger.fault().message.is_empty());
    }
}

#[test]
fn a_cancel_key_has_an_id_and_a_secret() {
    assert_eq!(cancel_key(&[0, 0, 0, 7, 1, 2, 3, 4]), Some((7, &[1, 2, 3, 4][..])));
    assert_eq!(cancel_key(&[0, 0, 0, 7, 1, 2, 3]), None);
    assert_eq!(cancel_key(&[]), None);
}

#[test]
fn a_startup_message() {
    let startup = startup(b"user\0bob\0database\0shop\0application_name\0psql\0DateStyle\0ISO\0_pq_.x\0on\0\0", false).unwrap();
    assert_eq!((&*startup.user, &*startup.database, startup.replication), ("bob", "shop", None));
    assert_eq!(startup.parameters, pairs(&[("application_name", "psql"), ("DateStyle", "ISO")]));
    assert_eq!(startup.protocol_options, [Box::<str>::from("_pq_.x")]);
}

#[test]
fn the_database_is_the_users_unless_said() {
    assert_eq!(&*startup(b"user\0bob\0\0", false).unwrap().database, "bob");
    assert_eq!(&*startup(b"user\0bob\0database\0\0\0", false).unwrap().database, "bob");
}

#[test]
fn malformed_startup_messages_are_named() {
    for (bytes, error) in [
        (&b""[..], StartupError::Layout),
        (b"user\0bob", StartupError::Layout),
        (b"user\0bob\0", StartupError::Layout),
        (b"user\0\0bob\0", StartupError::Layout),
        (b"\0", StartupError::NoUser),
        (b"database\0x\0\0", StartupError::NoUser),
        (b"user\0\0\0", StartupError::NoUser),
        (b"user\0b\xff\0\0", StartupError::Encoding),
    ] {
        assert_eq!(startup(bytes, false), Err(error.clone()), "{bytes:?}");
        assert!(!error.fault().message.is_empty());
    }
    let long = format!("user\0{}\0\0", "u".repeat(MAX_NAME_BYTES + 1));
    assert_eq!(startup(long.as_bytes(), false), Err(StartupError::LongName("username")));
    let long = format!("user\0u\0database\0{}\0\0", "d".repeat(MAX_NAME_BYTES + 1));
    assert_eq!(startup(long.as_bytes(), false), Err(StartupError::LongName("database name")));
}

#[test]
fn replication_is_noticed_unless_denied() {
    let kind = |value: &str| startup(format!("user\0a\0replication\0{value}\0\0").as_bytes(), false).map(|startup| startup.replication);
    assert_eq!(kind("database"), Ok(Some(Replication::Logical)));
    for yes in ["true", "on", "1", "YES", "t"] {
        assert_eq!(kind(yes), Ok(Some(Replication::Physical)), "{yes}");
    }
    for no in ["off", "0", "False"] {
        assert_eq!(kind(no), Ok(None), "{no}");
    }
    assert_eq!(kind("maybe"), Err(StartupError::Replication("maybe".into())));
}

#[test]
fn replication_forwards_its_parameters_as_they_came() {
    let packet = b"user\0a\0replication\0true\0application_name\0walreceiver\0options\0-c geqo=off -d 5\0\0";
    let read = startup(packet, false).unwrap();
    assert_eq!(read.parameters, []);
    assert_eq!(read.forwarded, pairs(&[("application_name", "walreceiver"), ("options", "-c geqo=off -d 5")]));
    assert_eq!(startup(b"user\0a\0application_name\0x\0\0", false).unwrap().forwarded, []);
}

#[test]
fn options_come_first_and_may_be_escaped() {
    let packet = b"user\0a\0work_mem\08MB\0options\0-c geqo=off --search-path=a\\ b\\\\ -cjit=on\0\0";
    assert_eq!(
        startup(packet, false).unwrap().parameters,
        pairs(&[("geqo", "off"), ("search_path", "a b\\"), ("jit", "on"), ("work_mem", "8MB")])
    );
}

#[test]
fn other_options_are_refused_or_passed_over() {
    for option in ["-d", "-c", "--x", "-c =1", "word", "-c x"] {
        let packet = format!("user\0a\0options\0-c ok=1 {option}\0\0");
        assert!(matches!(startup(packet.as_bytes(), false), Err(StartupError::Option(_))), "{option}");
        assert_eq!(startup(packet.as_bytes(), true).unwrap().parameters, pairs(&[("ok", "1")]), "{option}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in any::<[u8; 8]>()) {
        let _ = opening(first);
        let _ = startup(&bytes, false);
        let _ = startup(&bytes, true);
        let _ = cancel_key(&bytes);
    }

    #[test]
    fn what_is_written_is_read(
        user in "[^\0]{1,30}",
        parameters in proptest::collection::vec(("[a-z_]{1,12}x", "[^\0]{0,20}"), 0..8),
    ) {
        let mut packet = format!("user\0{user}\0");
        for (name, value) in &parameters {
            packet.push_str(&format!("{name}\0{value}\0"));
        }
        packet.push('\0');
        let read = startup(packet.as_bytes(), false).unwrap();
        prop_assert_eq!(&*read.user, &user);
        let wanted: Vec<_> = parameters.iter().map(|(name, value)| (&**name, &**value)).collect();
        prop_assert_eq!(read.parameters.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>(), wanted);
    }
}
