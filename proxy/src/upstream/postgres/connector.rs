//! Opens, cleans and asks after the connections of one PostgreSQL pool, and carries cancels to its server.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidepool_config::model::{Following, SessionState};
use sidepool_config::tls::ServerContext;
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::tracker::TransactionStatus;

use super::cancel;
use super::cancellable::Cancellable;
use super::connection::PgConnection;
use super::derived::PoolKeys;
use super::dirt::StateRules;
use super::login;
use super::passed::Passed;
use super::query::{self, Cleaned};
use super::roll::{Page, Server as Listed, Stage};
use super::target::Target;
use super::tls::{self, Way};
use crate::clock;
use crate::pool::fault::{ConnectFault, ConnectFaultKind};
use crate::pool::traits::Connector;
use crate::transport::stream::Stream;
use crate::upstream::dial::{Dialer, Server};

/// How long a reset or a probe may take: both are one round trip to a server that has nothing else to do for us.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the pool's server reported at the last login: what a client is told before it has a connection.
#[derive(Debug, Clone, Default)]
pub struct Learned(Rc<RefCell<Option<Rc<ParameterSet>>>>);

impl Learned {
    /// What was reported; `None` before the first login.
    #[must_use]
    pub fn get(&self) -> Option<Rc<ParameterSet>> {
        self.0.borrow().clone()
    }

    /// Remembers what a server reported.
    pub fn set(&self, reported: &Rc<ParameterSet>) {
        let mut known = self.0.borrow_mut();
        if known.as_ref() != Some(reported) {
            *known = Some(Rc::clone(reported));
        }
    }
}

/// Opens, cleans and asks after the connections of one pool.
#[derive(Debug)]
pub struct PgConnector {
    target: Target,
    dialer: RefCell<Rc<Dialer>>,
    timeout: Cell<Duration>,
    reset_query: RefCell<Box<str>>,
    resets_always: Cell<bool>,
    learned: Learned,
    check_query: RefCell<Arc<str>>,
    passed: Passed,
    /// What has been derived of passwords.
    derived: PoolKeys,
    /// Where its connections are written down.
    page: Option<Page>,
    /// What servers are met with under TLS.
    context: RefCell<Option<Arc<ServerContext>>>,
    /// How clients' state follows them.
    state_rules: RefCell<Option<Rc<StateRules>>>,
    /// How the last connection was opened: cancels go the same way.
    way: Cell<Way>,
}

impl PgConnector {
    /// What cleans a session completely.
    pub const RESET_QUERY: &str = "DISCARD ALL";

    /// A connector to `target`, whose hosts `dialer` knows, that leaves what servers report at login in `learned`. `timeout` bounds opening a
    /// connection, login included.
    #[must_use]
    pub fn new(target: Target, dialer: Dialer, timeout: Duration, learned: Learned) -> Self {
        let way = Cell::new(tls::ways(target.tls).0);
        Self {
            target,
            dialer: RefCell::new(Rc::new(dialer)),
            timeout: Cell::new(timeout),
            reset_query: RefCell::new(Self::RESET_QUERY.into()),
            resets_always: Cell::default(),
            learned,
            check_query: RefCell::new("".into()),
            passed: Passed::default(),
            derived: PoolKeys::default(),
            page: None,
            context: RefCell::default(),
            state_rules: RefCell::default(),
            way,
        }
    }

    /// Connections that are opened from now on are opened by this dialer.
    pub fn set_dialer(&self, dialer: Dialer) {
        *self.dialer.borrow_mut() = Rc::new(dialer);
    }

    /// Has its connections written down on this page.
    #[must_use]
    pub fn written_on(self, page: Page) -> Self {
        Self { page: Some(page), ..self }
    }

    /// The same with what clients' logins brought for logging in.
    #[must_use]
    pub fn with_passed(self, passed: Passed) -> Self {
        Self { passed, ..self }
    }

    /// The same with keys that other pools find, too.
    #[must_use]
    pub fn with_keys(self, derived: PoolKeys) -> Self {
        Self { derived, ..self }
    }

    /// What clients' logins brought.
    #[must_use]
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Bounds connections that are opened from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.set(timeout);
    }

    /// What asks connections whether they are alive, from now on.
    pub fn set_check_query(&self, sql: &Arc<str>) {
        *self.check_query.borrow_mut() = Arc::clone(sql);
    }

    /// Cleans sessions in this way from now on (empty: not at all), and `always` says whether after each transaction.
    pub fn set_reset(&self, query: &str, always: bool) {
        if **self.reset_query.borrow() != *query {
            *self.reset_query.borrow_mut() = query.into();
        }
        self.resets_always.set(always && !query.is_empty());
    }

    /// Clients' state follows them in this way from now on.
    pub fn set_state_rules(&self, settings: &SessionState) {
        let rules = (settings.following != Following::Off).then(|| StateRules::new(settings));
        let mut present = self.state_rules.borrow_mut();
        if let (Some(present), Some(rules)) = (&*present, &rules) {
            rules.learn(present);
        }
        *present = rules.map(Rc::new);
    }

    /// The rules by which clients' state follows them; `None`: only what the server reports does.
    #[must_use]
    pub fn state_rules(&self) -> Option<Rc<StateRules>> {
        self.state_rules.borrow().clone()
    }

    /// Has `known` be these rules.
    #[inline]
    pub fn keep_rules(&self, known: &mut Option<Rc<StateRules>>) {
        let rules = self.state_rules.borrow();
        if rules.as_ref().map(Rc::as_ptr) != known.as_ref().map(Rc::as_ptr) {
            known.clone_from(&rules);
        }
    }

    /// Whether a connection is cleaned after each transaction, and not only when its client has left.
    #[must_use]
    pub fn resets_always(&self) -> bool {
        self.resets_always.get()
    }

    /// Opens a connection for one client alone, with these parameters beside those of every connection. It must not get into the pool.
    pub async fn connect_with(&self, parameters: &[(Box<str>, Box<str>)]) -> Result<PgConnection, ConnectFault> {
        let kept = |name: &str| !parameters.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let usual = self.target.startup.iter().filter(|(name, _)| kept(name)).cloned();
        let own = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let target = Target { startup: usual.chain(own).collect(), ..self.target.clone() };
        within(self.timeout.get(), &target, "connecting", async {
            let enter = async |stream: Stream, server: &Arc<Server>| self.enter(stream, server, &target.at(&server.upstream)).await;
            self.dialer().connect(self.timeout.get(), enter).await
        })
        .await
    }

    /// Opens a connection and asks for TLS as configured, and for nothing else: what the server shows to everybody.
    pub async fn look(&self) -> Result<Stream, ConnectFault> {
        within(self.timeout.get(), &self.target, "asking for TLS", async {
            let context = self.context.borrow().clone();
            let enter = async |stream: Stream, server: &Arc<Server>| {
                tls::secure(stream, Way::Tls, &self.target.at(&server.upstream), context.as_ref()).await
            };
            self.dialer().connect(self.timeout.get(), enter).await
        })
        .await
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Asks the server that a connection leads to to cancel what that connection is doing. Returns when the server has taken it: from then on,
    /// the cancel cannot hit anything later.
    pub async fn cancel(&self, connection: &Cancellable) -> Result<(), ConnectFault> {
        let target = self.target.at(&connection.server().upstream);
        // On the heap: it is large, and would be part of every stack from which a cancel may be sent, a client's session's above all.
        Box::pin(within(cancel::TIMEOUT, &target, "cancelling", async {
            let stream = self.dialer().again(connection.server()).await?;
            let context = self.context.borrow().clone();
            let stream = tls::secure(stream, self.way.get(), &target, context.as_ref()).await?;
            cancel::send(stream, connection.key(), &target).await
        }))
        .await
    }

    /// What connections that are opened from now on are met with under TLS; `None`: as usual.
    pub fn set_context(&self, context: Option<Arc<ServerContext>>) {
        *self.context.borrow_mut() = context;
    }

    fn dialer(&self) -> Rc<Dialer> {
        Rc::clone(&self.dialer.borrow())
    }

    /// From an open socket to a connection that is logged in.
    async fn enter(&self, stream: Stream, server: &Arc<Server>, target: &Target) -> Result<PgConnection, ConnectFault> {
        let (first, second) = tls::ways(target.tls);
        match (self.log_in(stream, first, server, target).await, second) {
            (Err(fault), Some(second)) if tls::is_worth_another_way(&fault) => {
                let stream = self.dialer().again(server).await?;
                self.log_in(stream, second, server, target).await.map_err(|_| fault)
            }
            (result, _) => result,
        }
    }

    async fn log_in(&self, stream: Stream, way: Way, server: &Arc<Server>, target: &Target) -> Result<PgConnection, ConnectFault> {
        let context = self.context.borrow().clone();
        let stream = tls::secure(stream, way, target, context.as_ref()).await?;
        let connection = login::login(stream, target, (&self.passed, &self.derived), server).await?;
        self.way.set(way);
        Ok(connection)
    }

    /// Runs the connect query. That it fails is told in the log and nowhere else, as long as the connection is of use.
    async fn prepare(&self, connection: &mut PgConnection, target: &Target) -> Result<(), ConnectFault> {
        let Some(sql) = &target.connect_query else { return Ok(()) };
        match query::run_whatever(sql, connection, target).await? {
            Ok(_) => {}
            Err(error) => tracing::warn!(server = %target.upstream, "connect_query failed: {}", error.message),
        }
        Ok(())
    }
}

impl Connector for PgConnector {
    type Connection = PgConnection;

    async fn connect(&self) -> Result<PgConnection, ConnectFault> {
        let entry = self.page.as_ref().map(Page::enter);
        let opened = within(self.timeout.get(), &self.target, "connecting", async {
            let enter = async |stream: Stream, server: &Arc<Server>| self.enter(stream, server, &self.target.at(&server.upstream)).await;
            let mut connection = self.dialer().connect(self.timeout.get(), enter).await?;
            // What the connect query does says nothing of the server's address.
            let target = self.target.at(&connection.server().upstream.clone());
            if let Err(fault) = self.prepare(&mut connection, &target).await {
                // It lets us in and does not let us stay: another host may be better.
                if fault.kind == ConnectFaultKind::Unavailable {
                    connection.server().lost(clock::now());
                }
                return Err(fault);
            }
            connection.baseline = Rc::new(connection.parameters.clone());
            Ok(connection)
        })
        .await;
        match (opened, entry) {
            (Ok(mut connection), entry) => {
                if let Some(entry) = entry {
                    connection.enter(entry);
                }
                self.learned.set(&connection.baseline);
                Ok(connection)
            }
            (Err(fault), entry) => {
                if let Some(entry) = entry {
                    entry.failed(&self.target.upstream, &fault);
                }
                Err(fault)
            }
        }
    }

    fn arrived(&self, connection: &mut PgConnection) {
        if let (Some(page), Some(born)) = (&self.page, connection.take_born()) {
            connection.enter(page.enter_again(born));
        }
    }

    async fn reset(&self, connection: &mut PgConnection) -> Result<(), ConnectFault> {
        let _tested = Tested::begin(connection);
        within(ROUND_TRIP_TIMEOUT, &self.target, "resetting", async {
            // A cancel that is still on its way would hit the reset, or whoever comes after it.
            let cancel = Rc::clone(&connection.cancel);
            if !poll_fn(|cx| cancel.poll_quiet(cx)).await {
                return Err(self.target.fault(ConnectFaultKind::Other, "a cancel may still be on its way to the connection"));
            }
            match connection.link.tracker.status() {
                TransactionStatus::Idle => {}
                TransactionStatus::InTransaction | TransactionStatus::Failed => {
                    query::run("ROLLBACK", connection, &self.target).await?;
                }
            }
            let query = self.reset_query.borrow().clone();
            let mut cleaned = if query.is_empty() { Cleaned::default() } else { query::run(&query, connection, &self.target).await? };
            if connection.link.left_by(cleaned).is_some() {
                // Whatever the configured query is for, the next client gets nothing of the last one.
                cleaned = query::run(Self::RESET_QUERY, connection, &self.target).await?;
            }
            if let Some(left) = connection.link.left_by(cleaned) {
                return Err(self.target.fault(ConnectFaultKind::Other, &format!("nothing cleans the connection of {left}")));
            }
            connection.link.take_in_reset(cleaned);
            if cleaned.all {
                // What connect_query set is gone with the rest.
                self.prepare(connection, &self.target.at(&connection.server().upstream.clone())).await?;
            }
            Ok(())
        })
        .await
    }

    async fn probe(&self, connection: &mut PgConnection) -> Result<(), ConnectFault> {
        let _tested = Tested::begin(connection);
        let sql = Arc::clone(&self.check_query.borrow());
        within(ROUND_TRIP_TIMEOUT, &self.target, "probing", query::run(&sql, connection, &self.target)).await.map(drop)
    }
}

/// A connection that is being cleaned or asked whether it is alive, for as long as this lives.
struct Tested(Option<Rc<Listed>>);

impl Tested {
    fn begin(connection: &PgConnection) -> Self {
        let server = connection.entry.as_ref().map(|entry| Rc::clone(entry.server()));
        if let Some(server) = &server {
            server.stage.set(Stage::Tested);
        }
        Self(server)
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        if let Some(server) = &self.0 {
            server.stage.set(Stage::Open);
        }
    }
}

/// Bounds `work` in time. Zero is no bound.
async fn within<T>(
    bound: Duration,
    target: &Target,
    what: &str,
    work: impl Future<Output = Result<T, ConnectFault>>,
) -> Result<T, ConnectFault> {
    if bound.is_zero() {
        return work.await;
    }
    match tokio::time::timeout(bound, work).await {
        Ok(result) => result,
        Err(_) => Err(target.fault(ConnectFaultKind::Timeout, &format!("{what} took longer than {} ms", bound.as_millis()))),
    }
}

#[cfg(test)]
#[path = "connector_tests.rs"]
mod tests;
