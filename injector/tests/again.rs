//! Injecting again: after nothing, after other webhooks, after another version, and for random pods. Twice is once, and what was done can always
//! be undone, as the second run starts from what the first has kept.

use proptest::prelude::*;
use serde_json::{Value, json};
use sidepool_injector::inject::{Outcome, inject};
use sidepool_injector::options::Options;
use sidepool_injector::patch::patch;

fn base() -> Value {
    json!({
        "metadata": { "labels": { "sidepool.dev/inject": "true" } },
        "spec": { "containers": [{ "name": "app", "env": [{ "name": "DATABASE_URL", "value": "postgres://app:pw@db/shop" }] }] },
    })
}

fn once(pod: &Value, options: &Options) -> Value {
    match inject(pod, options) {
        Outcome::Injected { pod, .. } => pod,
        other => panic!("{other:?}"),
    }
}

fn names(pod: &Value) -> Vec<&str> {
    pod["spec"]["initContainers"].as_array().unwrap().iter().filter_map(|container| container["name"].as_str()).collect()
}

#[test]
fn twice_is_once() {
    let pod = once(&base(), &Options::default());
    assert_eq!(inject(&pod, &Options::default()), Outcome::Already);
}

#[test]
fn what_other_webhooks_did_to_the_sidecar_stays() {
    let mut pod = once(&base(), &Options::default());
    let own = &mut pod["spec"]["initContainers"][0];
    own["volumeMounts"] = json!([{ "name": "token", "mountPath": "/token" }]);
    own["livenessProbe"]["httpGet"]["path"] = "/app-health/sidepool/livez".into();
    pod["spec"]["volumes"] = json!([{ "name": "token", "emptyDir": {} }]);
    assert_eq!(inject(&pod, &Options::default()), Outcome::Already);
}

#[test]
fn a_mesh_that_comes_later_still_starts_before_it() {
    let mut pod = once(&base(), &Options::default());
    let list = pod["spec"]["initContainers"].as_array_mut().unwrap();
    list.push(json!({ "name": "migrate", "image": "m" }));
    list.insert(0, json!({ "name": "linkerd-proxy", "restartPolicy": "Always" }));
    assert_eq!(inject(&pod, &Options::default()), Outcome::Already);
    pod["spec"]["initContainers"].as_array_mut().unwrap().swap(0, 1);
    assert_eq!(names(&pod), ["sidepool", "linkerd-proxy", "migrate"]);
    let again = once(&pod, &Options::default());
    assert_eq!(names(&again), ["linkerd-proxy", "sidepool", "migrate"]);
    assert_eq!(inject(&again, &Options::default()), Outcome::Already);
}

#[test]
fn a_container_that_comes_later_goes_through_it_as_well() {
    let mut pod = once(&base(), &Options::default());
    let late = json!({ "name": "late", "env": [{ "name": "DATABASE_URL", "value": "postgres://app:pw@db/reports" }] });
    pod["spec"]["containers"].as_array_mut().unwrap().push(late);
    let again = once(&pod, &Options::default());
    assert_eq!(again["spec"]["containers"][1]["env"][0]["value"], "postgres://app@127.0.0.1:6432/reports");
    assert_eq!(again["spec"]["containers"][0]["env"][0]["value"], "postgres://app@127.0.0.1:6432/shop");
    assert_eq!(names(&again), ["sidepool"]);
    assert_eq!(inject(&again, &Options::default()), Outcome::Already);
}

#[test]
fn another_version_replaces_what_the_first_put_in() {
    let newer = Options { image: "sidepool:next".to_owned(), ..Options::default() };
    let pod = once(&once(&base(), &Options::default()), &newer);
    assert_eq!(pod, once(&base(), &newer));
}

#[test]
fn a_status_that_was_copied_or_spoilt_does_no_harm() {
    let mut copied = base();
    copied["metadata"]["annotations"] = json!({ "sidepool.dev/status": "{\"hash\":\"x\"}" });
    assert_eq!(names(&once(&copied, &Options::default())), ["sidepool"]);
    let mut spoilt = once(&base(), &Options::default());
    spoilt["metadata"]["annotations"]["sidepool.dev/status"] = "{".into();
    assert!(matches!(inject(&spoilt, &Options::default()), Outcome::Rejected(why) if why.contains("remove it")));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "value": "postgres://app:pw@db:5433/shop?sslmode=require&a=b" })),
        Just(json!({ "value": "postgres://app:$(A)@db/$(A)" })),
        Just(json!({ "value": "redis://:pw@cache/2" })),
        Just(json!({ "value": "mysql://x" })),
        Just(json!({ "value": "" })),
        Just(json!({ "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } })),
        Just(json!({ "valueFrom": { "configMapKeyRef": { "name": "m", "key": "k", "optional": true } } })),
    ]
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let variable = (prop::sample::select(&["A", "DATABASE_URL", "REDIS_URL", "PGHOST", "PGPORT", "PGSSLMODE"][..]), value());
    let env = prop::collection::vec(variable, 0..5);
    let import = prop_oneof![
        Just(json!({ "secretRef": { "name": "s" } })),
        Just(json!({ "configMapRef": { "name": "m" }, "prefix": "DATABASE_" })),
    ];
    (env, prop::collection::vec(import, 0..3), any::<bool>()).prop_map(move |(env, imports, stays)| {
        let mut container = json!({ "name": name });
        let entries = env.into_iter().map(|(name, mut value)| {
            value["name"] = name.into();
            value
        });
        container["env"] = entries.collect();
        if !imports.is_empty() {
            container["envFrom"] = imports.into();
        }
        if stays && name.starts_with("istio") {
            container["restartPolicy"] = "Always".into();
        }
        container
    })
}

fn annotation() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(
        &[
            ("sidepool.dev/env-url", "DATABASE_URL"),
            ("sidepool.dev/env-host", "PGHOST"),
            ("sidepool.dev/upstream", "secret/up/url"),
            ("sidepool.dev/config-map", "pools"),
            ("sidepool.dev/native-sidecar", "false"),
            ("sidepool.dev/pool-size", "7"),
            ("other/annotation", "x~1/y"),
        ][..],
    )
}

prop_compose! {
    fn pods()(
        app in container("app"),
        worker in prop::option::of(container("worker")),
        init in prop::option::of(container("migrate")),
        mesh in prop::option::of(container("istio-proxy")),
        annotations in prop::collection::vec(annotation(), 0..3),
        labelled in any::<bool>(),
        volumes in prop::option::of(Just(json!([{ "name": "data", "emptyDir": {} }]))),
    ) -> Value {
        let mut pod = json!({ "spec": { "containers": [app] } });
        pod["spec"]["containers"].as_array_mut().unwrap().extend(worker);
        let init: Vec<Value> = mesh.into_iter().chain(init).collect();
        if !init.is_empty() {
            pod["spec"]["initContainers"] = init.into();
        }
        if let Some(volumes) = volumes {
            pod["spec"]["volumes"] = volumes;
        }
        if labelled {
            pod["metadata"]["labels"]["sidepool.dev/inject"] = "true".into();
        }
        for (name, value) in annotations {
            pod["metadata"]["annotations"][name] = value.into();
        }
        pod
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn for_any_pod_twice_is_once_and_the_patch_says_the_same(pod in pods()) {
        if let Outcome::Injected { pod: after, .. } = inject(&pod, &Options::default()) {
            prop_assert_eq!(inject(&after, &Options::default()), Outcome::Already);
            let operations: json_patch::Patch = serde_json::from_value(patch(&pod, &after).into()).unwrap();
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, &operations).unwrap();
            prop_assert_eq!(&patched, &after);
            // Taken out and put in anew by another version, it is what that would have made of the first pod.
            let newer = Options { image: "sidepool:next".to_owned(), ..Options::default() };
            prop_assert_eq!(inject(&after, &newer), match inject(&pod, &newer) {
                Outcome::Injected { pod, warnings } => Outcome::Injected { pod, warnings },
                other => other,
            });
        }
    }

    #[test]
    fn nothing_makes_it_panic(pod in "[\\PC]{0,60}", key in "[a-zA-Z./]{0,20}") {
        let _ = inject(&json!({ "metadata": { "annotations": { key.clone(): pod.clone() }, "labels": { key: 1 } }, "spec": { "containers": [{ "env": [{ "name": "DATABASE_URL", "value": pod }] }] } }), &Options::default());
    }
}
