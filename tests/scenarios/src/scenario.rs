//! The scenarios by name. Each file under this one plays one of them, on either protocol's stage where it makes sense on both.

mod burst;
mod cut;
mod exhaustion;
mod failover;
mod fairness;
mod kill_storm;
mod log_full;
mod restart;
mod slow_login;
mod slow_reader;
mod soak;
mod spike;

use std::time::Duration;

use clap::ValueEnum;

use crate::report::Report;
use crate::scale::Scale;
use crate::stage::{Peer, PostgresStage, RedisStage, Stage};
use crate::tally::Tally;
use crate::witness::Witnesses;

/// What can be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 3,000 clients log in within a second, each for one query, beside 50 that are at work; five times.
    Burst,
    /// 1,000 clients log in under TLS at once, none of which has been there before, beside 50 clients at work under TLS; five times.
    TlsBurst,
    /// From no client to 2,000 within two seconds, and back to none at once.
    Spike,
    /// All connections are held by transactions that do not move, and 500 clients want one; the idle transaction timeout frees them after 5 s.
    Exhaustion,
    /// One user offers 50 times the load of another on the same pool.
    Fairness,
    /// The server is stopped in an orderly way, and as by a crash, each time for 3 s; and one of its processes is killed.
    Restart,
    /// The server is lost for good; its name leads to another one 3 s later.
    Failover,
    /// Every packet between pooler and server vanishes for 5 s.
    Cut5,
    /// For 30 s.
    Cut30,
    /// For 120 s.
    Cut120,
    /// 2,000 connections that send their first message byte by byte and never finish it.
    SlowLogin,
    /// As many such connections as there may be clients (1,000) and a fifth more, which come again a second after they were closed.
    SlowCrowd,
    /// Ten clients ask for large answers and read them slowly.
    SlowReader,
    /// The server ends one of the pooler's connections five times a second.
    KillStorm,
    /// The disk to which the pooler logs is full.
    LogFull,
    /// 500 clients that come and go, for as long as `--minutes` says.
    Soak,
    /// As `burst`, with Redis.
    RedisBurst,
    /// As `spike`, with Redis.
    RedisSpike,
    /// As `restart`, with Redis.
    RedisRestart,
    /// As `cut5`, with Redis.
    RedisCut5,
    /// As `cut30`, with Redis.
    RedisCut30,
    /// As `cut120`, with Redis.
    RedisCut120,
    /// As `slow-reader`, with Redis.
    RedisSlowReader,
    /// As `kill-storm`, with Redis.
    RedisKillStorm,
    /// As `soak`, with Redis.
    RedisSoak,
}

/// How a run is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Through whom.
    pub peer: Peer,
    /// How large.
    pub scale: Scale,
    /// How long a soak lasts.
    pub soak: Duration,
}

impl Scenario {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Plays it; the error says why it cannot be played here.
    pub async fn play(self, order: Order) -> Result<Report, String> {
        let cut = |seconds| Duration::from_secs(seconds);
        let report = match self {
            Self::Burst => burst::play(PostgresStage::set(order.peer, None).await, order, burst::PLAIN).await,
            Self::TlsBurst => burst::play(PostgresStage::set_secure(order.peer).await, order, burst::SECURE).await,
            Self::Spike => spike::play::<PostgresStage>(order).await,
            Self::Exhaustion => exhaustion::play(order).await,
            Self::Fairness => fairness::play(order).await,
            Self::Restart => restart::play::<PostgresStage>(order).await,
            Self::Failover => failover::play(order).await?,
            Self::Cut5 => cut::play::<PostgresStage>(order, cut(5)).await?,
            Self::Cut30 => cut::play::<PostgresStage>(order, cut(30)).await?,
            Self::Cut120 => cut::play::<PostgresStage>(order, cut(120)).await?,
            Self::SlowLogin => slow_login::play(order).await,
            Self::SlowCrowd => slow_login::play_full(order).await,
            Self::SlowReader => slow_reader::play::<PostgresStage>(order).await,
            Self::KillStorm => kill_storm::play::<PostgresStage>(order).await,
            Self::LogFull => log_full::play(order).await,
            Self::Soak => soak::play::<PostgresStage>(order).await,
            Self::RedisBurst => burst::play(RedisStage::set(order.peer, None).await, order, burst::PLAIN).await,
            Self::RedisSpike => spike::play::<RedisStage>(order).await,
            Self::RedisRestart => restart::play::<RedisStage>(order).await,
            Self::RedisCut5 => cut::play::<RedisStage>(order, cut(5)).await?,
            Self::RedisCut30 => cut::play::<RedisStage>(order, cut(30)).await?,
            Self::RedisCut120 => cut::play::<RedisStage>(order, cut(120)).await?,
            Self::RedisSlowReader => slow_reader::play::<RedisStage>(order).await,
            Self::RedisKillStorm => kill_storm::play::<RedisStage>(order).await,
            Self::RedisSoak => soak::play::<RedisStage>(order).await,
        };
        Ok(Report { scenario: self.name(), ..report })
    }
}

/// What scenarios have of `default_pool_size`, at most.
const POOL_SIZE: u64 = 20;

/// So many connects within a second are too many, whatever happened before: every place of the pool, and the tries of those that failed.
const STAMPEDE: u64 = POOL_SIZE + POOL_SIZE / 2;

/// The end of every scenario: what its clients met, what the witnesses have seen, what the server and the pooler say.
async fn conclude<S: Stage>(mut stage: S, order: Order, witnesses: Witnesses, tally: &Tally) -> Report {
    let mut report = Report::of(S::peer_name(order.peer), tally);
    report.broken.extend(stage.verdict(witnesses).await);
    let connects = stage.connects().await;
    report.connects = connects.total;
    report.connects_per_second = connects.most_per_second;
    if let Some(most) = connects.most_per_second.filter(|most| order.peer == Peer::Sidepool && *most > STAMPEDE) {
        report.broken.push(format!("a stampede: {most} connects within a second, for a pool of {POOL_SIZE}"));
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
    let peak = stage.pooler().peak_resident_bytes() as f64;
    report.peak_rss_mb = crate::report::round(peak / 1e6, 1);
    report
}
