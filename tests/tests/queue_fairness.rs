//! `queue_fairness`: who asks for much does not make others wait; `refuse_early`: who would wait in vain is told so at once.

use std::time::{Duration, Instant};

use sidepool_tests::calm::{self, least};
use sidepool_tests::place;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::{PASSWORD, USER};
use sidepool_tests::postgres::wire::{first_column, first_error};
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::redis::{self, RedisServer};
use sidepool_tests::scrape::Scrape;
use sidepool_tests::settings::Settings;
use tokio::task::JoinSet;

/// What all clients do all the time.
const WORK: &str = "SELECT pg_sleep(0.02)";

/// Clients of the small service, and of the one that asks for fifty times as much.
const FEW: usize = 2;
const MANY: usize = 50 * FEW;

type Parameters<'a> = &'a [(&'a str, &'a str)];

/// A service: which port its clients come to, and what they say of themselves.
#[derive(Clone, Copy)]
struct Service<'a>(u16, Parameters<'a>);

async fn login(Service(port, parameters): Service<'_>) -> Wire {
    Wire::try_login(port, parameters, PASSWORD).await.expect("a login")
}

/// The median time of one transaction of the small service.
async fn median(service: Service<'_>) -> Duration {
    let mut clients = JoinSet::new();
    for _ in 0..FEW {
        let mut client = login(service).await;
        clients.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..15 {
                let begun = Instant::now();
                assert!(first_error(&client.query(WORK).await).is_none());
                times.push(begun.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Fifty times as many clients that never stop, and all of which have been served once.
async fn crowd(service: Service<'_>) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    let (served, mut first) = tokio::sync::mpsc::channel(MANY);
    for _ in 0..MANY {
        let (mut client, served) = (login(service).await, served.clone());
        crowd.spawn(async move {
            client.query(WORK).await;
            served.send(()).await.expect("somebody counts");
            loop {
                client.query(WORK).await;
            }
        });
    }
    for _ in 0..MANY {
        first.recv().await.expect("each is served");
    }
    crowd
}

fn fair(cluster: &Cluster, fairness: &str) -> Settings {
    let settings = Settings::postgres(cluster).set("postgres.default_pool_size", 4).set("postgres.query_wait_timeout", "60s");
    settings.set("postgres.queue_fairness", fairness)
}

/// So many times as long a small service may take beside a greedy one.
const MOST: f64 = 2.0;

/// The first of a few measurements that is more than `least`, or the most of them: other work may have made slow what is compared with.
async fn most(least: f64, mut measure: impl AsyncFnMut() -> f64) -> f64 {
    -calm::least(-least, async || -measure().await).await
}

/// How many times as long a small service's transactions take beside a greedy one.
async fn slowdown(small: Service<'_>, greedy: Service<'_>) -> f64 {
    let alone = median(small).await;
    let _crowd = crowd(greedy).await;
    let beside = median(small).await;
    println!("{alone:?} alone, {beside:?} beside {MANY} others");
    beside.as_secs_f64() / alone.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_that_ask_for_much_do_not_make_others_wait() {
    let cluster = Cluster::start().await;
    let named = |name| [("user", USER), ("database", "app"), ("application_name", name)];
    let pool = Pooler::start(fair(&cluster, "application_name")).await;
    let (small, greedy) = (named("small"), named("greedy"));
    let port = pool.postgres_port();
    let times = least(MOST, async || slowdown(Service(port, &small), Service(port, &greedy)).await).await;
    assert!(times <= MOST, "{times:.1} times as long");
    let pool = Pooler::start(fair(&cluster, "off")).await;
    let port = pool.postgres_port();
    let times = most(5.0, async || slowdown(Service(port, &small), Service(port, &greedy)).await).await;
    assert!(times > 5.0, "first come, first served makes it only {times:.1} times as long: the test shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_are_told_apart_over_all_workers() {
    let cluster = Cluster::start().await;
    let named = |name| [("user", USER), ("database", "app"), ("application_name", name)];
    let pool = Pooler::start(fair(&cluster, "application_name").set("workers", 2)).await;
    let (small, greedy) = (named("small"), named("greedy"));
    let port = pool.postgres_port();
    let times = least(MOST, async || slowdown(Service(port, &small), Service(port, &greedy)).await).await;
    assert!(times <= MOST, "{times:.1} times as long");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_at_another_listener_does_not_make_others_wait() {
    let cluster = Cluster::start().await;
    let settings = fair(&cluster, "listener");
    // One listens on one address, the other on all.
    let (small, greedy) = (settings.postgres_port(), place::free_port());
    let pool = Pooler::start(settings.set("postgres.listen", vec![format!("127.0.0.1:{small}"), format!("0.0.0.0:{greedy}")])).await;
    let who = [("user", USER), ("database", "app")];
    let times = least(MOST, async || slowdown(Service(small, &who), Service(greedy, &who)).await).await;
    assert!(times <= MOST, "{times:.1} times as long");
    drop(pool);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_share_a_pool_do_not_make_each_other_wait() {
    let cluster = Cluster::start().await;
    // Both become the same user on the server, and so have one pool.
    let settings = fair(&cluster, "user").set("postgres.databases.app.user", USER).set("postgres.databases.app.password", PASSWORD);
    let pool = Pooler::start(settings.set("postgres.users.small.password", "x").set("postgres.users.greedy.password", "x")).await;
    let named = |user| [("user", user), ("database", "app")];
    let (small, greedy) = (named("small"), named("greedy"));
    let port = pool.postgres_port();
    let times = least(MOST, async || slowdown(Service(port, &small), Service(port, &greedy)).await).await;
    assert!(times <= MOST, "{times:.1} times as long");
}

fn waiting(now: &Scrape) -> f64 {
    now.sum("sidepool_pool_client_connections", &[("state", "waiting")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_itself_another_name_waits_among_others() {
    let cluster = Cluster::start().await;
    let pool = Pooler::start(fair(&cluster, "application_name").set("postgres.default_pool_size", 1)).await;
    let mut holder = pool.wire().await;
    holder.query("CREATE SEQUENCE turn").await;
    holder.query("BEGIN").await;
    let (mut renamed, mut others) = (pool.wire().await, Vec::new());
    holder.query("COMMIT").await;
    renamed.query("SET application_name = 'somebody else'").await;
    holder.query("BEGIN").await;
    for _ in 0..5 {
        let mut other = pool.wire().await;
        other.send(&frame::query("SELECT nextval('turn')")).await;
        others.push(other);
    }
    pool.metrics_show("five that wait", |now| waiting(now) >= 5.0).await;
    renamed.send(&frame::query("SELECT nextval('turn')")).await;
    pool.metrics_show("six that wait", |now| waiting(now) >= 6.0).await;
    holder.query("COMMIT").await;
    let turn = first_column(&renamed.until_ready().await);
    assert!(["1", "2"].contains(&&*turn[0]), "it came last and was to be among the first to be served: {turn:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_wait_in_vain_is_told_when_to_come_again() {
    let cluster = Cluster::start().await;
    let settings = fair(&cluster, "off").set("postgres.default_pool_size", 1).set("postgres.query_wait_timeout", "1s");
    let pool = Pooler::start(settings.set("postgres.refuse_early", true)).await;
    let mut clients = JoinSet::new();
    for _ in 0..60 {
        let mut client = pool.wire().await;
        clients.spawn(async move {
            for _ in 0..5 {
                let begun = Instant::now();
                let messages = client.query("SELECT pg_sleep(0.05)").await;
                if let Some(error) = first_error(&messages).filter(|error| error.text().contains("refuse_early")) {
                    return Some((begun.elapsed(), error.field(b'C'), error.field(b'H')));
                }
            }
            None
        });
    }
    let told: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    // A slow machine makes some wait, and not all.
    let quickest = told.iter().min_by_key(|(took, ..)| *took);
    let (took, code, hint) = quickest.expect("sixty clients are too many for twenty transactions a second");
    assert!(*took < Duration::from_millis(500), "at once, and not after {took:?}");
    assert_eq!(code.as_deref(), Some("53300"));
    assert!(hint.as_ref().is_some_and(|hint| hint.starts_with("Retry after ") && hint.contains("query_wait_timeout")), "{hint:?}");
    let counted = |now: &Scrape| now.sum("sidepool_pool_rejections_total", &[("reason", "would_time_out")]) >= 1.0;
    pool.metrics_show("those that were refused", counted).await;
}

/// One transaction of a Redis client that talks it through: it has a connection of its own meanwhile.
async fn transaction(client: &mut redis::Wire) {
    assert_eq!(client.command(&["MULTI"]).await.text(), "OK");
    assert_eq!(client.command(&["GET", "key"]).await.text(), "QUEUED");
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.command(&["EXEC"]).await;
}

/// A Redis client that says who it is.
async fn named(pool: &Pooler, name: &str) -> redis::Wire {
    let mut client = pool.redis_wire().await;
    assert_eq!(client.command(&["CLIENT", "SETNAME", name]).await.text(), "OK");
    client
}

/// How long the small service takes for its transactions.
async fn transactions(pool: &Pooler) -> Duration {
    let begun = Instant::now();
    let mut client = named(pool, "small").await;
    for _ in 0..15 {
        transaction(&mut client).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_that_ask_for_much_do_not_make_others_wait() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("redis.main.pool_size", 6).set("redis.main.query_wait_timeout", "60s");
    let fair = settings.clone().set("redis.main.queue_fairness", "application_name");
    let times = least(MOST, async || redis_slowdown(fair.clone()).await).await;
    assert!(times <= MOST, "{times:.1} times as long");
    let unfair = settings.set("redis.main.queue_fairness", "off");
    let times = most(3.0, async || redis_slowdown(unfair.clone()).await).await;
    assert!(times > 3.0, "first come, first served makes it only {times:.1} times as long: the test shows nothing");
}

/// How many times as long its transactions take beside a crowd.
async fn redis_slowdown(settings: Settings) -> f64 {
    let pool = Pooler::start(settings).await;
    let alone = transactions(&pool).await;
    let mut crowd = JoinSet::new();
    for _ in 0..MANY / 2 {
        let mut client = named(&pool, "greedy").await;
        crowd.spawn(async move {
            loop {
                transaction(&mut client).await;
            }
        });
    }
    let crowded = |now: &Scrape| waiting(now) >= 20.0;
    pool.metrics_show("a crowd that waits", crowded).await;
    let beside = transactions(&pool).await;
    println!("{alone:?} alone, {beside:?} beside {} others", MANY / 2);
    beside.as_secs_f64() / alone.as_secs_f64()
}
