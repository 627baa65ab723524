//! A throwaway LDAP server: Debian's slapd on a free port of the loopback interface, with a few people in it.

use std::path::PathBuf;
use std::process::Command;

use crate::place;
use crate::process::Process;
use crate::wait;

/// Below this are the people.
pub const PEOPLE: &str = "ou=people,dc=example,dc=net";
/// Who may search.
pub const READER: &str = "cn=reader,dc=example,dc=net";
/// The password that goes with it.
pub const READER_PASSWORD: &str = "reader-secret";

/// A running server.
pub struct LdapServer {
    port: u16,
    _process: Process,
}

impl LdapServer {
    /// Starts one that knows these people by `uid`, each with a password and a place in `PEOPLE`.
    pub async fn start(people: &[(&str, &str)]) -> Self {
        let directory = place::directory("ldap");
        let (config, data, port) = (directory.join("slapd.conf"), directory.join("data.ldif"), place::free_port());
        std::fs::create_dir(directory.join("db")).expect("our own directory");
        let text = format!(
            "include /etc/ldap/schema/core.schema\npidfile {0}/pid\ndatabase ldif\ndirectory {0}/db\nsuffix \"dc=example,dc=net\"\n\
             rootdn \"{READER}\"\nrootpw {READER_PASSWORD}\naccess to attrs=userPassword by anonymous auth by * none\n\
             access to * by anonymous none by * read\n",
            directory.display()
        );
        std::fs::write(&config, text).expect("our own directory");
        let mut ldif = format!(
            "dn: dc=example,dc=net\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n\
             dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
        );
        for (uid, password) in people {
            ldif.push_str(&format!(
                "dn: cn={uid},{PEOPLE}\nobjectClass: person\nobjectClass: uidObject\nuid: {uid}\ncn: {uid}\nsn: {uid}\nuserPassword: {password}\n\n"
            ));
        }
        std::fs::write(&data, ldif).expect("our own directory");
        let added = Command::new(program("slapadd")).arg("-f").arg(&config).arg("-l").arg(&data).output().expect("slapadd starts");
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let mut command = Command::new(program("slapd"));
        command.arg("-f").arg(&config).arg("-h").arg(format!("ldap://127.0.0.1:{port}/")).args(["-d", "0"]);
        let process = Process::spawn("slapd", command);
        wait::until("slapd to listen", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        Self { port, _process: process }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn program(name: &str) -> PathBuf {
    let path = PathBuf::from("/usr/sbin").join(name);
    if path.exists() { path } else { PathBuf::from(name) }
}
