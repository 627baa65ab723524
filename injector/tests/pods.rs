//! Pods of every shape: what the sidecar looks like in them, what the application gets, and what is refused with which words.

use serde_json::{Value, json};
use sidepool_injector::inject::{Outcome, inject};
use sidepool_injector::options::{NativeSidecar, Options};

fn pod(spec: Value, annotations: Value) -> Value {
    json!({ "metadata": { "generateName": "web-", "labels": { "sidepool.dev/inject": "true" }, "annotations": annotations }, "spec": spec })
}

/// A pod of one container with this environment.
fn with_env(env: Value, annotations: Value) -> Value {
    pod(json!({ "containers": [{ "name": "app", "image": "app:1", "env": env }] }), annotations)
}

fn injected(pod: &Value) -> (Value, Vec<String>) {
    match inject(pod, &Options::default()) {
        Outcome::Injected { pod, warnings } => (pod, warnings),
        other => panic!("{other:?}"),
    }
}

fn rejected(pod: &Value) -> String {
    match inject(pod, &Options::default()) {
        Outcome::Rejected(why) => why,
        other => panic!("{other:?}"),
    }
}

fn skipped(pod: &Value) -> String {
    match inject(pod, &Options::default()) {
        Outcome::Skipped(why) => why,
        other => panic!("{other:?}"),
    }
}

/// The value or the reference of a variable of the container at this place.
fn variable(pod: &Value, list: &str, index: usize, name: &str) -> Value {
    let env = pod["spec"][list][index]["env"].as_array().cloned().unwrap_or_default();
    let entry = env.into_iter().rfind(|entry| entry["name"] == name).unwrap_or_default();
    if entry["value"].is_null() { entry["valueFrom"].clone() } else { entry["value"].clone() }
}

fn sidecar(pod: &Value, name: &str) -> Value {
    variable(pod, "initContainers", 0, name)
}

fn app(pod: &Value, name: &str) -> Value {
    variable(pod, "containers", 0, name)
}

fn secret(name: &str, key: &str) -> Value {
    json!({ "secretKeyRef": { "name": name, "key": key } })
}

#[test]
fn a_literal_url_moves_and_the_application_keeps_all_but_the_way_there() {
    let url = "postgres://app:s3cret@db.internal:5433/shop?sslmode=require&application_name=web";
    let (pod, warnings) = injected(&with_env(json!([{ "name": "DATABASE_URL", "value": url }]), json!({})));
    assert_eq!(sidecar(&pod, "DATABASE_URL"), url);
    assert_eq!(app(&pod, "DATABASE_URL"), "postgres://app@127.0.0.1:6432/shop?application_name=web");
    assert_eq!(sidecar(&pod, "SIDEPOOL_DATABASE_ALIAS"), Value::Null);
    assert!(warnings.iter().any(|warning| warning.contains("DATABASE_URL")), "{warnings:?}");
    let noted = pod["metadata"]["annotations"].to_string();
    assert!(!noted.contains("s3cret"), "{noted}");
}

#[test]
fn a_reference_moves_and_the_application_gets_a_name_for_what_it_cannot_be_told() {
    let env =
        json!([{ "name": "DATABASE_URL", "valueFrom": secret("db", "url") }, { "name": "REDIS_URL", "valueFrom": secret("cache", "url") }]);
    let (pod, _) = injected(&with_env(env.clone(), json!({})));
    assert_eq!((sidecar(&pod, "DATABASE_URL"), sidecar(&pod, "REDIS_URL")), (secret("db", "url"), secret("cache", "url")));
    assert_eq!(app(&pod, "DATABASE_URL"), "postgresql://sidepool@127.0.0.1:6432/sidepool");
    assert_eq!(app(&pod, "REDIS_URL"), "redis://127.0.0.1:6380");
    assert_eq!(sidecar(&pod, "SIDEPOOL_DATABASE_ALIAS"), "sidepool");
    let annotations =
        json!({ "sidepool.dev/env-url": "DATABASE_URL=postgresql+asyncpg", "sidepool.dev/database": "shop", "sidepool.dev/port": "7000" });
    let (pod, _) = injected(&with_env(env, annotations));
    assert_eq!(app(&pod, "DATABASE_URL"), "postgresql+asyncpg://sidepool@127.0.0.1:7000/shop");
    assert_eq!(sidecar(&pod, "SIDEPOOL_POSTGRES_LISTEN"), "127.0.0.1:7000");
    assert_eq!((sidecar(&pod, "SIDEPOOL_DATABASE_ALIAS"), app(&pod, "REDIS_URL")), (Value::Null, secret("cache", "url")));
}

#[test]
fn a_url_that_is_put_together_moves_with_its_parts() {
    let env = json!([
        { "name": "DB_PASSWORD", "valueFrom": secret("db", "password") },
        { "name": "DATABASE_URL", "value": "postgres://app:$(DB_PASSWORD)@db:5432/shop?sslmode=require" },
    ]);
    let (pod, _) = injected(&with_env(env, json!({})));
    assert_eq!(sidecar(&pod, "SIDEPOOL_FROM_DB_PASSWORD"), secret("db", "password"));
    assert_eq!(sidecar(&pod, "DATABASE_URL"), "postgres://app:$(SIDEPOOL_FROM_DB_PASSWORD)@db:5432/shop?sslmode=require");
    assert_eq!(app(&pod, "DATABASE_URL"), "postgres://app@127.0.0.1:6432/shop");
    assert_eq!(app(&pod, "DB_PASSWORD"), secret("db", "password"));
}

#[test]
fn an_import_is_overridden_by_an_entry_and_the_sidecar_looks_into_each_source() {
    let one = json!({ "containers": [{ "name": "app", "envFrom": [{ "secretRef": { "name": "db" } }] }] });
    let (first, _) = injected(&pod(one.clone(), json!({ "sidepool.dev/env-url": "DATABASE_URL" })));
    assert_eq!(sidecar(&first, "DATABASE_URL"), secret("db", "DATABASE_URL"));
    assert_eq!(app(&first, "DATABASE_URL"), "postgresql://sidepool@127.0.0.1:6432/sidepool");
    assert_eq!(first["spec"]["containers"][0]["envFrom"], one["containers"][0]["envFrom"]);
    let two =
        json!({ "containers": [{ "name": "app", "envFrom": [{ "configMapRef": { "name": "app" } }, { "secretRef": { "name": "db" } }] }] });
    let (second, _) = injected(&pod(two, json!({ "sidepool.dev/env-url": "DATABASE_URL" })));
    assert_eq!(sidecar(&second, "DATABASE_URL")["secretKeyRef"]["optional"], true);
    assert_eq!(sidecar(&second, "DATABASE_URL_2")["configMapKeyRef"], json!({ "name": "app", "key": "DATABASE_URL", "optional": true }));
    let why = rejected(&pod(one, json!({})));
    assert!(why.contains("sidepool.dev/env-url") && why.contains("envFrom hides it"), "{why}");
}

#[test]
fn parts_of_an_address_move_together() {
    let env = json!([
        { "name": "DB_HOST", "value": "db.internal" },
        { "name": "DB_USER", "valueFrom": secret("db", "user") },
        { "name": "DB_PASSWORD", "valueFrom": secret("db", "password") },
        { "name": "DB_NAME", "value": "shop" },
        { "name": "PGSSLMODE", "value": "verify-full" },
    ]);
    let (pod, _) = injected(&with_env(env, json!({ "sidepool.dev/env-host": "DB_HOST" })));
    assert_eq!((sidecar(&pod, "PGHOST"), sidecar(&pod, "PGDATABASE")), (json!("db.internal"), json!("shop")));
    assert_eq!((sidecar(&pod, "PGUSER"), sidecar(&pod, "PGPASSWORD")), (secret("db", "user"), secret("db", "password")));
    assert_eq!((sidecar(&pod, "PGPORT"), sidecar(&pod, "PGSSLMODE")), (Value::Null, json!("verify-full")));
    assert_eq!((app(&pod, "DB_HOST"), app(&pod, "DB_PORT")), (json!("127.0.0.1"), json!("6432")));
    assert_eq!((app(&pod, "PGSSLMODE"), app(&pod, "DB_NAME")), (json!("disable"), json!("shop")));
    let (libpq, _) = injected(&with_env(json!([{ "name": "PGHOST", "value": "db" }, { "name": "PGPORT", "value": "5433" }]), json!({})));
    assert_eq!((sidecar(&libpq, "PGHOST"), sidecar(&libpq, "PGPORT")), (json!("db"), json!("5433")));
    assert_eq!((app(&libpq, "PGHOST"), app(&libpq, "PGPORT")), (json!("127.0.0.1"), json!("6432")));
}

#[test]
fn the_upstream_may_be_said_by_an_annotation() {
    let annotations = json!({ "sidepool.dev/upstream": "secret/db/url, redis=config-map/cache/url" });
    let (pod, _) = injected(&with_env(json!([]), annotations));
    assert_eq!(sidecar(&pod, "DATABASE_URL"), secret("db", "url"));
    assert_eq!(sidecar(&pod, "REDIS_URL"), json!({ "configMapKeyRef": { "name": "cache", "key": "url" } }));
    assert_eq!(sidecar(&pod, "SIDEPOOL_REDIS_LISTEN"), "127.0.0.1:6380");
    let env = json!([{ "name": "DATABASE_URL", "value": "postgres://app:pw@old/shop" }]);
    let (pod, _) = injected(&with_env(env, json!({ "sidepool.dev/upstream": "postgres://app@new/shop" })));
    assert_eq!(
        (sidecar(&pod, "DATABASE_URL"), app(&pod, "DATABASE_URL")),
        (json!("postgres://app@new/shop"), json!("postgres://app@127.0.0.1:6432/shop"))
    );
}

#[test]
fn a_configuration_file_is_mounted_as_a_directory() {
    let env = json!([{ "name": "DATABASE_URL", "value": "postgres://app:pw@db/shop?sslmode=require" }]);
    let (mapped, _) = injected(&with_env(env.clone(), json!({ "sidepool.dev/config-map": "pools" })));
    let own = &mapped["spec"]["initContainers"][0];
    assert_eq!(own["args"], json!(["/etc/sidepool/sidepool.toml", "--admin-listen", "[::]:9127", "--log-format", "json"]));
    assert_eq!(own["volumeMounts"], json!([{ "name": "sidepool-config", "mountPath": "/etc/sidepool", "readOnly": true }]));
    assert_eq!(mapped["spec"]["volumes"], json!([{ "name": "sidepool-config", "configMap": { "name": "pools" } }]));
    assert_eq!(app(&mapped, "DATABASE_URL"), "postgres://app:pw@127.0.0.1:6432/shop");
    let hidden = json!([{ "name": "DATABASE_URL", "valueFrom": secret("db", "url") }]);
    let (kept, warnings) = injected(&with_env(hidden.clone(), json!({ "sidepool.dev/config-map": "pools" })));
    assert_eq!(app(&kept, "DATABASE_URL"), secret("db", "url"));
    assert!(warnings.iter().any(|warning| warning.contains("stays as it is")), "{warnings:?}");
    let why = rejected(&with_env(hidden, json!({ "sidepool.dev/config-map": "pools", "sidepool.dev/env-url": "DATABASE_URL" })));
    assert!(why.contains("cannot take it over"), "{why}");
    let (inline, _) = injected(&with_env(env, json!({ "sidepool.dev/config": "workers = 1" })));
    assert!(inline["spec"]["volumes"][0]["downwardAPI"].is_object());
    let why = rejected(&with_env(json!([]), json!({ "sidepool.dev/config-map": "pools", "sidepool.dev/pool-size": "5" })));
    assert!(why.contains("sidepool.dev/pool-size: say it in the configuration file"), "{why}");
}

#[test]
fn it_stands_after_the_mesh_and_before_all_others() {
    let url = json!([{ "name": "DATABASE_URL", "value": "postgres://app:pw@db/shop" }]);
    let spec = json!({
        "initContainers": [{ "name": "istio-init" }, { "name": "istio-proxy", "restartPolicy": "Always" }, { "name": "migrate", "env": url }],
        "containers": [{ "name": "app", "env": url }],
    });
    let (pod, _) = injected(&pod(spec, json!({})));
    let names: Vec<&str> =
        pod["spec"]["initContainers"].as_array().unwrap().iter().filter_map(|container| container["name"].as_str()).collect();
    assert_eq!(names, ["istio-init", "istio-proxy", "sidepool", "migrate"]);
    assert_eq!(variable(&pod, "initContainers", 3, "DATABASE_URL"), "postgres://app@127.0.0.1:6432/shop", "migrations go through it, too");
    assert_eq!(pod["spec"]["initContainers"][2]["restartPolicy"], "Always");
    assert_eq!(pod["spec"]["initContainers"][2]["lifecycle"], Value::Null, "a preStop hook would fire while the application still works");
}

#[test]
fn an_ordinary_container_on_old_clusters_and_only_when_it_is_asked_for() {
    let asking = with_env(json!([{ "name": "REDIS_URL", "value": "redis://cache" }]), json!({}));
    let old = Options { kubernetes_minor: Some(28), ..Options::default() };
    let Outcome::Rejected(why) = inject(&asking, &old) else { panic!("it would wait for ever") };
    assert!(why.contains("1.29") && why.contains("never"), "{why}");
    let Outcome::Injected { pod, .. } = inject(&asking, &Options { native: NativeSidecar::Never, ..old.clone() }) else {
        panic!("an ordinary one")
    };
    let own = &pod["spec"]["containers"][0];
    assert_eq!((&own["name"], &own["restartPolicy"]), (&json!("sidepool"), &Value::Null));
    assert_eq!(own["lifecycle"]["postStart"]["exec"]["command"][1], "wait");
    assert_eq!(variable(&pod, "containers", 0, "SIDEPOOL_QUITQUITQUIT"), "on");
    assert_eq!(variable(&pod, "containers", 1, "REDIS_URL"), "redis://127.0.0.1:6380");
    assert!(matches!(inject(&asking, &Options { native: NativeSidecar::Always, ..old }), Outcome::Injected { .. }));
}

#[test]
fn a_guaranteed_pod_stays_one() {
    let even = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1", "memory": "1Gi" } });
    let spec = |resources: &Value| json!({ "containers": [{ "name": "app", "resources": resources, "env": [{ "name": "REDIS_URL", "value": "redis://c" }] }] });
    let (guaranteed, _) = injected(&pod(spec(&even), json!({})));
    let all = json!({ "cpu": "50m", "memory": "128Mi" });
    assert_eq!(guaranteed["spec"]["initContainers"][0]["resources"], json!({ "requests": all, "limits": all }));
    assert_eq!(guaranteed["spec"]["containers"][0]["resources"], even);
    let (burstable, _) = injected(&pod(spec(&json!({})), json!({ "sidepool.dev/cpu-request": "100m" })));
    let wanted = json!({ "requests": { "cpu": "100m", "memory": "32Mi" }, "limits": { "memory": "128Mi" } });
    assert_eq!(burstable["spec"]["initContainers"][0]["resources"], wanted);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let url = || json!([{ "name": "DATABASE_URL", "value": "postgres://app:hunter2@db/shop" }]);
    let mysql = json!([{ "name": "DATABASE_URL", "value": "mysql://u:hunter2@h/d" }]);
    let two = json!({ "containers": [
        { "name": "app", "env": url() },
        { "name": "worker", "env": [{ "name": "DATABASE_URL", "value": "postgres://app:hunter2@other/shop" }] },
    ] });
    let taken = json!({ "containers": [{ "name": "app", "env": url(), "ports": [{ "containerPort": 9127 }] }] });
    let own = json!({ "containers": [{ "name": "sidepool" }, { "name": "app", "env": url() }] });
    let table = [
        (with_env(url(), json!({ "sidepool.dev/pool-sise": "5" })), "did you mean sidepool.dev/pool-size?"),
        (with_env(url(), json!({ "sidepool.dev/inject": "true" })), "is a label, not an annotation"),
        (with_env(url(), json!({ "sidepool.dev/mode": "transactional" })), "did you mean transaction?"),
        (with_env(url(), json!({ "sidepool.dev/pool-size": "many" })), "must be a whole number"),
        (with_env(url(), json!({ "sidepool.dev/port": "6380" })), "are both 6380"),
        (with_env(url(), json!({ "sidepool.dev/port": "80" })), "from 1024 to 65535"),
        (with_env(url(), json!({ "sidepool.dev/memory-limit": "lots" })), "such as 50m or 64Mi"),
        (with_env(url(), json!({ "sidepool.dev/drain-timeout": "30" })), "sidepool.dev/drain-timeout"),
        (with_env(url(), json!({ "sidepool.dev/containers": "ap" })), "did you mean app?"),
        (with_env(url(), json!({ "sidepool.dev/env-url": "DB_URL" })), "no container (app) has the variable DB_URL"),
        (with_env(url(), json!({ "sidepool.dev/env-port": "P" })), "goes with sidepool.dev/env-host"),
        (with_env(url(), json!({ "sidepool.dev/upstream": "postgres://a:hunter2@h/d" })), "annotations are no secret"),
        (with_env(url(), json!({ "sidepool.dev/upstream": "secret/db" })), "secret/NAME/KEY"),
        (with_env(mysql.clone(), json!({ "sidepool.dev/env-url": "DATABASE_URL" })), "is no URL of PostgreSQL or Redis"),
        (with_env(mysql, json!({})), "no container names a PostgreSQL or Redis server"),
        (with_env(json!([{ "name": "DATABASE_URL", "value": "postgres://h/d" }]), json!({})), "names no user"),
        (with_env(json!([{ "name": "DATABASE_URL", "value": "postgres:///d?host=/run/pg&user=u" }]), json!({})), "Unix socket"),
        (with_env(json!([{ "name": "DATABASE_URL", "value": "postgres://u@localhost:6432/d" }]), json!({})), "sidepool's own"),
        (with_env(json!([{ "name": "DATABASE_URL", "value": "postgres://u:$(NOPE)@h/d" }]), json!({})), "$(NOPE), which is not defined"),
        (
            with_env(json!([{ "name": "REDIS_URL", "value": "redis://h" }]), json!({ "sidepool.dev/pool-size": "2" })),
            "the sidecar would not start: SIDEPOOL_POOL_SIZE: pool_size (2) must be more than shared_connections",
        ),
        (pod(two, json!({})), "two servers or two users of one"),
        (pod(taken, json!({})), "port 9127 is container app's: choose another with sidepool.dev/admin-port"),
        (pod(own, json!({})), "a container sidepool of its own"),
        (pod(json!({ "hostNetwork": true, "containers": [{ "name": "app", "env": url() }] }), json!({})), "hostNetwork"),
        (pod(json!({ "os": { "name": "windows" }, "containers": [{ "name": "app", "env": url() }] }), json!({})), "Linux only"),
        (pod(json!({}), json!({})), "no containers"),
        (json!({}), "no containers"),
    ];
    for (pod, wanted) in table {
        let why = rejected(&pod);
        assert!(why.contains(wanted), "{wanted:?} is not in {why:?}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[test]
fn a_mistaken_label_is_refused_and_several_mistakes_are_all_said() {
    let mut wrong = with_env(json!([]), json!({ "sidepool.dev/mode": "x", "sidepool.dev/prot": "1" }));
    wrong["metadata"]["labels"]["sidepool.dev/pool-size"] = "5".into();
    let why = rejected(&wrong);
    for part in
        ["did you mean the annotation sidepool.dev/pool-size?", "sidepool.dev/mode: must be one of", "did you mean sidepool.dev/port?"]
    {
        assert!(why.contains(part), "{why}");
    }
    wrong["metadata"]["labels"]["sidepool.dev/inject"] = "yes".into();
    assert!(rejected(&wrong).contains("must be \"true\" or \"false\""));
}

#[test]
fn where_only_the_namespace_asks_pods_without_a_server_are_left_alone() {
    let mut plain = with_env(json!([]), json!({}));
    plain["metadata"] = json!({});
    assert!(skipped(&plain).contains("no container names"));
    let mut host = with_env(json!([{ "name": "REDIS_URL", "value": "redis://c" }]), json!({}));
    host["metadata"] = json!({});
    assert!(matches!(inject(&host, &Options::default()), Outcome::Injected { .. }));
    host["spec"]["hostNetwork"] = true.into();
    assert!(skipped(&host).contains("hostNetwork"));
    host["metadata"] = json!({ "labels": { "sidepool.dev/inject": "false" } });
    assert!(skipped(&host).contains("the label"));
    host["metadata"] = json!({ "annotations": { "kubernetes.io/config.mirror": "x" } });
    assert!(skipped(&host).contains("static pod"));
    let mut mistaken = with_env(json!([]), json!({ "sidepool.dev/pool-sise": "5" }));
    mistaken["metadata"]["labels"] = json!({});
    assert!(rejected(&mistaken).contains("pool-size"));
}

#[test]
fn a_drain_that_outlasts_the_pod_is_worth_a_warning() {
    let env = json!([{ "name": "REDIS_URL", "value": "redis://c" }]);
    let (pod, warnings) = injected(&with_env(env, json!({ "sidepool.dev/drain-timeout": "60s" })));
    assert_eq!(sidecar(&pod, "SIDEPOOL_DRAIN_TIMEOUT"), "60s");
    assert!(warnings.iter().any(|warning| warning.contains("terminationGracePeriodSeconds")), "{warnings:?}");
}
