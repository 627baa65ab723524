//! Opens connections of one kind (server, user, database, RESP version) and brings them back to the state of new ones.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{Upstream, UpstreamTls};
use sidepool_config::secret::Secret;
use sidepool_config::tls::ServerContext;
use sidepool_protocol::redis::encode::{self, Resp};
use sidepool_protocol::redis::handshake::{self, Credentials, Habits, Selects};
use sidepool_protocol::redis::reply::Reply;

use super::connection::{RedisConnection, SecretMark};
use super::facts::Facts;
use super::login;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::traits::Connector;
use crate::transport::stream::Stream;
use crate::transport::tls;
use crate::upstream::dial::{Dialer, Server};

/// How long a server may take to clean a connection or to say that it is alive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// So many attempts with other passwords than the present one may be refused without one that works: nobody tries again for ever.
const MOST_DOUBTS: u32 = 100;

/// Whose password it was that the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The present one.
    Present,
    /// Another, of before or of another worker: the present one is still to be tried.
    Another,
    /// Another, again and again.
    AnotherEver,
}

/// What connections are opened with.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub upstream: Upstream,
    /// The way there.
    pub dialer: Rc<Dialer>,
    /// TLS or not.
    pub tls: UpstreamTls,
    /// What TLS is made of; `None`: the usual.
    pub tls_context: Option<Arc<ServerContext>>,
    /// The ACL user; `default` unless configured.
    pub user: Arc<str>,
    /// Its password; `None`: no login at all.
    pub password: Option<Secret>,
    /// The selected database.
    pub database: u32,
    /// When it is selected.
    pub selects: Selects,
    /// The RESP version.
    pub version: Resp,
    /// What the server is to do otherwise for these connections.
    pub habits: Habits,
    /// How long opening may take, login included.
    pub timeout: Duration,
}

/// Opens and cleans the connections of one pool.
pub struct RedisConnector {
    target: Target,
    secret: SecretMark,
    /// How many attempts with other secrets were refused since one worked.
    doubts: Cell<u32>,
    /// The last of them.
    doubted: RefCell<Option<Arc<str>>>,
    facts: Rc<Facts>,
}

impl RedisConnector {
    /// A connector that adds what it learns of the server to `facts`.
    #[must_use]
    pub fn new(target: Target, facts: Rc<Facts>) -> Self {
        let secret = SecretMark::of(target.password.as_ref().map(|password| password.reveal()));
        Self { target, secret, doubts: Cell::new(0), doubted: RefCell::default(), facts }
    }

    /// The same with another password.
    #[must_use]
    pub fn with_secret(&self, secret: Secret) -> Self {
        Self::new(Target { password: Some(secret), ..self.target.clone() }, Rc::clone(&self.facts))
    }

    fn login(&self, reset: bool) -> handshake::Login {
        let Target { user, password, version, database, selects, habits, .. } = &self.target;
        let credentials = password.as_ref().map(|password| (&**user, password.reveal()));
        handshake::login(*version, credentials, *database, *selects, *habits, reset)
    }

    /// Somebody was not let in: whose password it was. However many wait for one attempt, it counts once.
    pub fn blames(&self, fault: &ConnectFault) -> Blame {
        if fault.credentials == Some(self.secret.number()) {
            return Blame::Present;
        }
        let mut doubted = self.doubted.borrow_mut();
        if !doubted.as_ref().is_some_and(|doubted| Arc::ptr_eq(doubted, &fault.message)) {
            *doubted = Some(Arc::clone(&fault.message));
            self.doubts.set(self.doubts.get().saturating_add(1));
        }
        if self.doubts.get() > MOST_DOUBTS { Blame::AnotherEver } else { Blame::Another }
    }

    /// Whether a connection logged in with the present secret.
    #[must_use]
    pub fn is_current(&self, connection: &RedisConnection) -> bool {
        connection.secret == self.secret
    }

    /// The request that has an open connection go on with the present secret, where it logged in with another. Its reply is for us.
    pub fn renewal(&self, connection: &mut RedisConnection) -> Option<Vec<u8>> {
        let renews = connection.secret != self.secret;
        connection.secret = self.secret;
        let password = self.target.password.as_ref().filter(|_| renews)?;
        let mut request = Vec::new();
        handshake::authenticate(&mut request, &self.target.user, password.reveal());
        Some(request)
    }

    async fn open(&self) -> Result<RedisConnection, ConnectFault> {
        let upstream = shown(&self.target.upstream);
        let enter = async |stream: Stream, server: &Arc<Server>| {
            let stream = secure(stream, &self.target, &upstream).await?;
            let refused = |error| ConnectFault::new(ConnectFaultKind::Other, format!("Redis at {upstream}: {error}"));
            let mut stream = stream.onto_ring().map_err(refused)?;
            let id = login::log_in(&mut stream, &self.login(false), self.target.version, &upstream, &self.facts).await?;
            self.facts.scripts.bring(&mut stream, self.target.version, &upstream).await?;
            Ok(RedisConnection { stream, id, secret: self.secret, server: Arc::clone(server), opening: None })
        };
        self.target.dialer.connect(self.target.timeout, enter).await
    }

    /// What the server says to these credentials (`None`: to somebody who says nothing): yes, or its own words of refusal.
    pub async fn prove(target: &Target, credentials: Option<&Credentials>) -> Result<Result<(), String>, ConnectFault> {
        let upstream = shown(&target.upstream);
        let mut question = Vec::new();
        match credentials {
            None => encode::command(&mut question, &[b"PING"]),
            Some(Credentials { user, password, named: true }) => encode::command(&mut question, &[b"AUTH", user, password]),
            Some(Credentials { password, .. }) => encode::command(&mut question, &[b"AUTH", password]),
        }
        let enter = async |stream: Stream, _server: &Arc<Server>| {
            let mut stream = secure(stream, target, &upstream).await?;
            login::ask(&mut stream, &question, Resp::Two, &upstream).await
        };
        let answer = within(target.timeout, &upstream, target.dialer.connect(target.timeout, enter)).await?;
        Ok(match (answer, credentials) {
            (Reply::Error(text), Some(_)) => Err(text),
            (Reply::Error(text), None) if text.starts_with("NOAUTH") => Err(text),
            // Loading, busy, or not allowed to PING: somebody who is not let in does not get as far.
            (Reply::Error(_) | Reply::Nil | Reply::Integer(_) | Reply::Text(_) | Reply::List(_), _) => Ok(()),
        })
    }

    /// Opens a connection and secures it as configured, and says nothing: what the server shows to everybody.
    pub async fn look(target: &Target) -> Result<Stream, ConnectFault> {
        let upstream = shown(&target.upstream);
        let enter = async |stream: Stream, _server: &Arc<Server>| secure(stream, target, &upstream).await;
        within(target.timeout, &upstream, target.dialer.connect(target.timeout, enter)).await
    }

    /// Loads the scripts that the server should have and does not.
    pub async fn bring_scripts(&self, connection: &mut RedisConnection) -> Result<(), ConnectFault> {
        let upstream = shown(&self.target.upstream);
        within(ANSWER_TIMEOUT, &upstream, self.facts.scripts.bring(&mut connection.stream, self.target.version, &upstream)).await
    }

    /// Asks a question whose answer is read whole, on a connection that nothing is owed on.
    pub async fn ask(connection: &mut RedisConnection, question: &[&[u8]], version: Resp, limit: Duration) -> Result<Reply, ConnectFault> {
        let mut bytes = Vec::new();
        encode::command(&mut bytes, question);
        within(limit, "the server", login::ask(&mut connection.stream, &bytes, version, "the server")).await
    }
}

impl Connector for RedisConnector {
    type Connection = RedisConnection;

    async fn connect(&self) -> Result<RedisConnection, ConnectFault> {
        let opened = within(self.target.timeout, &shown(&self.target.upstream), self.open()).await;
        if opened.is_ok() {
            self.doubts.set(0);
        }
        opened.map_err(|fault| ConnectFault { credentials: Some(self.secret.number()), ..fault })
    }

    async fn reset(&self, connection: &mut RedisConnection) -> Result<(), ConnectFault> {
        let upstream = shown(&self.target.upstream);
        let login = self.login(true);
        let work = login::log_in(&mut connection.stream, &login, self.target.version, &upstream, &self.facts);
        connection.id = within(ANSWER_TIMEOUT, &upstream, work).await?;
        connection.secret = self.secret;
        Ok(())
    }

    async fn probe(&self, connection: &mut RedisConnection) -> Result<(), ConnectFault> {
        match Self::ask(connection, &[b"PING"], self.target.version, ANSWER_TIMEOUT).await? {
            Reply::Error(text) => Err(login::refused(&shown(&self.target.upstream), &text, "PING")),
            Reply::Nil | Reply::Integer(_) | Reply::Text(_) | Reply::List(_) => Ok(()),
        }
    }
}

/// How messages name an upstream.
#[must_use]
pub fn shown(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Tcp { host, port } => format!("{host}:{port}"),
        Upstream::Unix(path) => path.display().to_string(),
    }
}

async fn secure(mut stream: Stream, target: &Target, shown: &str) -> Result<Stream, ConnectFault> {
    match target.tls {
        // Redis has no way to ask whether a server offers TLS.
        UpstreamTls::Disable | UpstreamTls::Allow | UpstreamTls::Prefer => return Ok(stream),
        UpstreamTls::Require | UpstreamTls::VerifyCa | UpstreamTls::VerifyFull => {}
    }
    let Upstream::Tcp { host, .. } = &target.upstream else { return Ok(stream) };
    let broken = |error| ConnectFault::new(ConnectFaultKind::Tls, format!("TLS with Redis at {shown} failed: {error}"));
    let context = match &target.tls_context {
        Some(context) => Arc::clone(context),
        None => tls::usual_redis().map_err(broken)?,
    };
    tls::connect(&mut stream, host, Arc::clone(context.for_mode(target.tls))).await.map_err(broken)?;
    Ok(stream)
}

async fn within<T>(limit: Duration, upstream: &str, work: impl Future<Output = Result<T, ConnectFault>>) -> Result<T, ConnectFault> {
    if limit.is_zero() {
        return work.await;
    }
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => {
            Err(ConnectFault::new(ConnectFaultKind::Timeout, format!("Redis at {upstream} did not answer within {} ms", limit.as_millis())))
        }
    }
}
