//! `CLIENT TRACKING … REDIRECT` through the proxy as against the bare server: invalidations come to the client that is named, by the number that it has
//! here, in the form that it asks for; and no number of the server shows.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::redis::{RedisServer, Reply, Wire};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;

/// Who plays: it caches, it is told, it changes.
struct Scene {
    tracker: Wire,
    target: Wire,
    writer: Wire,
    /// The numbers of the tracker and the target.
    ids: [String; 2],
}

impl Scene {
    async fn new(mut wires: [Wire; 3], [tracker_speaks, target_speaks]: [&str; 2]) -> Self {
        for (wire, version) in wires.iter_mut().zip([tracker_speaks, target_speaks]) {
            let hello = wire.command(&["HELLO", version]).await;
            assert!(!hello.is_error("ERR"), "{hello:?}");
        }
        let ids = [wires[0].command(&["CLIENT", "ID"]).await.text(), wires[1].command(&["CLIENT", "ID"]).await.text()];
        if target_speaks == "2" {
            wires[1].command(&["SUBSCRIBE", "__redis__:invalidate"]).await;
        }
        let [tracker, target, writer] = wires;
        Self { tracker, target, writer, ids }
    }

    async fn through(pool: &Pooler, versions: [&str; 2]) -> Self {
        Self::new([pool.redis_wire().await, pool.redis_wire().await, pool.redis_wire().await], versions).await
    }

    async fn direct(server: &RedisServer, versions: [&str; 2]) -> Self {
        Self::new([server.direct().await, server.direct().await, server.direct().await], versions).await
    }

    /// Plays lines that begin with who says it, or with who hears something; gives what was answered and heard, with names in place of numbers.
    async fn play(&mut self, lines: &[&str]) -> Vec<String> {
        let mut heard = Vec::new();
        for line in lines {
            let words: Vec<String> =
                line.split(' ').map(|word| word.replace("$tracker", &self.ids[0]).replace("$target", &self.ids[1])).collect();
            let reply = match words[0].as_str() {
                "tracker" => self.tracker.command(&words[1..]).await,
                "writer" => self.writer.command(&words[1..]).await,
                "told" => self.target.reply().await,
                "pushed" => self.tracker.reply().await,
                who => panic!("who is {who}?"),
            };
            heard.push(format!("{line}: {:?}", self.named(&reply)));
        }
        heard
    }

    fn named(&self, reply: &Reply) -> Reply {
        let all = |elements: &[Reply]| elements.iter().map(|element| self.named(element)).collect::<Vec<_>>();
        match reply {
            Reply::Integer(number) if number.to_string() == self.ids[0] => Reply::Simple("tracker".to_owned()),
            Reply::Integer(number) if number.to_string() == self.ids[1] => Reply::Simple("target".to_owned()),
            Reply::Array(elements) => Reply::Array(all(elements)),
            Reply::Push(elements) => Reply::Push(all(elements)),
            Reply::Map(pairs) => Reply::Map(pairs.iter().map(|(key, value)| (key.clone(), self.named(value))).collect()),
            other => other.clone(),
        }
    }
}

/// Plays the same directly and through the proxy, in both versions of the protocol on either side.
async fn same(scenes: &[&[&str]]) {
    let server = RedisServer::start().await;
    // Numbers of clients that differ from the server's, and from the 1 and 2 of keys and counters.
    let pool = Pooler::start(Settings::redis(&server).set("workers", 2)).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push((server.direct().await, pool.redis_wire().await));
    }
    for versions in [["2", "2"], ["2", "3"], ["3", "2"], ["3", "3"]] {
        for lines in scenes {
            server.direct().await.command(&["FLUSHALL"]).await;
            let expected = Scene::direct(&server, versions).await.play(lines).await;
            server.direct().await.command(&["FLUSHALL"]).await;
            let got = Scene::through(&pool, versions).await.play(lines).await;
            assert_eq!(got, expected, "RESP{} to RESP{}", versions[0], versions[1]);
        }
    }
}

const ON: &str = "tracker CLIENT TRACKING ON REDIRECT $target";

#[tokio::test(flavor = "multi_thread")]
async fn invalidations_come_to_the_client_that_is_named() {
    same(&[
        &[
            ON,
            "tracker GET a",
            "writer SET a 9",
            "told",
            "tracker GET a",
            "tracker INCR a",
            "told",
            "tracker GET b",
            "writer FLUSHALL",
            "told",
        ],
        &[
            ON,
            "tracker GET a",
            "tracker FLUSHDB",
            "told",
            "tracker CLIENT TRACKING OFF",
            "tracker CLIENT GETREDIR",
            "writer SET a 9",
            "tracker GET a",
        ],
        &["tracker CLIENT TRACKING ON BCAST REDIRECT $target", "writer MSET a 9 b 9", "told", "tracker CLIENT TRACKINGINFO"],
        &[
            "tracker CLIENT TRACKING ON BCAST REDIRECT $target PREFIX a: PREFIX b:",
            "writer SET c:1 9",
            "writer SET a:1 9",
            "told",
            "writer SET b:1 9",
            "told",
        ],
        &[
            "tracker CLIENT TRACKING ON REDIRECT $target OPTIN",
            "tracker GET a",
            "tracker CLIENT CACHING YES",
            "tracker GET b",
            "writer SET a 9",
            "writer SET b 9",
            "told",
        ],
        &[
            "tracker CLIENT TRACKING ON OPTOUT REDIRECT $target",
            "tracker CLIENT CACHING NO",
            "tracker GET a",
            "tracker GET b",
            "writer SET a 9",
            "writer SET b 9",
            "told",
        ],
        &["tracker CLIENT TRACKING ON NOLOOP REDIRECT $target", "tracker MGET a b", "tracker SET a 9", "writer SET b 9", "told"],
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_is_the_clients_wherever_it_is_said() {
    same(&[
        &[
            ON,
            "tracker CLIENT GETREDIR",
            "tracker CLIENT TRACKINGINFO",
            "tracker CLIENT TRACKING ON",
            "tracker CLIENT GETREDIR",
            "tracker CLIENT TRACKINGINFO",
        ],
        &[ON, "tracker CLIENT TRACKING ON REDIRECT $tracker", "tracker CLIENT GETREDIR", "tracker CLIENT TRACKINGINFO"],
        &[
            "tracker CLIENT TRACKING ON REDIRECT 123456",
            "tracker CLIENT TRACKING ON REDIRECT x",
            "tracker CLIENT TRACKING ON REDIRECT",
            "tracker CLIENT GETREDIR",
        ],
        &[
            "tracker CLIENT TRACKING ON REDIRECT 0",
            "tracker CLIENT TRACKING ON REDIRECT -1",
            "tracker CLIENT TRACKING MAYBE REDIRECT $target",
        ],
        &[
            "tracker CLIENT TRACKING ON REDIRECT $target REDIRECT $target",
            "tracker CLIENT TRACKING ON REDIRECT $target PREFIX a",
            "tracker CLIENT GETREDIR",
        ],
        &[
            "tracker CLIENT TRACKING ON REDIRECT $target OPTIN OPTOUT",
            "tracker CLIENT TRACKING ON REDIRECT $target BCAST OPTIN",
            "tracker CLIENT GETREDIR",
        ],
        &[
            ON,
            "tracker CLIENT TRACKING ON BCAST REDIRECT $target",
            "tracker CLIENT GETREDIR",
            "tracker CLIENT TRACKING OFF REDIRECT $target",
            "tracker CLIENT GETREDIR",
        ],
        &["tracker CLIENT TRACKING OFF REDIRECT 123456", "tracker CLIENT TRACKING OFF REDIRECT $target", "tracker CLIENT GETREDIR"],
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_redirects_when_it_is_executed() {
    same(&[
        &[
            "tracker MULTI",
            ON,
            "tracker GET a",
            "tracker CLIENT GETREDIR",
            "tracker CLIENT TRACKINGINFO",
            "tracker EXEC",
            "writer SET a 9",
            "told",
        ],
        &[
            "tracker MULTI",
            ON,
            "tracker DISCARD",
            "tracker CLIENT GETREDIR",
            "tracker MULTI",
            "tracker CLIENT TRACKING ON REDIRECT 123456",
            "tracker EXEC",
        ],
        &["tracker WATCH w", ON, "tracker UNWATCH", "tracker CLIENT GETREDIR", "tracker GET a", "writer SET a 9", "told"],
        &[
            ON,
            "tracker GET a",
            "tracker MULTI",
            "tracker INCR a",
            "tracker INCR a",
            "tracker CLIENT TRACKING OFF",
            "tracker EXEC",
            "told",
            "tracker CLIENT GETREDIR",
        ],
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tracks_learns_that_the_target_has_left() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", 2)).await;
    for target_speaks in ["2", "3"] {
        let (mut bare, mut proxied) =
            (Scene::direct(&server, ["3", target_speaks]).await, Scene::through(&pool, ["3", target_speaks]).await);
        let mut heard = Vec::new();
        for scene in [&mut bare, &mut proxied] {
            let mut all = scene.play(&["writer SET a 8", ON, "tracker GET a"]).await;
            scene.target.command(&["QUIT"]).await;
            assert_eq!(scene.target.read().await, None);
            all.extend(scene.play(&["writer SET a 9", "pushed", "tracker CLIENT TRACKINGINFO", "tracker CLIENT GETREDIR"]).await);
            let info = scene.tracker.command(&["CLIENT", "INFO"]).await.text();
            all.push(info.split(' ').find(|pair| pair.starts_with("flags=")).expect("flags").to_owned());
            assert!(info.contains(&format!(" redir={} ", scene.ids[1])), "{info}");
            all.extend(scene.play(&["tracker CLIENT TRACKING OFF", "tracker CLIENT TRACKINGINFO"]).await);
            heard.push(all);
        }
        assert_eq!(heard[1], heard[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_workers_can_be_named() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", 3).set("redis.main.pool_size", 200)).await;
    let mut writer = pool.redis_wire().await;
    let mut workers = std::collections::BTreeSet::new();
    let mut scenes = Vec::new();
    for number in 0..12 {
        let mut scene = Scene::through(&pool, ["2", if number % 2 == 0 { "2" } else { "3" }]).await;
        workers.insert(scene.ids.clone().map(|id| id.parse::<u64>().expect("a number") % 3));
        scene.play(&[ON]).await;
        scene.tracker.command(&["GET", &format!("key-{number}")]).await;
        scenes.push(scene);
    }
    assert!(workers.iter().any(|[tracker, target]| tracker != target), "{workers:?}");
    for (number, scene) in scenes.iter_mut().enumerate() {
        let key = format!("key-{number}");
        writer.command(&["SET", &key, "1"]).await;
        let told = scene.target.reply().await;
        assert_eq!(told.elements().last().expect("keys").elements(), [Reply::Bulk(key.into_bytes())], "nobody hears what is another's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_ends_with_its_client_and_is_bounded() {
    let server = RedisServer::start().await;
    let settings = Settings::redis(&server).set("workers", 1).set("redis.main.pool_size", 8).set("redis.main.blocking_connections", 2);
    let mut pool = Pooler::start(settings.clone()).await;
    let mut watcher = server.direct().await;
    // Many more than connections, one after the other.
    for _ in 0..12 {
        let mut scene = Scene::through(&pool, ["2", "2"]).await;
        assert_eq!(scene.play(&[ON]).await, [format!("{ON}: Simple(\"OK\")")]);
    }
    wait::until("no tracking client to be left", async || {
        watcher.command(&["INFO", "clients"]).await.text().contains("tracking_clients:0").then_some(())
    })
    .await;
    let mut first = Scene::through(&pool, ["3", "2"]).await;
    first.play(&[ON]).await;
    let mut second = Scene::through(&pool, ["3", "2"]).await;
    pool.reload(settings.clone().set("redis.main.query_wait_timeout", "1s")).await;
    let refused = second.tracker.command(&["CLIENT", "TRACKING", "ON", "REDIRECT", &second.ids[1]]).await;
    assert!(refused.is_error("POOLEXHAUSTED"), "{refused:?}");
    pool.reload(settings).await;
    assert_eq!(second.tracker.command(&["PING"]).await.text(), "PONG");
    first.play(&["tracker GET a", "writer SET a 1", "told", "tracker CLIENT TRACKING OFF"]).await;
    assert_eq!(second.play(&[ON]).await, [format!("{ON}: Simple(\"OK\")")], "what was given back is another's");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_end_still_arrives() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("workers", 2)).await;
    let many: Vec<String> = (0..2000).map(|number| format!("key-{number}")).collect();
    let (mget, del) = ([&["MGET".to_owned()], &many[..]].concat(), [&["DEL".to_owned()], &many[..]].concat());
    let pairs: Vec<String> = many.iter().flat_map(|key| [key.clone(), "1".to_owned()]).collect();
    for end in [&["CLIENT", "TRACKING", "OFF"][..], &["RESET"], &["QUIT"]] {
        let mut scene = Scene::through(&pool, ["2", "3"]).await;
        scene.writer.command(&[&["MSET".to_owned()], &pairs[..]].concat()).await;
        scene.play(&[ON]).await;
        scene.tracker.command(&mget).await;
        assert_eq!(scene.writer.command(&del).await, Reply::Integer(2000));
        scene.tracker.command(end).await;
        for key in &many {
            assert_eq!(scene.target.reply().await.elements()[0].text(), "invalidate", "{key} before {end:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_closed_when_it_may_have_missed_something() {
    let mut server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut scene = Scene::through(&pool, ["2", "3"]).await;
    scene.play(&[ON]).await;
    server.stop();
    assert_eq!(scene.target.read().await, None);
    assert_eq!(scene.tracker.read().await, None);
}

/// One is held until it is there as a whole, as far as a client's output may grow.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_that_is_too_large_to_be_held_closes_both() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server).set("redis.main.client_output_buffer_limit", "normal 1mb 0 0")).await;
    let mut scene = Scene::through(&pool, ["2", "2"]).await;
    let (key, target) = ("k".repeat(3_000_000), scene.ids[1].clone());
    assert_eq!(scene.tracker.command(&["CLIENT", "TRACKING", "ON", "REDIRECT", &target]).await.text(), "OK");
    assert_eq!(scene.tracker.command(&["GET", &key]).await, Reply::Null);
    scene.writer.command(&["SET", &key, "x"]).await;
    assert_eq!(scene.target.read().await, None, "closed");
    assert_eq!(scene.tracker.read().await, None, "closed");
    assert_eq!(scene.writer.command(&["PING"]).await.text(), "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracking_outlives_a_subscription_of_the_same_client() {
    let server = RedisServer::start().await;
    let pool = Pooler::start(Settings::redis(&server)).await;
    let mut scene = Scene::through(&pool, ["2", "2"]).await;
    scene.play(&[ON, "tracker SUBSCRIBE c", "tracker UNSUBSCRIBE c"]).await;
    let heard = scene.play(&["tracker CLIENT GETREDIR", "tracker GET a", "writer SET a 9", "told"]).await;
    assert_eq!(heard[0], "tracker CLIENT GETREDIR: Simple(\"target\")");
}
