//! Where the sidecar goes among the containers of a pod, and what class of service the pod has.

use serde_json::Value;

use crate::pods::{at, list, name};

/// Containers that make the network or hold the credentials that our upstream connections need: the sidecar starts after them, and as the end
/// goes the other way round, it ends before them.
const AHEAD: &[&str] = &[
    "istio-init",
    "istio-validation",
    "istio-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "linkerd-proxy",
    "consul-connect-inject-init",
    "consul-dataplane",
    "kuma-init",
    "kuma-validation",
    "kuma-sidecar",
    "cloud-sql-proxy",
    "cloudsql-proxy",
    "csql-proxy",
    "alloydb-auth-proxy",
    "vault-agent-init",
];

/// How many of these init containers come before the sidecar: those at the head that it needs itself.
pub(crate) fn place(init_containers: &[Value]) -> usize {
    init_containers.iter().take_while(|container| AHEAD.contains(&name(container))).count()
}

/// Whether it is part of the machinery and not of the application.
pub(crate) fn is_machinery(container: &Value) -> bool {
    AHEAD.contains(&name(container))
}

/// Whether the pod is of the class Guaranteed: everybody has limits, and asks for exactly those.
pub(crate) fn is_guaranteed(spec: &Value) -> bool {
    let whole = at(spec, &["resources", "limits"]);
    if whole.is_some() {
        return resources_are_even(spec);
    }
    let mut containers = list(spec, &["containers"]).iter().chain(list(spec, &["initContainers"]));
    containers.all(resources_are_even)
}

fn resources_are_even(thing: &Value) -> bool {
    ["cpu", "memory"].into_iter().all(|resource| {
        let limit = at(thing, &["resources", "limits", resource]);
        let request = at(thing, &["resources", "requests", resource]);
        // A limit without a request is one for both.
        limit.is_some() && request.is_none_or(|request| Some(request) == limit)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn after_the_mesh_at_the_head_and_before_all_others() {
        let named = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
        assert_eq!(place(&[]), 0);
        assert_eq!(place(&named(&["migrate", "istio-proxy"])), 0);
        assert_eq!(place(&named(&["istio-init", "istio-proxy", "migrate"])), 2);
    }

    #[test]
    fn guaranteed_is_who_asks_for_exactly_the_limits() {
        let all = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
        let even = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1", "memory": "1Gi" } });
        let less = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } });
        let pod =
            |first: &Value, second: &Value| json!({ "containers": [{ "resources": first }], "initContainers": [{ "resources": second }] });
        assert!(is_guaranteed(&pod(&all, &even)));
        assert!(!is_guaranteed(&pod(&all, &less)));
        assert!(!is_guaranteed(&pod(&all, &json!({}))));
        assert!(is_guaranteed(&json!({ "resources": even, "containers": [{}] })));
    }
}
