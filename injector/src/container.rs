//! The sidecar as a container: what it is told, what it may, how it is probed.

use serde_json::{Value, json};

use crate::options::Options;
use crate::pods::OWN_NAME;
use crate::rewriting::Plan;
use crate::wish::{Configured, Protocol, Wish};

/// The volume with the configuration file.
pub(crate) const VOLUME: &str = "sidepool-config";

/// Where the image has the program.
const BINARY: &str = "/sidepool";

const FOLDER: &str = "/etc/sidepool";

const FILE: &str = "sidepool.toml";

/// How long the start may take, in seconds: it waits for nobody, but images are pulled by slow nodes.
const START_SECONDS: u32 = 120;

/// Longer than a worker that does not answer is believed to be busy.
const ALIVE_SECONDS: u32 = 7;

/// Our container.
pub(crate) fn container(wish: &Wish, plan: &Plan, native: bool, guaranteed: bool) -> Value {
    let options = &wish.options;
    let mut container = json!({ "name": OWN_NAME, "image": options.image, "imagePullPolicy": options.pull_policy });
    if native {
        container["restartPolicy"] = "Always".into();
    }
    let arguments = arguments(wish);
    if !arguments.is_empty() {
        container["args"] = arguments.into();
    }
    let environment = environment(wish, plan, native);
    if !environment.is_empty() {
        container["env"] = environment.into();
    }
    container["ports"] = ports(options, &plan.protocols);
    container["startupProbe"] = probe("/startupz", 1, 5, START_SECONDS);
    container["livenessProbe"] = probe("/livez", 10, ALIVE_SECONDS, 6);
    container["readinessProbe"] = probe("/readyz", 5, 5, 2);
    if !native {
        // It holds the containers behind it back until they can be served.
        container["lifecycle"] = json!({ "postStart": { "exec": { "command": [BINARY, "wait", "--url", format!("http://127.0.0.1:{}", options.admin_port)] } } });
    }
    container["resources"] = resources(options, guaranteed);
    container["securityContext"] = security(options);
    container["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    if wish.configured != Configured::Environment {
        // The whole directory: a single mounted file would never change.
        container["volumeMounts"] = json!([{ "name": VOLUME, "mountPath": FOLDER, "readOnly": true }]);
    }
    container
}

/// The volume that it needs, if it needs one.
pub(crate) fn volume(wish: &Wish) -> Option<Value> {
    match &wish.configured {
        Configured::Environment => None,
        Configured::ConfigMap(name) => Some(json!({ "name": VOLUME, "configMap": { "name": name } })),
        Configured::Annotation => Some(json!({ "name": VOLUME, "downwardAPI": { "items": [
            { "path": FILE, "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.annotations['sidepool.dev/config']" } },
        ] } })),
    }
}

fn admin_listen(options: &Options) -> String {
    // The kubelet comes to the address of the pod, which may be one of IPv6 alone; `[::]` is both, and IPv4 where the kernel has nothing else.
    format!("[::]:{}", options.admin_port)
}

fn arguments(wish: &Wish) -> Vec<String> {
    if wish.configured == Configured::Environment {
        return Vec::new();
    }
    let mut arguments = vec![format!("{FOLDER}/{FILE}"), "--admin-listen".to_owned(), admin_listen(&wish.options)];
    if let Some(level) = wish.plain.get("SIDEPOOL_LOG_LEVEL") {
        arguments.extend(["--log-level".to_owned(), level.clone()]);
    }
    arguments.extend(["--log-format".to_owned(), wish.options.log_format.clone()]);
    arguments
}

fn environment(wish: &Wish, plan: &Plan, native: bool) -> Vec<Value> {
    let options = &wish.options;
    let mut environment = plan.environment.clone();
    if wish.configured != Configured::Environment {
        return environment;
    }
    let mut set = |name: &str, value: String| environment.push(json!({ "name": name, "value": value }));
    for protocol in &plan.protocols {
        match protocol {
            Protocol::Postgres => set("SIDEPOOL_POSTGRES_LISTEN", format!("127.0.0.1:{}", options.port)),
            Protocol::Redis => set("SIDEPOOL_REDIS_LISTEN", format!("127.0.0.1:{}", options.redis_port)),
        }
    }
    set("SIDEPOOL_ADMIN_LISTEN", admin_listen(options));
    set("SIDEPOOL_LOG_FORMAT", options.log_format.clone());
    if !native {
        // Jobs end when all ordinary containers have, and this is how they end ours.
        set("SIDEPOOL_QUITQUITQUIT", "on".to_owned());
    }
    for (name, value) in &wish.plain {
        set(name, value.clone());
    }
    environment
}

fn ports(options: &Options, protocols: &[Protocol]) -> Value {
    let mut ports = vec![json!({ "name": "sidepool-admin", "containerPort": options.admin_port, "protocol": "TCP" })];
    for protocol in protocols {
        let (name, port) = match protocol {
            Protocol::Postgres => ("sidepool-pg", options.port),
            Protocol::Redis => ("sidepool-redis", options.redis_port),
        };
        ports.push(json!({ "name": name, "containerPort": port, "protocol": "TCP" }));
    }
    ports.into()
}

fn probe(path: &str, period: u32, timeout: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "sidepool-admin", "scheme": "HTTP" },
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    })
}

/// Requests always, as quotas want them. A limit of processor time only where all containers have one: it would slow everybody down otherwise.
fn resources(options: &Options, guaranteed: bool) -> Value {
    let wanted = &options.resources;
    let limit = if amount(&wanted.memory_request) > amount(&wanted.memory_limit) { &wanted.memory_request } else { &wanted.memory_limit };
    if guaranteed {
        let all = json!({ "cpu": wanted.cpu_request, "memory": limit });
        return json!({ "requests": all, "limits": all });
    }
    json!({ "requests": { "cpu": wanted.cpu_request, "memory": wanted.memory_request }, "limits": { "memory": limit } })
}

fn amount(quantity: &str) -> f64 {
    let digits = quantity.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let scale = match &quantity[digits.len()..] {
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => 1.0,
    };
    digits.parse::<f64>().unwrap_or_default() * scale
}

fn security(options: &Options) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if let Some(id) = options.run_as {
        context["runAsUser"] = id.into();
        context["runAsGroup"] = id.into();
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Resources;

    #[test]
    fn a_limit_is_never_below_what_is_asked_for() {
        let resources_of = |request: &str, limit: &str, guaranteed| {
            let wanted = Resources { cpu_request: "50m".to_owned(), memory_request: request.to_owned(), memory_limit: limit.to_owned() };
            resources(&Options { resources: wanted, ..Options::default() }, guaranteed)
        };
        assert_eq!(resources_of("32Mi", "128Mi", false)["limits"], json!({ "memory": "128Mi" }));
        assert_eq!(resources_of("1Gi", "128Mi", false)["limits"], json!({ "memory": "1Gi" }));
        assert_eq!(resources_of("200M", "128Mi", true)["requests"], json!({ "cpu": "50m", "memory": "200M" }));
    }
}
