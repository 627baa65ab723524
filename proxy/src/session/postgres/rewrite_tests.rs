//! Both scanners together against scripts: what reaches the server, what reaches the client, and what is remembered.

use sidepool_config::model::SlowLog;
use sidepool_protocol::postgres::frame::{BadLength, HEAD_BYTES};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::splice::Splice;

use super::inbound::{Body, Inbound, Rewriting, Rules, Stop, Violation};
use super::outbound::{News, Notifications, Outbound, ServerFault};
use super::prepared::{ClientStatements, StatementTable};
use crate::session::postgres::schema_clock::SchemaClock;
use crate::upstream::postgres::journal::Journal;
use crate::upstream::postgres::link::Link;
use crate::worker::WorkerId;

struct Client {
    id: u64,
    statements: Option<Box<ClientStatements>>,
    body: Body,
    pending: Vec<u8>,
}

struct World {
    table: StatementTable,
    capacity: usize,
    state: ParameterSet,
}

const RULES: Rules = Rules { max_packet: u32::MAX, simple_queries: true };

impl Client {
    fn new(id: u64) -> Self {
        Self { id, statements: None, body: Body::default(), pending: Vec::new() }
    }
}

impl World {
    fn new(capacity: usize) -> Self {
        Self { table: StatementTable::new(WorkerId(0), SchemaClock::default()), capacity, state: ParameterSet::new() }
    }

    /// The client sends; the answer is what the server is sent.
    fn send(&self, client: &mut Client, link: &mut Link, bytes: &[u8]) -> Result<Vec<u8>, Violation> {
        client.pending.extend_from_slice(bytes);
        let input = std::mem::take(&mut client.pending);
        let mut scratch = Vec::new();
        let mut out = Splice::new(&input, &mut scratch);
        let (table, capacity, state) = (&self.table, self.capacity, &self.state);
        let rewriting = Rewriting { client: &mut client.statements, client_id: client.id, table, capacity, state };
        let body = &mut client.body;
        let (consumed, stop) = Inbound { link, body, rewriting, rules: RULES, gate: None, admit: &|_| None, out: &mut out }.scan(&input)?;
        assert!(matches!(stop, Stop::NeedMore | Stop::Held(_)));
        client.pending = input[consumed..].to_vec();
        Ok(out.finish().to_vec())
    }
}

fn outbound<'a, 's>(client: &'a mut Client, link: &'a mut Link, out: &'a mut Splice<'s>) -> Outbound<'a, 's> {
    let client = &mut client.statements;
    let notifications = Notifications::Pinned;
    Outbound { link, client, notifications, rewriting: true, max_packet: usize::MAX, out, news: News::default() }
}

/// The server answers; the answer is what the client is sent.
fn answer(client: &mut Client, link: &mut Link, bytes: &[u8]) -> (Vec<u8>, News) {
    let mut input = std::mem::take(&mut link.carry);
    input.extend_from_slice(bytes);
    let mut scratch = Vec::new();
    let mut out = Splice::new(&input, &mut scratch);
    let mut outbound = outbound(client, link, &mut out);
    let consumed = outbound.scan(&input).unwrap();
    let news = outbound.news;
    link.carry = input[consumed..].to_vec();
    (out.finish().to_vec(), news)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(name: &str) -> Vec<u8> {
    message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn statement_message(tag: u8, name: &str) -> Vec<u8> {
    message(tag, format!("S{name}\0").as_bytes())
}

fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn error() -> Vec<u8> {
    message(b'E', b"SERROR\0VERROR\0C42601\0Mno\0\0")
}

/// The messages in `bytes`, as tag and body text.
fn show(mut bytes: &[u8]) -> String {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let head = sidepool_protocol::postgres::frame::head(bytes).unwrap().unwrap();
        let body = String::from_utf8_lossy(&bytes[HEAD_BYTES..head.message_bytes()]).replace('\0', ".");
        out.push(format!("{}{}", head.tag as char, body));
        bytes = &bytes[head.message_bytes()..];
    }
    out.join(" ")
}

#[test]
fn a_statement_is_parsed_once_and_follows_its_clients() {
    let world = World::new(10);
    let (mut a, mut b, mut link) = (Client::new(1), Client::new(2), Link::default());
    let sent = world.send(&mut a, &mut link, &[parse("s", "select 1"), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "Psidepool_1.select 1... S");
    assert_eq!(show(&answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat()).0), "1 ZI");
    assert!(link.is_free());
    // Another client, another name, the same text: the proxy answers in its turn.
    let sent = world.send(&mut b, &mut link, &[parse("other", "select 1"), bind("other"), execute(), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "B.sidepool_1....... E..... S");
    let mut scratch = Vec::new();
    let mut out = Splice::new(&[], &mut scratch);
    outbound(&mut b, &mut link, &mut out).answer_locals();
    assert_eq!(show(out.finish()), "1");
    let (got, news) = answer(&mut b, &mut link, &[message(b'2', b""), message(b'C', b"SELECT 1\0"), ready()].concat());
    assert_eq!(show(&got), "2 CSELECT 1. ZI");
    assert_eq!((news.ready, news.transactions), (1, 1));
}

#[test]
fn a_statement_is_parsed_again_where_it_is_not_known() {
    let world = World::new(10);
    let (mut a, mut first, mut second) = (Client::new(1), Link::default(), Link::default());
    world.send(&mut a, &mut first, &[parse("s", "select 1"), sync()].concat()).unwrap();
    let sent = world.send(&mut a, &mut second, &[bind("s"), execute(), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "Psidepool_1.select 1... B.sidepool_1....... E..... S");
    let (got, _) = answer(&mut a, &mut second, &[message(b'1', b""), message(b'2', b""), message(b'C', b"SELECT 1\0"), ready()].concat());
    assert_eq!(show(&got), "2 CSELECT 1. ZI");
}

#[test]
fn describe_and_close_by_name() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &parse("s", "select 1")).unwrap();
    let sent = world
        .send(
            &mut a,
            &mut link,
            &[statement_message(b'D', "s"), statement_message(b'C', "s"), statement_message(b'C', "s"), sync()].concat(),
        )
        .unwrap();
    // The first Close is answered here, the second is about nothing and goes to the server.
    assert_eq!(show(&sent), "DSsidepool_1. CSs. S");
    let (got, _) =
        answer(&mut a, &mut link, &[message(b'1', b""), message(b't', b"\0\0"), message(b'n', b""), message(b'3', b""), ready()].concat());
    assert_eq!(show(&got), "1 t.. n 3 3 ZI");
    assert!(a.statements.unwrap().named.is_empty());
}

#[test]
fn unknown_names_go_to_the_server_as_they_are() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    let bytes = [bind("nobody"), statement_message(b'D', "nobody"), sync()].concat();
    assert_eq!(world.send(&mut a, &mut link, &bytes).unwrap(), bytes);
}

#[test]
fn a_second_parse_of_a_name_lets_the_server_refuse() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    let sent = world.send(&mut a, &mut link, &[parse("s", "select 1"), parse("s", "select 2"), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "Psidepool_1.select 1... Psidepool_1.select 2... S");
    let refused = message(b'E', b"SERROR\0VERROR\0C42P05\0Mprepared statement \"sidepool_1\" already exists\0\0");
    let (got, _) = answer(&mut a, &mut link, &[message(b'1', b""), refused, ready()].concat());
    assert!(show(&got).contains("prepared statement \"s\" already exists"), "{}", show(&got));
    assert_eq!(a.statements.unwrap().named.len(), 1);
    assert!(link.is_free());
}

#[test]
fn a_failed_parse_leaves_no_name_behind() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world
        .send(&mut a, &mut link, &[parse("good", "select 1"), parse("bad", "selec"), parse("later", "select 3"), sync()].concat())
        .unwrap();
    let (got, mut news) = answer(&mut a, &mut link, &[message(b'1', b""), error(), ready()].concat());
    assert!(show(&got).starts_with("1 ESERROR"));
    assert_eq!(news.rare().errors, [*b"42"]);
    let names: Vec<_> = a.statements.as_ref().unwrap().named.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(names, ["good"]);
    assert_eq!(link.statements.len(), 1);
    // The same text may be tried again and is really sent.
    let sent = world.send(&mut a, &mut link, &[parse("bad", "selec"), sync()].concat()).unwrap();
    assert!(show(&sent).contains("selec."));
}

#[test]
fn a_close_that_never_ran_is_taken_back() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &[parse("s", "select 1"), bind("x"), statement_message(b'C', "s"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), error(), ready()].concat());
    assert_eq!(a.statements.unwrap().named.len(), 1);
}

#[test]
fn what_never_ran_is_taken_back_in_reverse() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &[parse("s", "select 1"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    world.send(&mut a, &mut link, &[bind("x"), statement_message(b'C', "s"), parse("s", "select 2"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[error(), ready()].concat());
    assert_eq!(a.statements.unwrap().named[&b"s"[..]].key(), b"select 1\0\0\0");
}

#[test]
fn names_wait_for_a_batch_that_may_yet_fail() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    // The first batch fails before its Parse; the second uses the name again, and is looked at only when that is known.
    let sent = world
        .send(&mut a, &mut link, &[bind("x"), parse("s", "select 1"), sync(), parse("s", "select 2"), bind("s"), sync()].concat())
        .unwrap();
    assert_eq!(show(&sent), "B.x....... Psidepool_1.select 1... S");
    answer(&mut a, &mut link, &[error(), ready()].concat());
    let sent = world.send(&mut a, &mut link, b"").unwrap();
    assert_eq!(show(&sent), "Psidepool_2.select 2... B.sidepool_2....... S");
    // Batches that change nothing do not wait for each other.
    answer(&mut a, &mut link, &[message(b'1', b""), message(b'2', b""), ready()].concat());
    let sent = world.send(&mut a, &mut link, &[bind("s"), sync(), bind("s"), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "B.sidepool_2....... S B.sidepool_2....... S");
}

#[test]
fn the_server_keeps_a_bounded_number() {
    let world = World::new(2);
    let (mut a, mut link) = (Client::new(1), Link::default());
    for i in 0..5 {
        let sent = world.send(&mut a, &mut link, &[parse(&format!("s{i}"), &format!("select {i}")), sync()].concat()).unwrap();
        let swallowed = if i >= 2 { message(b'3', b"") } else { Vec::new() };
        assert_eq!(show(&sent).contains("CS"), i >= 2, "{}", show(&sent));
        let (got, _) = answer(&mut a, &mut link, &[swallowed, message(b'1', b""), ready()].concat());
        assert_eq!(show(&got), "1 ZI");
        assert!(link.statements.len() <= 2);
    }
    // The first one was forgotten and is parsed again.
    let sent = world.send(&mut a, &mut link, &[bind("s0"), sync()].concat()).unwrap();
    assert!(show(&sent).contains("Psidepool_1.select 0"), "{}", show(&sent));
}

#[test]
fn an_unnamed_statement_survives_other_clients_on_the_connection() {
    let world = World::new(10);
    let (mut a, mut b, mut link) = (Client::new(1), Client::new(2), Link::default());
    world.send(&mut a, &mut link, &[parse("", "select 'a'"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    // Nobody came between: it is still there.
    let sent = world.send(&mut a, &mut link, &[bind(""), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "B........ S");
    answer(&mut a, &mut link, &[message(b'2', b""), ready()].concat());
    world.send(&mut b, &mut link, &[parse("", "select 'b'"), sync()].concat()).unwrap();
    answer(&mut b, &mut link, &[message(b'1', b""), ready()].concat());
    let sent = world.send(&mut a, &mut link, &[bind(""), sync()].concat()).unwrap();
    assert_eq!(show(&sent), "P.select 'a'... B........ S");
    assert_eq!(show(&answer(&mut a, &mut link, &[message(b'1', b""), message(b'2', b""), ready()].concat()).0), "2 ZI");
}

#[test]
fn a_simple_query_destroys_the_unnamed_statement() {
    let world = World::new(10);
    let (mut a, mut first, mut second) = (Client::new(1), Link::default(), Link::default());
    world.send(&mut a, &mut first, &[parse("", "select 'a'"), sync()].concat()).unwrap();
    world.send(&mut a, &mut second, &message(b'Q', b"select 1\0")).unwrap();
    answer(&mut a, &mut second, &ready());
    // The server says so itself, whoever's unnamed statement is on that connection.
    assert_eq!(show(&world.send(&mut a, &mut second, &bind("")).unwrap()), "CS. B........");
}

#[test]
fn every_cut_of_the_stream_gives_the_same_result() {
    let world = World::new(10);
    let script = [
        parse("s", "select 1"),
        bind("s"),
        statement_message(b'D', "s"),
        execute(),
        message(b'd', b"data"),
        sync(),
        message(b'Q', b"select 2\0"),
    ]
    .concat();
    let whole = world.send(&mut Client::new(1), &mut Link::default(), &script).unwrap();
    for cut in 0..script.len() {
        let (mut client, mut link) = (Client::new(1), Link::default());
        let mut sent = world.send(&mut client, &mut link, &script[..cut]).unwrap();
        sent.extend(world.send(&mut client, &mut link, &script[cut..]).unwrap());
        assert_eq!(sent, whole, "cut at {cut}");
    }
    let answers = [
        message(b'1', b""),
        message(b'2', b""),
        message(b't', b"\0\0"),
        message(b'T', b"\0\0"),
        message(b'D', b"row"),
        message(b'D', b""),
        message(b'D', b"a longer row"),
        message(b'C', b"SELECT 3\0"),
        ready(),
        message(b'C', b"X\0"),
        ready(),
    ]
    .concat();
    for cut in 0..answers.len() {
        let (mut client, mut link) = (Client::new(1), Link::default());
        world.send(&mut client, &mut link, &script).unwrap();
        let mut got = answer(&mut client, &mut link, &answers[..cut]).0;
        got.extend(answer(&mut client, &mut link, &answers[cut..]).0);
        assert_eq!(got, answers, "cut at {cut}");
        assert!(link.is_free());
    }
}

#[test]
fn rows_in_front_of_a_broken_one_reach_the_client() {
    let world = World::new(10);
    let rows = [message(b'D', b"one"), message(b'D', b"two")].concat();
    for (broken, fault) in [
        (message(b'D', &[0; 100]), ServerFault::Packet(105)),
        (b"D\0\0\0\x03".to_vec(), ServerFault::Length(BadLength { tag: b'D', length: 3 })),
        (message(b'!', b""), ServerFault::Tag(b'!')),
    ] {
        let (mut client, mut link, mut scratch) = (Client::new(1), Link::default(), Vec::new());
        world.send(&mut client, &mut link, &message(b'Q', b"select\0")).unwrap();
        let input = [rows.clone(), broken].concat();
        let mut out = Splice::new(&input, &mut scratch);
        let scanned = Outbound { max_packet: 100, ..outbound(&mut client, &mut link, &mut out) }.scan(&input);
        assert_eq!((scanned, out.finish()), (Err(fault), &rows[..]));
    }
}

#[test]
fn discard_all_forgets_the_statements_of_client_and_server() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &[parse("s", "select 1"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    world.send(&mut a, &mut link, &message(b'Q', b"discard all\0")).unwrap();
    answer(&mut a, &mut link, &[message(b'C', b"DISCARD ALL\0"), ready()].concat());
    assert!(link.statements.is_empty() && a.statements.as_ref().unwrap().named.is_empty());
}

#[test]
fn listening_keeps_the_connection() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &message(b'Q', b"listen x\0")).unwrap();
    answer(&mut a, &mut link, &[message(b'C', b"LISTEN\0"), ready()].concat());
    assert!(!link.is_free() && link.is_quiet());
}

#[test]
fn broken_messages_are_named() {
    let world = World::new(10);
    let send = |bytes: &[u8]| world.send(&mut Client::new(1), &mut Link::default(), bytes).unwrap_err();
    assert!(matches!(send(b"Q\xff\xff\xff\xff"), Violation::Length(_)));
    assert!(matches!(send(b"\0\0\0\0\x04"), Violation::Tag(0)));
    assert!(matches!(send(&message(b'p', b"secret\0")), Violation::Tag(b'p')));
    assert!(matches!(send(&message(b'B', b"no end")), Violation::Names(_)));
    assert!(matches!(send(&message(b'D', b"Xs\0")), Violation::Names(_)));
    assert!(matches!(send(&message(b'P', b"no end")), Violation::Names(_)));
    assert!(matches!(send(b"P\x3f\0\0\0"), Violation::ParseTooLong(_)));
}

#[test]
fn nobody_finds_the_unnamed_statement_of_another_client() {
    let world = World::new(10);
    let (mut a, mut b, mut link) = (Client::new(1), Client::new(2), Link::default());
    world.send(&mut a, &mut link, &[parse("", "select 'a'"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    assert_eq!(show(&world.send(&mut b, &mut link, &[bind(""), sync()].concat()).unwrap()), "CS. B........ S");
    let error = message(b'E', b"SERROR\0C26000\0Mnone\0\0");
    let (sent, _) = answer(&mut b, &mut link, &[message(b'3', b""), error.clone(), ready()].concat());
    assert_eq!(sent, [error, ready()].concat());
}

#[test]
fn an_unnamed_statement_that_was_skipped_leaves_the_one_before_it() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    let error = message(b'E', b"SERROR\0C26000\0Mnone\0\0");
    world.send(&mut a, &mut link, &[parse("", "select 1"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    world.send(&mut a, &mut link, &[bind("unknown"), parse("", "select 2"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[error.clone(), ready()].concat());
    let sent = world.send(&mut a, &mut link, &[bind(""), sync()].concat()).unwrap();
    assert!(show(&sent).starts_with("P.select 1"), "{}", show(&sent));
    answer(&mut a, &mut link, &[message(b'1', b""), message(b'2', b""), ready()].concat());
    // One that fails itself leaves none; one behind the next Sync is not touched by that.
    world.send(&mut a, &mut link, &[parse("", "selekt"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[error.clone(), ready()].concat());
    assert!(a.statements.as_ref().unwrap().unnamed.is_none());
    world.send(&mut a, &mut link, &[bind("unknown"), parse("", "select 3"), sync(), parse("", "select 4"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[error, ready()].concat());
    assert_eq!(a.statements.as_ref().unwrap().unnamed.as_deref(), Some(&b"select 4\0\0\0"[..]));
}

#[test]
fn what_is_parsed_behind_a_deallocate_all_stays() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &[parse("old", "select 1"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    // A text that may be read in two ways; what comes behind it is sent at once.
    world.send(&mut a, &mut link, &[message(b'Q', b"select '\\'; deallocate all\0"), parse("new", "select 2"), sync()].concat()).unwrap();
    let answers = [message(b'C', b"SELECT 1\0"), message(b'C', b"DEALLOCATE ALL\0"), ready(), message(b'1', b""), ready()];
    answer(&mut a, &mut link, &answers.concat());
    let named = &a.statements.as_ref().unwrap().named;
    assert!(named.contains_key(&b"new"[..]) && !named.contains_key(&b"old"[..]));
    assert_eq!(link.statements.len(), 1);
}

#[test]
fn what_is_parsed_behind_a_deallocate_all_waits_for_it() {
    let world = World::new(10);
    let (mut a, mut link) = (Client::new(1), Link::default());
    world.send(&mut a, &mut link, &[parse("s", "select 1"), sync()].concat()).unwrap();
    answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    for text in ["deallocate all", "DISCARD ALL"] {
        let query = message(b'Q', format!("{text}\0").as_bytes());
        let sent = world.send(&mut a, &mut link, &[query.clone(), parse("s", "select 1"), sync()].concat()).unwrap();
        assert_eq!(sent, query, "the same text again, which the server is about to forget");
        answer(&mut a, &mut link, &[message(b'C', format!("{}\0", text.to_uppercase()).as_bytes()), ready()].concat());
        assert_eq!(world.send(&mut a, &mut link, &[]).unwrap(), [parse("sidepool_1", "select 1"), sync()].concat());
        answer(&mut a, &mut link, &[message(b'1', b""), ready()].concat());
    }
}

#[test]
fn a_reply_of_our_own_waits_for_the_end_of_a_message_that_comes_in_pieces() {
    let world = World::new(10);
    let (mut a, mut b, mut link) = (Client::new(1), Client::new(2), Link::default());
    world.send(&mut b, &mut link, &[parse("known", "select 1"), sync()].concat()).unwrap();
    answer(&mut b, &mut link, &[message(b'1', b""), ready()].concat());
    let batch = [parse("", "select 2"), statement_message(b'D', ""), parse("mine", "select 1"), sync()].concat();
    world.send(&mut a, &mut link, &batch).unwrap();
    let answers = [message(b'1', b""), message(b't', &[0, 0]), message(b'T', &[0; 40]), ready()].concat();
    let (first, _) = answer(&mut a, &mut link, &answers[..30]);
    let (second, _) = answer(&mut a, &mut link, &answers[30..]);
    let expected = [message(b'1', b""), message(b't', &[0, 0]), message(b'T', &[0; 40]), message(b'1', b""), ready()].concat();
    assert_eq!([first, second].concat(), expected);
}

#[test]
fn a_query_that_waits_for_what_it_needs_or_is_refused_is_noted_with_the_rest() {
    let world = World::new(10);
    let (mut client, mut here, mut there) = (Client::new(1), Link::default(), Link::default());
    let now = crate::clock::now();
    let noted = |link: &Link| link.journal.as_ref().unwrap().transaction(now).unwrap().statements;
    world.send(&mut client, &mut here, &[parse("s", "SELECT 1"), sync()].concat()).unwrap();
    answer(&mut client, &mut here, &[message(b'1', b""), ready()].concat());
    there.journal = Some(Box::new(Journal::new(SlowLog::default(), now, 1)));
    world.send(&mut client, &mut there, &[parse("", "SELECT 2"), message(b'Q', b"EXECUTE s\0")].concat()).unwrap();
    assert_eq!(noted(&there), 1);

    let mut failed = Link::default();
    world.send(&mut client, &mut failed, &message(b'Q', b"BEGIN\0")).unwrap();
    answer(&mut client, &mut failed, &message(b'Z', b"E"));
    failed.rules = Some(std::rc::Rc::default());
    for client in 1..3 {
        let _ = failed.sequences.on_link(client, false);
    }
    failed.journal = Some(Box::new(Journal::new(SlowLog::default(), now, 1)));
    let sent = world.send(&mut client, &mut failed, &message(b'Q', b"ROLLBACK; SELECT currval('s')\0")).unwrap();
    assert!(!show(&sent).contains("currval"), "{}", show(&sent));
    assert_eq!(noted(&failed), 1);
}
