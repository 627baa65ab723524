//! What a transaction, a login or a Redis request costs sidepool, as numbers that do not depend on the machine's mood: instructions in user space
//! (valgrind's cachegrind) and system calls (strace), for fixed conversations of one client with real servers. They are held against `cost.json` beside
//! this file. `SIDEPOOL_COST=write` writes that file anew. Not here: time, throughput and peers, which are `tests/bench`.
//!
//! Each load is the difference between two runs, in one of which it is repeated more often: what a start and the end cost does not count.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::process::Signal;
use sidepool_tests::redis::wire::request;
use sidepool_tests::redis::{self, RedisServer};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// How much more than the committed figure is too much, with the compiler that it was measured with, …
const TOLERANCE: f64 = 0.05;

/// … and with another one, which may put the same code into other instructions.
const TOLERANCE_OF_ANOTHER_COMPILER: f64 = 0.20;

/// How often every load runs in every process, and how much more often the one that is measured.
const WARM_UP: u32 = 60;
const MEASURED: u32 = 1_000;

/// How often it is measured before something is said to be dearer: on a crowded machine more ticks of the clock fall into a request, and a cost of the
/// code itself is in every take.
const TAKES: u32 = 3;

/// How many of the measured ones are logins, which cost as much as a hundred transactions.
const MEASURED_LOGINS: u32 = 60;

/// What `cost.json` says, for each load: instructions in user space, and system calls.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    rustc: String,
    instructions: BTreeMap<String, f64>,
    system_calls: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Simple,
    Extended,
    Prepared,
    Transaction,
    Login,
    RedisGet,
    RedisPipeline,
}

const LOADS: [Load; 7] =
    [Load::Simple, Load::Extended, Load::Prepared, Load::Transaction, Load::Login, Load::RedisGet, Load::RedisPipeline];

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple_query",
            Self::Extended => "extended_query",
            Self::Prepared => "prepared_statement",
            Self::Transaction => "transaction_of_seven_statements",
            Self::Login => "scram_login_and_query",
            Self::RedisGet => "redis_get",
            Self::RedisPipeline => "redis_pipeline_of_sixteen",
        }
    }

    fn measured(self) -> u32 {
        if self == Self::Login { MEASURED_LOGINS } else { MEASURED }
    }
}

/// The servers, and what talks to them through sidepool.
struct Stage<'a> {
    pool: &'a Pooler,
    wire: Wire,
    redis: redis::Wire,
}

impl Stage<'_> {
    async fn play(&mut self, load: Load, times: u32) {
        let wire = &mut self.wire;
        match load {
            Load::Simple => {
                for _ in 0..times {
                    assert_eq!(wire.value("SELECT abalance FROM accounts WHERE aid = 7").await, "0");
                }
            }
            Load::Extended => {
                let message = extended("", true);
                for _ in 0..times {
                    wire.ask(&message).await;
                }
            }
            Load::Prepared => {
                wire.ask(&extended("statement", true)).await;
                let message = extended("statement", false);
                for _ in 0..times {
                    wire.ask(&message).await;
                }
                wire.ask(&[frame::close(b'S', "statement"), frame::sync()].concat()).await;
            }
            Load::Transaction => {
                for _ in 0..times {
                    for sql in ["BEGIN", "SELECT 1", "SELECT 2", "SELECT 3", "SELECT 4", "SELECT 5", "COMMIT"] {
                        wire.query(sql).await;
                    }
                }
            }
            Load::Login => {
                for _ in 0..times {
                    let mut wire = Wire::login(self.pool.postgres_port(), USER, "app", PASSWORD).await;
                    assert_eq!(wire.value("SELECT 1").await, "1");
                    wire.send(&frame::terminate()).await;
                    wire.until_closed().await;
                }
            }
            Load::RedisGet => {
                for _ in 0..times {
                    assert_eq!(self.redis.command(&["GET", "key"]).await.text(), "value");
                }
            }
            Load::RedisPipeline => {
                let message = request(&["GET", "key"]).repeat(16);
                for _ in 0..times {
                    self.redis.send(&message).await;
                    for _ in 0..16 {
                        assert_eq!(self.redis.reply().await.text(), "value");
                    }
                }
            }
        }
    }
}

fn extended(statement: &str, parses: bool) -> Vec<u8> {
    let parse = if parses { frame::parse(statement, "SELECT abalance FROM accounts WHERE aid = $1") } else { Vec::new() };
    [parse, frame::bind("", statement, &["7"]), frame::describe(b'P', ""), frame::execute("", 0), frame::sync()].concat()
}

/// Who counts.
#[derive(Debug, Clone, Copy)]
enum Counter {
    Instructions,
    SystemCalls,
}

impl Counter {
    /// What one process cost that played every load, and `more` more often.
    async fn run(self, cluster: &Cluster, server: &RedisServer, more: Option<Load>) -> f64 {
        let settings = Settings::postgres(cluster).and_redis(server).set("postgres.auth_type", "scram-sha-256").set("workers", 1);
        let said = place::directory("cost").join("said");
        let place = said.display().to_string();
        let observer: &[&str] = match self {
            Self::Instructions => {
                &["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", &format!("--log-file={place}")]
            }
            // Detached, so that the process is ours to signal.
            Self::SystemCalls => &["strace", "-D", "-f", "-c", "-o", &place],
        };
        let mut pool = Pooler::start_observed(settings, observer).await;
        let mut stage =
            Stage { wire: Wire::login(pool.postgres_port(), USER, "app", PASSWORD).await, redis: pool.redis_wire().await, pool: &pool };
        for load in LOADS {
            stage.play(load, WARM_UP.min(load.measured())).await;
        }
        if let Some(load) = more {
            stage.play(load, load.measured()).await;
        }
        drop(stage);
        pool.process().signal(Signal::TERM);
        pool.process_mut().ended().await;
        wait::until("the count", async || self.total(&std::fs::read_to_string(&said).ok()?)).await
    }

    fn total(self, said: &str) -> Option<f64> {
        match self {
            Self::Instructions => {
                let (_, count) = said.lines().find_map(|line| line.split_once(" refs:").filter(|(what, _)| what.contains(" I ")))?;
                count.trim().replace(',', "").parse().ok()
            }
            Self::SystemCalls => {
                let line = said.lines().find(|line| line.ends_with(" total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }

    /// What each of these loads costs, once.
    async fn measure(self, loads: &[Load]) -> BTreeMap<String, f64> {
        if loads.is_empty() {
            return BTreeMap::new();
        }
        let (cluster, server) = (Cluster::start().await, RedisServer::start().await);
        let prepare =
            "CREATE TABLE accounts AS SELECT aid, 0 AS abalance FROM generate_series(1, 100) aid; GRANT ALL ON accounts TO PUBLIC";
        cluster.superuser("app").await.batch_execute(prepare).await.expect("a table");
        server.direct().await.command(&["SET", "key", "value"]).await;
        let idle = self.run(&cluster, &server, None).await;
        let mut costs = BTreeMap::new();
        for load in loads.iter().copied() {
            let cost = (self.run(&cluster, &server, Some(load)).await - idle) / f64::from(load.measured());
            costs.insert(load.name().to_owned(), (cost * 100.0).round() / 100.0);
        }
        costs
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cost.json")
}

fn compiler() -> String {
    let said = std::process::Command::new("rustc").arg("--version").output().expect("rustc is there");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

/// The loads that cost more than they did, by more than is tolerated.
fn dearer(now: &BTreeMap<String, f64>, before: &BTreeMap<String, f64>, tolerance: f64) -> Vec<Load> {
    assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "cost.json knows the loads");
    LOADS.into_iter().filter(|load| now[load.name()] > before[load.name()] * (1.0 + tolerance)).collect()
}

/// Measures what is dearer again, and keeps the lesser of both.
async fn measure_again(counter: Counter, costs: &mut BTreeMap<String, f64>, dearer: &[Load]) {
    for (load, cost) in counter.measure(dearer).await {
        costs.entry(load).and_modify(|before| *before = before.min(cost));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_costs_more_than_it_did() {
    // One after the other: what a request takes longer beside a busy neighbour is filled with ticks of the clock, which are system calls, too.
    let mut measured = Baseline {
        rustc: compiler(),
        instructions: Counter::Instructions.measure(&LOADS).await,
        system_calls: Counter::SystemCalls.measure(&LOADS).await,
    };
    if std::env::var("SIDEPOOL_COST").is_ok_and(|what| what == "write") {
        let text = serde_json::to_string_pretty(&measured).expect("names and numbers");
        std::fs::write(file(), text + "\n").expect("our own directory");
        return;
    }
    let baseline: Baseline = serde_json::from_str(&std::fs::read_to_string(file()).expect("it is committed")).expect("it is well-formed");
    let of_instructions = if baseline.rustc == measured.rustc { TOLERANCE } else { TOLERANCE_OF_ANOTHER_COMPILER };
    let too_dear = |measured: &Baseline| {
        let instructions = dearer(&measured.instructions, &baseline.instructions, of_instructions);
        (instructions, dearer(&measured.system_calls, &baseline.system_calls, TOLERANCE))
    };
    for _ in 1..TAKES {
        let (instructions, system_calls) = too_dear(&measured);
        measure_again(Counter::Instructions, &mut measured.instructions, &instructions).await;
        measure_again(Counter::SystemCalls, &mut measured.system_calls, &system_calls).await;
    }
    println!("{}", serde_json::to_string_pretty(&measured).expect("names and numbers"));
    let (instructions, system_calls) = too_dear(&measured);
    assert!(
        instructions.is_empty() && system_calls.is_empty(),
        "dearer than cost.json says by more than it may be: the instructions of {instructions:?}, the system calls of {system_calls:?}; \
         make them cheaper, or say in the commit why they are worth it"
    );
}
