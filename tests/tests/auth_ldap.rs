//! Passwords that an LDAP server checks: by a name that is put together, by a search, as the method of all or of a line of the HBA file.

use sidepool_tests::conformance::proves;
use sidepool_tests::ldap::{LdapServer, PEOPLE, READER, READER_PASSWORD};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Message, Wire};
use sidepool_tests::settings::Settings;

/// Nobody is listed: the LDAP server knows the users, and their passwords are those of the database.
fn settings(cluster: &Cluster, options: &str) -> Settings {
    Settings::postgres(cluster).without("postgres.users.app").set("postgres.auth_type", "ldap").set("postgres.auth_ldap_options", options)
}

async fn attempt(pool: &Pooler, user: &str, password: &str) -> Result<Wire, Message> {
    Wire::try_login(pool.postgres_port(), &[("user", user), ("database", "app")], password).await
}

fn told(error: &Message) -> (String, String) {
    (error.field(b'C').expect("a code"), error.field(b'M').expect("a message"))
}

async fn comes_in(pool: &Pooler, what: &str) {
    let mut wire = attempt(pool, USER, PASSWORD).await.unwrap_or_else(|error| panic!("{what}: {:?}", told(&error)));
    assert_eq!(wire.value("SELECT current_user").await, USER, "{what}: and its password goes on to the database");
}

async fn stays_out(pool: &Pooler, user: &str, password: &str, what: &str) {
    let error = attempt(pool, user, password).await.err().unwrap_or_else(|| panic!("{what}: {user} comes in"));
    assert_eq!(told(&error), ("28P01".to_owned(), "LDAP authentication failed".to_owned()), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_asking_lets_the_right_password_in() {
    let _proof = proves(&["setting auth_ldap_options", "message LDAP authentication failed"]);
    let (cluster, ldap) = (Cluster::start().await, LdapServer::start(&[(USER, PASSWORD), ("second", "other")]).await);
    let port = ldap.port();
    let dead = place::free_port();
    let search = format!("ldapbasedn=\"{PEOPLE}\" ldapbinddn=\"{READER}\" ldapbindpasswd={READER_PASSWORD}");
    for options in [
        format!("ldapserver=127.0.0.1 ldapport={port} ldapprefix=\"cn=\" ldapsuffix=\",{PEOPLE}\""),
        format!("ldapserver=127.0.0.1 ldapport={port} {search}"),
        format!("ldapserver=127.0.0.1 ldapport={port} {search} ldapsearchattribute=cn"),
        format!("ldapurl=\"ldap://127.0.0.1:{port}/{PEOPLE}?uid?one\" ldapbinddn=\"{READER}\" ldapbindpasswd={READER_PASSWORD}"),
        format!("ldapserver=\"127.0.0.1:{dead} 127.0.0.1:{port}\" ldapprefix=\"cn=\" ldapsuffix=\",{PEOPLE}\""),
    ] {
        let pool = Pooler::start(settings(&cluster, &options)).await;
        comes_in(&pool, &options).await;
        for (user, password) in [(USER, "wrong"), (USER, ""), ("nobody", PASSWORD), ("*", PASSWORD), ("app)(uid=*", PASSWORD)] {
            stays_out(&pool, user, password, &options).await;
        }
        assert!(!pool.process().log().tail(1000).contains(READER_PASSWORD), "no secret in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_asked_lets_nobody_in_and_stalls_nobody() {
    let (cluster, ldap) = (Cluster::start().await, LdapServer::start(&[(USER, PASSWORD)]).await);
    let name = format!("ldapprefix=\"cn=\" ldapsuffix=\",{PEOPLE}\"");
    for options in [
        format!("ldapserver=127.0.0.1 ldapport={} {name}", place::free_port()),
        // The server has no certificate, so that it cannot be asked in secret.
        format!("ldapserver=127.0.0.1 ldapport={} ldaptls=1 {name}", ldap.port()),
        format!("ldapserver=127.0.0.1 ldapport={} ldapbasedn=\"{PEOPLE}\"", ldap.port()),
    ] {
        let pool = Pooler::start(settings(&cluster, &options)).await;
        stays_out(&pool, USER, PASSWORD, &options).await;
    }
    // It takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = silent.local_addr().expect("an address").port();
    let rules = place::directory("hba").join("hba.conf");
    std::fs::write(&rules, format!("host all app all ldap ldapserver=127.0.0.1 ldapport={port} {name}\nhost all second all md5\n"))
        .expect("our own");
    let settings = Settings::postgres(&cluster)
        .set("postgres.auth_type", "hba")
        .set("postgres.auth_hba_file", rules.to_string_lossy().into_owned())
        .set("postgres.users.second.password", "second-secret");
    let pool = Pooler::start(settings).await;
    let mut hanging = Wire::connect(pool.postgres_port()).await;
    hanging.send(&sidepool_tests::postgres::frame::startup(&[("user", USER), ("database", "app")])).await;
    hanging.read().await.expect("it is asked for its password");
    hanging.send(&sidepool_tests::postgres::frame::password(PASSWORD)).await;
    let mut wire = attempt(&pool, "second", "second-secret").await.unwrap_or_else(|error| panic!("{:?}", told(&error)));
    assert_eq!(wire.value("SELECT 'not stalled'").await, "not stalled");
    let end = hanging.until_closed().await;
    assert_eq!(end.first().map(told), Some(("28P01".to_owned(), "LDAP authentication failed".to_owned())), "when its time is up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_file_may_ask_a_server() {
    let (cluster, ldap) = (Cluster::start().await, LdapServer::start(&[(USER, PASSWORD)]).await);
    let rules = place::directory("hba").join("hba.conf");
    let line = format!("host all app all ldap ldapserver=127.0.0.1 ldapport={} ldapprefix=\"cn=\" ldapsuffix=\",{PEOPLE}\"\n", ldap.port());
    std::fs::write(&rules, line).expect("our own directory");
    let settings = Settings::postgres(&cluster)
        .without("postgres.users.app")
        .set("postgres.auth_type", "hba")
        .set("postgres.auth_hba_file", rules.to_string_lossy().into_owned());
    let pool = Pooler::start(settings).await;
    comes_in(&pool, "a line").await;
    stays_out(&pool, USER, "wrong", "a line").await;
}
