//! The status page in a real browser, in front of a sidepool that has run dry: what it says, how it looks at each size, and that it is harmless.

use std::path::PathBuf;

use serde_json::json;
use sidepool_tests::browser::Browser;
use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::cluster::PASSWORD;
use sidepool_tests::postgres::{Cluster, Wire, frame};
use sidepool_tests::process::Signal;
use sidepool_tests::redis::RedisServer;
use sidepool_tests::settings::Settings;
use sidepool_tests::{place, scrape, wait};

/// A name that is more than text, if it is taken for more.
const WICKED: &str = "<script>document.title='wicked'</script><img src=x onerror=alert(1)>";

/// A sidepool with one pool that has run dry, one that is well, one of a wicked name, and Redis.
struct Dry {
    pool: Pooler,
    _servers: (Cluster, RedisServer),
    holders: Vec<Wire>,
    waiters: Vec<Wire>,
}

impl Dry {
    async fn start() -> Self {
        let (cluster, redis) = (Cluster::start().await, RedisServer::start().await);
        let settings =
            Settings::postgres(&cluster).and_redis(&redis).set("postgres.default_pool_size", 3).set("postgres.query_wait_timeout", "10m");
        let settings =
            settings.set("postgres.databases.app.user", "app").set("postgres.databases.app.password", PASSWORD).database("other", &cluster);
        let wicked = format!("postgres.databases.\"{}\"", WICKED.replace('\\', ""));
        let settings = settings.set(&format!("{wicked}.host"), "127.0.0.1").set(&format!("{wicked}.port"), i64::from(cluster.port()));
        let settings = settings
            .set(&format!("{wicked}.user"), "app")
            .set(&format!("{wicked}.dbname"), "app")
            .set(&format!("{wicked}.password"), PASSWORD);
        let pool = Pooler::start(settings).await;
        let (mut holders, mut waiters) = (Vec::new(), Vec::new());
        for worker in 1..=3 {
            let name = format!("worker-{worker}");
            let parameters = [("user", "app"), ("database", "app"), ("application_name", &*name)];
            let mut holder = Wire::try_login(pool.postgres_port(), &parameters, PASSWORD).await.expect("a login");
            holder.query("BEGIN").await;
            holders.push(holder);
        }
        for _ in 0..4 {
            let mut waiter = pool.wire().await;
            waiter.send(&frame::query("SELECT 1")).await;
            waiters.push(waiter);
        }
        let mut other = Wire::login(pool.postgres_port(), "app", WICKED, PASSWORD).await;
        other.query("SELECT 1").await;
        holders.push(other);
        let mut redis_client = pool.redis_wire().await;
        redis_client.command(&["SET", "key", "value"]).await;
        pool.metrics_show("those who wait", |now| now.sum("sidepool_pool_client_connections", &[("state", "waiting")]) == 4.0).await;
        Self { pool, _servers: (cluster, redis), holders, waiters }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.pool.settings().admin_port())
    }
}

/// Where pictures go: kept where the environment says, else thrown away with the test.
fn pictures() -> PathBuf {
    std::env::var_os("SIDEPOOL_TESTS_PICTURES").map_or_else(|| place::directory("pictures"), PathBuf::from)
}

const DRAWN: &str = "Number(document.body.dataset.polls || 0) >= 2";

#[tokio::test(flavor = "multi_thread")]
async fn it_explains_a_pool_that_has_run_dry_at_every_size_and_in_both_schemes() {
    let dry = Dry::start().await;
    let mut browser = Browser::start().await;
    for (width, dark) in [(360, false), (360, true), (1280, false), (1280, true)] {
        browser.look(width, 900, dark).await;
        browser.open(&dry.url()).await;
        browser.wait_for("two answers", DRAWN).await;
        let text = browser.evaluate("document.body.innerText").await.as_str().expect("text").to_owned();
        for said in [
            "Pool app.app: 3 of 3 in use, 4 waiting, oldest",
            "idle in transaction; longest transaction",
            "by worker-",
            "▲ exhausted",
            "● healthy",
        ] {
            assert!(text.contains(said), "{said} at {width}:\n{text}");
        }
        assert!(text.contains("idle_transaction_timeout"), "what to do is said:\n{text}");
        let overflow = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
        assert_eq!(overflow, json!(0), "nothing is wider than {width}");
        let wide = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('svg')).map((e) => e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 40))";
        assert_eq!(browser.evaluate(wide).await, json!([]), "at {width}");
        let charts = browser.evaluate("[...document.querySelectorAll('svg.chart')].every((svg) => svg.getAttribute('aria-label').includes('over the last') && svg.querySelector('.trace').getAttribute('d').startsWith('M'))").await;
        assert_eq!(charts, json!(true), "every chart has a line, and says the same in words");
        assert!(browser.evaluate("document.querySelectorAll('svg.chart').length").await.as_u64().expect("a number") >= 6 + 4 * 3);
        assert_eq!(
            browser.evaluate("document.querySelector('#list .pool h3').textContent").await,
            json!("app.app"),
            "the worst comes first"
        );
        let ground = browser.evaluate("getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(ground, json!(if dark { "rgb(16, 20, 26)" } else { "rgb(246, 246, 243)" }));
        browser.picture(&pictures().join(format!("status-{width}-{}.png", if dark { "dark" } else { "light" }))).await;
    }
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    let foreign: Vec<_> = browser.requests().into_iter().filter(|url| !url.starts_with(&dry.url()) && !url.starts_with("data:")).collect();
    assert!(foreign.is_empty(), "it asks nobody else: {foreign:?}");
    drop((dry.holders, dry.waiters));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_text_and_the_filter_and_the_details_work() {
    let dry = Dry::start().await;
    let mut browser = Browser::start().await;
    browser.look(1280, 900, false).await;
    browser.open(&dry.url()).await;
    browser.wait_for("two answers", DRAWN).await;
    let titles = "[...document.querySelectorAll('#list .pool h3')].map((title) => title.textContent)";
    let wicked = format!("{WICKED}.app");
    let names = browser.evaluate(titles).await;
    assert!(names.as_array().expect("names").contains(&json!(wicked)), "{names}");
    assert_eq!(browser.evaluate("document.title").await, json!("sidepool"));
    assert_eq!(browser.evaluate("document.querySelectorAll('main img, main script').length").await, json!(0));
    let filter = |text: &str| {
        format!(
            "(() => {{ const filter = document.getElementById('filter'); filter.value = '{text}'; filter.dispatchEvent(new Event('input')); return {titles}; }})()"
        )
    };
    assert_eq!(browser.evaluate(&filter("APP.APP")).await, json!(["app.app"]));
    browser.evaluate("document.querySelector('#list details').open = true").await;
    browser.wait_for("the details", "document.querySelector('#list details').innerText.includes('4 waiting')").await;
    let details = browser.evaluate("document.querySelector('#list details').innerText").await;
    for said in ["worker-1", "idle in transaction", "127.0.0.1:", "4 waiting"] {
        assert!(details.as_str().expect("text").contains(said), "{said}: {details}");
    }
    let text = browser.evaluate("document.body.innerText").await;
    assert!(!text.as_str().expect("text").contains(PASSWORD), "no secret is shown");
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_named_and_silence_is_said() {
    let mut dry = Dry::start().await;
    let mut browser = Browser::start().await;
    browser.look(360, 900, false).await;
    browser.open(&dry.url()).await;
    std::fs::write(dry.pool.file(), "nonsense = 1\n").expect("our own file");
    dry.pool.process().signal(Signal::HUP);
    browser.wait_for("the reason", "document.getElementById('notices').innerText.includes('nonsense')").await;
    browser.wait_for("the next answer", "document.getElementById('live').textContent === 'live'").await;
    dry.pool.process_mut().kill();
    browser
        .wait_for("the alarm", "!document.getElementById('lost').hidden && document.getElementById('live').textContent === 'no answer'")
        .await;
    let alarm = browser.evaluate("document.getElementById('lost').textContent").await;
    assert!(alarm.as_str().expect("text").starts_with("sidepool has not answered for"), "{alarm}");
    browser.picture(&pictures().join("status-360-lost.png")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_pools_are_a_page_and_not_a_flood() {
    let cluster = Cluster::start().await;
    let settings = Settings::postgres(&cluster)
        .set("postgres.databases.\"*\".host", "127.0.0.1")
        .set("postgres.databases.\"*\".port", i64::from(cluster.port()));
    let mut settings = settings;
    for index in 0..200 {
        let section = format!("postgres.databases.tenant_{index:03}");
        settings = settings.database(&format!("tenant_{index:03}"), &cluster);
        settings = settings
            .set(&format!("{section}.user"), "app")
            .set(&format!("{section}.password"), PASSWORD)
            .set(&format!("{section}.dbname"), "app");
    }
    let pool = Pooler::start(settings).await;
    wait::until("all pools", async || {
        let body = scrape::get(pool.settings().admin_port(), "/statusz?compact").await?.body;
        (body.matches("\"pool\":\"tenant_").count() == 200).then_some(())
    })
    .await;
    let mut browser = Browser::start().await;
    browser.look(1280, 900, true).await;
    browser.open(&format!("http://127.0.0.1:{}/status", pool.settings().admin_port())).await;
    browser.wait_for("two answers", DRAWN).await;
    assert_eq!(browser.evaluate("document.querySelectorAll('#list .pool').length").await, json!(25));
    assert!(browser.evaluate("document.getElementsByTagName('*').length").await.as_u64().expect("a number") < 2500);
    browser.evaluate("document.getElementById('more').click()").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('#list .pool').length").await, json!(50));
    browser.picture(&pictures().join("status-1280-many.png")).await;
    // What would be too much for a browser is left to the filter, and said.
    let flood = "(() => { held = true; const flood = { ...before, before: null, unix_seconds: before.unix_seconds + 2, uptime_seconds: before.uptime_seconds + 2 }; \
        flood.pools = Array.from({ length: 700 }, (_, i) => ({ ...before.pools[0], pool: 'p' + i })); \
        flood.says = Array.from({ length: 90 }, (_, i) => ({ level: 'notice', text: 'host ' + i, advice: null })); \
        take(flood); show(); for (let i = 0; i < 40; i++) at('more').click(); \
        return [document.querySelectorAll('#list .pool').length, at('more').hidden, at('counted').textContent, at('notices').children.length, at('notices').innerText]; })()";
    let flood = browser.evaluate(flood).await;
    assert_eq!((&flood[0], &flood[1]), (&json!(500), &json!(true)));
    assert_eq!(flood[2], json!("700 pools, worst first; 500 shown, the filter finds the others"));
    assert_eq!(flood[3], json!(21));
    assert!(flood[4].as_str().expect("text").contains("70 more like these or milder; /statusz has them all"), "{}", flood[4]);
    assert!(browser.complaints().is_empty(), "{:?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_somebody_elses_page_leads_here_learns_and_ends_nothing() {
    let cluster = Cluster::start().await;
    let mut pool = Pooler::start(Settings::postgres(&cluster).set("admin.quitquitquit", true)).await;
    let port = pool.settings().admin_port();
    let ask =
        async |path: &str, host: &str| scrape::say(port, &format!("GET {path}"), &[&format!("Host: {host}")]).await.expect("an answer");
    for path in ["/", "/status", "/statusz"] {
        let refused = ask(path, "evil.example:9127").await;
        assert_eq!((refused.status, refused.body.contains("allowed_hosts")), (421, true), "{path}: {}", refused.body);
        for host in ["127.0.0.1:9127", "[::1]:9127", "localhost", "sidepool:9127", "sidepool.shop.svc:9127"] {
            assert_eq!(ask(path, host).await.status, 200, "{path} by {host}");
        }
        assert_eq!(scrape::say(port, &format!("GET {path}"), &[]).await.expect("an answer").status, 200, "who is no browser names no host");
    }
    for path in ["/metrics", "/livez", "/readyz", "/startupz"] {
        assert_eq!(ask(path, "sidepool.shop").await.status, 200, "{path}: probes and scrapes come by any name");
    }
    // A page needs no trick to send a POST; the browser names the page that does.
    let post = scrape::say(port, "POST /quitquitquit", &["Host: 127.0.0.1", "Origin: http://evil.example"]).await.expect("an answer");
    assert_eq!((post.status, &*post.body), (403, "not from a browser\n"));
    assert_eq!(ask("/readyz", "localhost").await.status, 200, "it goes on");

    let named = pool.settings().clone().set("admin.allowed_hosts", vec!["status.example".to_owned()]);
    pool.reload(named).await;
    assert_eq!(ask("/statusz", "status.example").await.status, 200);
    assert_eq!(ask("/statusz", "evil.example").await.status, 421);
}
