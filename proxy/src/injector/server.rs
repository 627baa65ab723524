//! The webhook over HTTPS, and its metrics and probes beside it. Everything has a bound: connections, the size of a question, the time for it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sidepool_injector::options::Options;
use sidepool_injector::review::{Ending, answer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::certificate::Certificate;
use super::metrics::Numbers;
use crate::clock;

/// The most connections at a time; one more waits until another is done.
pub(super) const MOST_CONNECTIONS: usize = 128;

/// The largest question: API servers take objects of 3 MiB at most.
const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// How long a handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the body of a question may take.
const BODY_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may sit idle: longer than API servers keep one, so that it is they who close it.
const IDLE_PATIENCE: Duration = Duration::from_secs(120);

/// How long questions may take that are being answered when the end comes.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What the handlers share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) certificate: Arc<Certificate>,
    pub(super) numbers: Arc<Numbers>,
    pub(super) ending: AtomicBool,
}

/// Answers API servers until `end` says that it is over, and finishes what was begun.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut end: watch::Receiver<bool>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let router = Router::new().route("/inject", post(inject)).with_state(Arc::clone(&shared));
    loop {
        let accepted = tokio::select! {
            _ = end.wait_for(|over| *over) => break,
            accepted = next(&listener, &room) => accepted,
        };
        let Some((stream, permit)) = accepted else { continue };
        let connection = Connection { shared: Arc::clone(&shared), router: router.clone(), end: end.clone() };
        spawn_local(async move {
            connection.run(stream).await;
            drop(permit);
        });
    }
    drop(listener);
    // All permits are back when all connections have ended.
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    if timeout(LAST_ANSWERS, room.acquire_many(all)).await.is_err() {
        tracing::warn!("some questions were not answered in time");
    }
    Ok(())
}

async fn next(listener: &tokio::net::TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection; trying again");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// One connection of an API server.
struct Connection {
    shared: Arc<Shared>,
    router: Router,
    end: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) {
        // Without a certificate there is nothing to say.
        let Some(config) = self.shared.certificate.config() else { return };
        let Ok(Ok(stream)) = timeout(HANDSHAKE_PATIENCE, TlsAcceptor::from(config).accept(stream)).await else {
            return self.shared.numbers.handshake_failed();
        };
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(IDLE_PATIENCE).max_buf_size(16 * 1024);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router)));
        // A broken connection is the business of whoever opened it.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = self.end.wait_for(|over| *over) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

async fn inject(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let begun = clock::now();
    let body = match timeout(BODY_PATIENCE, to_bytes(body, LARGEST_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refuse(&shared, begun, StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or it broke off"),
        Err(_) => return refuse(&shared, begun, StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    match answer(&body, &shared.options) {
        Ok(answer) => {
            let took = clock::now() - begun;
            shared.numbers.answered(answer.ending, took);
            let (result, pod, why) = (answer.ending.label(), &answer.pod, &answer.why);
            match answer.ending {
                Ending::Rejected => tracing::warn!(result, pod, why, "a pod is refused"),
                Ending::Injected | Ending::Skipped | Ending::Already | Ending::Error => {
                    tracing::info!(result, pod, why, micros = took.as_micros(), "a pod");
                }
            }
            ([(header::CONTENT_TYPE, "application/json")], answer.review.to_string()).into_response()
        }
        Err(why) => refuse(&shared, begun, StatusCode::BAD_REQUEST, &why),
    }
}

fn refuse(shared: &Shared, begun: std::time::Instant, status: StatusCode, why: &str) -> Response {
    shared.numbers.answered(Ending::Error, clock::now() - begun);
    tracing::warn!(why, "a question that cannot be answered");
    (status, format!("{why}\n")).into_response()
}

/// Metrics and probes.
pub(super) fn admin(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/startupz", get(async || "ok\n"))
        .with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.numbers.render()).into_response()
}

async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.ending.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending\n");
    }
    match shared.certificate.config() {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no certificate yet\n"),
    }
}
