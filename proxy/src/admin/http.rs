//! The admin HTTP server: which path gives what, and the bounds on those who ask.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::task::{AbortHandle, spawn_local};

use super::collect::{Collected, Collector};
use super::facts::Facts;
use super::folding::Folding;
use super::quit::Refusal;
use super::sessions::Sessions;
use super::{guard, metrics, page, sessions, status};
use crate::clock;
use crate::listener::bind::is_without_v6;
use crate::listener::gate::Gate;

/// The most connections at a time; for one more the oldest is closed.
const MOST_CONNECTIONS: usize = 64;

/// For so long what was heard of the sessions is good enough.
const FRESH: Duration = Duration::from_millis(500);

/// How long the head of a request may take, and how long a connection may sit idle between requests.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may live. Whoever scrapes comes back.
const LONGEST_CONNECTION: Duration = Duration::from_secs(60);

/// The largest head of a request.
const LARGEST_HEAD: usize = 16 * 1024;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Admin {
    facts: Arc<Facts>,
    collector: Collector,
    folding: Mutex<Folding>,
    /// What was last heard of the sessions.
    sessions: tokio::sync::Mutex<Option<(Instant, Arc<Sessions>)>>,
}

/// Binds the admin listener.
///
/// `[::]` is every address, those of IPv4 as well, whatever the kernel's default (`bindv6only`); on a machine without IPv6 it is those of IPv4.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    bind_by(address, listen)
}

fn bind_by(address: SocketAddr, listen: impl Fn(SocketAddr) -> io::Result<TcpListener>) -> io::Result<TcpListener> {
    match listen(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_v6(&error) => {
            let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::info!("there is no IPv6 here: listening on {all} instead of {address}");
            listen(all)
        }
        bound => bound,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 128;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves for as long as the control thread runs.
pub async fn serve(listener: TcpListener, facts: Arc<Facts>) -> io::Result<()> {
    let collector = Collector::new(facts.mailboxes.clone());
    accept(listener, router(Arc::new(Admin { facts, collector, folding: Mutex::default(), sessions: tokio::sync::Mutex::default() }))).await
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// Serves what `router` says, within the bounds that are named above.
pub async fn accept(listener: TcpListener, router: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(Peer(peer))));
        if open.len() >= MOST_CONNECTIONS {
            open.retain(|connection| !connection.is_finished());
        }
        // Probes are not to wait for those who hold connections.
        if open.len() >= MOST_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let connection = spawn_local(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .max_buf_size(LARGEST_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // Broken and overdue connections are the business of whoever opened them.
            let _ = tokio::time::timeout(LONGEST_CONNECTION, connection).await;
        });
        open.push_back(connection.abort_handle());
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/status", get(status_page))
        .route("/metrics", get(scrape))
        .route("/statusz", get(statusz))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/-/healthy", get(livez))
        .route("/readyz", get(readyz))
        .route("/-/ready", get(readyz))
        .route("/startupz", get(startupz))
        .route("/quitquitquit", post(quitquitquit))
        .with_state(admin)
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    let Collected { busy, numbers, pools } = collect(&admin).await;
    let most = admin.facts.exported().max_pools;
    let (pools, folded) = admin.folding.lock().unwrap_or_else(PoisonError::into_inner).fold(pools, most);
    let text = metrics::render(&admin.facts, &Collected { busy, numbers, pools }, folded, clock::now());
    ([(header::CONTENT_TYPE, TEXT)], text).into_response()
}

async fn statusz(State(admin): State<Arc<Admin>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    if let Err(refusal) = is_for_us(&admin, &headers) {
        return refusal.into_response();
    }
    let (collected, sessions) = tokio::join!(collect(&admin), look_at_sessions(&admin));
    let document = status::document(&admin.facts, &collected, &sessions, clock::now());
    // For people it is spread over lines; whoever asks for it each second says `?compact`.
    let text = if query.as_deref() == Some("compact") { format!("{document}\n") } else { format!("{document:#}\n") };
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

/// A browser that was led here under somebody else's name gets nothing.
fn is_for_us(admin: &Admin, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?.?"));
    if guard::is_ours(host, &admin.facts.exported().allowed_hosts) {
        return Ok(());
    }
    let what = "this host name could be anybody's: ask by the address, or add the name to allowed_hosts in [admin] (in pgbouncer.ini: metrics_allowed_hosts)\n";
    Err((StatusCode::MISDIRECTED_REQUEST, what))
}

/// What the sessions say, or said a moment ago: however many look, workers are asked once in a while.
async fn look_at_sessions(admin: &Admin) -> Arc<Sessions> {
    let mut known = admin.sessions.lock().await;
    let now = clock::now();
    if let Some((at, sessions)) = &*known
        && now.saturating_duration_since(*at) < FRESH
    {
        return Arc::clone(sessions);
    }
    let sessions = Arc::new(sessions::ask(&admin.facts.mailboxes).await);
    *known = Some((clock::now(), Arc::clone(&sessions)));
    sessions
}

async fn status_page(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = is_for_us(&admin, &headers) {
        return refusal.into_response();
    }
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::policy()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(page::html())).into_response()
}

/// The numbers of this moment, and what they have shown about the workers that owe them.
async fn collect(admin: &Admin) -> Collected {
    admin.facts.liveness.ask(clock::now());
    admin.collector.collect().await
}

/// Alive: every worker answers when it is asked. Knows nothing of upstreams and queues: restarting us would not mend them.
async fn livez(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let stuck = admin.facts.liveness.stuck().await;
    if stuck.is_empty() {
        return ok();
    }
    let names: Vec<String> = stuck.iter().map(|id| id.0.to_string()).collect();
    no(&format!("no answer from worker {}", names.join(", ")))
}

/// Ready: new clients are welcome. Never depends on an upstream: if it did, one failover would take all replicas out of service at once.
async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    if admin.facts.is_draining() {
        return no("draining");
    }
    let is_full = |gate: &Gate| {
        let numbers = gate.numbers();
        numbers.files < numbers.max && numbers.open >= numbers.files
    };
    // Another replica may have files left. A pause, and a server that is away, are the same everywhere: clients are to wait, not to find nobody.
    if admin.facts.gates().iter().any(|(_, gate)| is_full(gate)) {
        return no("at the limit on open files: nobody new is let in");
    }
    startupz(State(admin)).await
}

async fn startupz(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    if admin.facts.is_started() { ok() } else { no("starting") }
}

/// Ends the process as SIGTERM does, if that is allowed.
async fn quitquitquit(State(admin): State<Arc<Admin>>, Extension(Peer(peer)): Extension<Peer>, headers: HeaderMap) -> (StatusCode, String) {
    // A browser says from which page a POST comes. No page has any business here: whichever it is, somebody on this machine merely looks at it.
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "not from a browser\n".to_owned());
    }
    match admin.facts.quit.ask(peer) {
        Ok(()) => (StatusCode::OK, "draining\n".to_owned()),
        Err(Refusal::NotLocal) => (StatusCode::FORBIDDEN, "only from this machine\n".to_owned()),
        Err(Refusal::NotAllowed) => (StatusCode::FORBIDDEN, "set quitquitquit = true in [admin], or SIDEPOOL_QUITQUITQUIT=on\n".to_owned()),
    }
}

fn ok() -> (StatusCode, String) {
    (StatusCode::OK, "ok\n".to_owned())
}

fn no(why: &str) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn every_address_is_reached_by_both_protocols() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        // A machine without IPv6 has no such address to come from.
        let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        assert_eq!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok(), has_v6);
    }

    #[test]
    fn without_ipv6_every_address_is_those_of_ipv4_and_any_other_is_an_error() {
        let v4_alone = |address: SocketAddr| match address {
            SocketAddr::V4(_) => listen(address),
            SocketAddr::V6(_) => Err(rustix::io::Errno::AFNOSUPPORT.into()),
        };
        let listener = bind_by("[::]:0".parse().unwrap(), v4_alone).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::UNSPECIFIED);
        assert!(bind_by("[::1]:0".parse().unwrap(), v4_alone).is_err(), "whoever names an address means it");
        let taken = |_: SocketAddr| Err(io::ErrorKind::AddrInUse.into());
        assert!(bind_by("[::]:0".parse().unwrap(), taken).is_err());
    }
}
