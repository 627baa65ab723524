//! Tests of the rules: what is read, what is refused, what fits.

use std::net::IpAddr;

use super::hba::{Approach, Method, Origin, Rules, parse};
use super::ident;
use super::words::Fault;

fn read(text: &str) -> (Rules, Vec<Fault>) {
    parse(text, &mut |name| match name {
        "admins" => Ok("alice, bob\n# nobody else\n\"all\"\n@more".to_owned()),
        "more" => Ok("carol".to_owned()),
        "loop" => Ok("@loop".to_owned()),
        other => Err(format!("cannot read {other}")),
    })
}

fn rules(text: &str) -> Rules {
    let (rules, faults) = read(text);
    assert!(faults.is_empty(), "{faults:?}");
    rules
}

fn tcp(address: &str, tls: bool) -> Origin {
    Origin::Tcp { address: address.parse::<IpAddr>().unwrap(), tls }
}

fn line(rules: &Rules, origin: Origin, database: &str, user: &str) -> u32 {
    rules.find(&Approach { origin, database, user, replication: false }).map_or(0, |rule| rule.line)
}

#[test]
fn the_first_line_that_fits_counts() {
    let rules = rules(
        "# TYPE DATABASE USER ADDRESS METHOD\n\
         local all postgres peer map=ops\n\
         local all all scram-sha-256\n\
         host app,other bob 10.0.0.0/8 md5\n\
         hostssl all all 10.0.0.0 255.0.0.0 cert\n\
         hostnossl all all all reject\n\
         host sameuser all ::/0 password\n\
         host all all 0.0.0.0/0 trust\n",
    );
    assert_eq!(line(&rules, Origin::Local, "app", "postgres"), 2);
    assert_eq!(line(&rules, Origin::Local, "app", "bob"), 3);
    assert_eq!(line(&rules, tcp("10.1.1.1", true), "app", "bob"), 4);
    assert_eq!(line(&rules, tcp("10.1.1.1", true), "third", "bob"), 5);
    assert_eq!(line(&rules, tcp("10.1.1.1", false), "third", "bob"), 6);
    assert_eq!(line(&rules, tcp("fe80::1", true), "bob", "bob"), 7);
    assert_eq!(line(&rules, tcp("fe80::1", true), "bob", "eve"), 0);
    assert_eq!(line(&rules, tcp("::ffff:11.1.1.1", true), "bob", "eve"), 8);
}

#[test]
fn keywords_in_quotes_are_names() {
    let rules = rules("local \"all\" all trust\nlocal all \"all\" md5\nlocal \"replication\" bob reject\n");
    assert_eq!(line(&rules, Origin::Local, "all", "bob"), 1);
    assert_eq!(line(&rules, Origin::Local, "app", "all"), 2);
    assert_eq!(line(&rules, Origin::Local, "replication", "bob"), 3);
    assert_eq!(line(&rules, Origin::Local, "app", "bob"), 0);
}

#[test]
fn replication_is_a_database_of_its_own() {
    let rules = rules("host all all 127.0.0.1/32 md5\nhost replication rep 127.0.0.1/32 scram-sha-256\n");
    let of = |replication| Approach { origin: tcp("127.0.0.1", false), database: "app", user: "rep", replication };
    assert_eq!(rules.find(&of(false)).map(|rule| rule.line), Some(1));
    assert_eq!(rules.find(&of(true)).map(|rule| rule.line), Some(2));
}

#[test]
fn lists_may_lie_in_files() {
    let rules = rules("local all dave,@admins trust\nlocal @more all md5\n");
    for user in ["dave", "alice", "bob", "carol", "all"] {
        assert_eq!(line(&rules, Origin::Local, "app", user), 1, "{user}");
    }
    assert_eq!(line(&rules, Origin::Local, "app", "eve"), 0, "\"all\" in quotes is a name in a file as well");
    assert_eq!(line(&rules, Origin::Local, "carol", "eve"), 2);
    for text in ["local all @loop trust", "local all @none trust", "local @none all trust"] {
        assert_eq!(read(text).1.len(), 1, "{text}");
    }
}

#[test]
fn each_method_and_its_options() {
    let of = |text: &str| rules(text).0[0].method.clone();
    assert_eq!(of("local all all trust"), Method::Trust);
    assert_eq!(of("local all all reject"), Method::Reject);
    assert_eq!(of("local all all md5"), Method::Md5);
    assert_eq!(of("local all all password"), Method::Password);
    assert_eq!(of("local all all scram-sha-256"), Method::ScramSha256);
    assert_eq!(of("local all all peer"), Method::Peer(None));
    assert_eq!(of("hostssl all all all cert map=\"my map\""), Method::Cert(Some("my map".to_owned())));
    assert!(matches!(of("host all all all ldap ldapserver=l ldapprefix=\"cn=\""), Method::Ldap(_)));
    assert!(rules("hostgssenc all all all gss").is_empty(), "never seen here");
    assert_eq!(rules("hostnogssenc all all all md5").len(), 1);
}

#[test]
fn pam_is_asked_as_pgbouncer_or_as_the_line_says() {
    for (options, service) in [("", "pgbouncer"), (" pamservice=db", "db"), (" pam_use_hostname=0 pamservice=\"my db\"", "my db")] {
        let rules = rules(&format!("host all all all pam{options}"));
        let found = rules.find(&Approach { origin: tcp("1.1.1.1", false), database: "d", user: "u", replication: false });
        assert_eq!(found.map(|rule| &rule.method), Some(&Method::Pam(service.into())), "{options}");
        assert!(rules.ask_others());
    }
}

#[test]
fn a_line_with_a_wrong_method_refuses_what_it_matches() {
    for text in [
        "host all bob all rejct",
        "host all bob all gss",
        "host all bob all peer",
        "host all bob all cert",
        "hostssl all bob all cert clientcert=1",
        "host all bob all md5 map=x",
        "host all bob all pam pamservice=",
        "host all bob all pam pamservice=../x",
        "host all bob all pam pam_use_hostname=1",
        "host all bob all pam service=x",
        "host all bob all ldap",
        "host all bob all",
        "host all bob all md5,trust",
    ] {
        let (rules, faults) = read(&format!("{text}\nhost all all all trust\n"));
        assert!(matches!(faults.as_slice(), [Fault { line: 1, refuses: true, .. }]), "{text}: {faults:?}");
        let found = rules.find(&Approach { origin: tcp("1.1.1.1", true), database: "d", user: "bob", replication: false });
        assert_eq!(found.map(|rule| &rule.method), Some(&Method::Reject), "{text}");
        assert_eq!(line(&rules, tcp("1.1.1.1", true), "d", "eve"), 2, "{text}");
    }
}

#[test]
fn a_line_of_which_nobody_knows_whom_it_is_for_is_left_out() {
    for text in [
        "nohost all all all md5",
        "host all",
        "host all all 10.0.0.0 md5",
        "host all all db.example.com md5",
        "host all all samenet md5",
        "host samerole all all md5",
        "host all +staff all md5",
        "host all /^a all md5",
        "host \"\" all all md5",
        "host all all 10.0.0.0/33 md5",
        "host all all \"10.0.0.0/8 md5",
        "local,host all all md5",
        "host all all",
    ] {
        let (rules, faults) = read(&format!("local all all trust\n{text}\n"));
        assert!(matches!(faults.as_slice(), [Fault { line: 2, refuses: false, .. }]), "{text}: {faults:?}");
        assert_eq!(rules.len(), 1, "{text}");
    }
}

#[test]
fn maps_that_are_not_there_are_found() {
    let rules = rules("local all all peer map=ops\nlocal all all peer\nhostssl all all all cert map=certs\n");
    let (maps, _) = ident::parse("ops root postgres");
    assert_eq!(rules.without_map(&maps).collect::<Vec<_>>(), [(3, "certs")]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(local|host|hostssl|all|,|@more|\"|#| |\t|\\\\|\n|10.0.0.0/8|md5|map=|peer|ldap|ldapurl=|[a-z/:?]){0,60}") {
        let (rules, faults) = read(&text);
        let lines = u32::try_from(text.lines().count()).unwrap();
        assert!(faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
        for origin in [Origin::Local, tcp("10.0.0.1", true), tcp("::1", false)] {
            let _ = rules.find(&Approach { origin, database: "all", user: "bob", replication: false });
        }
        let _ = ident::parse(&text);
    }
}
