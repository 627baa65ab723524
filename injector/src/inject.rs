//! Puts the sidecar into one pod, or says why not. Doing it again changes nothing: what was done before is taken out first, and is left as it
//! is (with what others may have done to it) if the same would come in.

use serde_json::Value;

use crate::options::{NATIVE_SINCE, NativeSidecar, Options};
use crate::placing::{is_guaranteed, is_machinery, place};
use crate::pods::{LISTS, OWN_NAME, at, list, list_mut, name, stays, text};
use crate::rewriting::{self, NoPlan, Plan};
use crate::wish::{self, Configured, Label, Protocol, Wish};
use crate::{container, status};
use sidepool_config::environment::from_environment;
use sidepool_config::problem::nearest;

/// How long a pod may take to end where it does not say, in seconds.
const USUAL_GRACE: u64 = 30;

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The pod with its sidecar, and what is worth saying about it.
    Injected {
        /// The changed pod.
        pod: Value,
        /// Soft findings.
        warnings: Vec<String>,
    },
    /// It has been done before, and nothing has changed since.
    Already,
    /// The pod is none that gets a sidecar, for this reason.
    Skipped(String),
    /// The pod asks for something that cannot be: why, and what to do.
    Rejected(String),
}

/// Puts the sidecar into `pod`. A pod that asks for it itself gets it or is rejected; of one that does not (its namespace does), only mistakes are
/// rejected.
#[must_use]
pub fn inject(pod: &Value, options: &Options) -> Outcome {
    match try_inject(pod, options) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

fn rejected(message: impl Into<String>) -> Outcome {
    Outcome::Rejected(message.into())
}

fn try_inject(pod: &Value, options: &Options) -> Result<Outcome, Outcome> {
    if list(pod, &["spec", "containers"]).is_empty() {
        return Err(rejected("the pod has no containers"));
    }
    let label = wish::label(pod).map_err(Outcome::Rejected)?;
    if label == Label::No {
        return Ok(Outcome::Skipped(format!("the label {} says so", wish::LABEL)));
    }
    if wish::is_static(pod) {
        return Ok(Outcome::Skipped("it is a static pod of its node".to_owned()));
    }
    let undone = status::undo(pod).map_err(Outcome::Rejected)?;
    let (before, old_hash) = match undone {
        Some(undone) => (undone.pod, Some(undone.hash)),
        None => (pod.clone(), None),
    };
    let wish = wish::read(&before, label == Label::Yes, options).map_err(Outcome::Rejected)?;
    if let Some(obstacle) = obstacle(&before) {
        return Err(unfit(&wish, obstacle));
    }
    let native = is_native(&wish)?;
    let application = application(&before, &wish, native)?;
    let mut plan = rewriting::plan(&application, &wish).map_err(|error| match error {
        NoPlan::Nothing(why) => unfit(&wish, why),
        NoPlan::Wrong(why) => Outcome::Rejected(why),
    })?;
    ports_are_free(&before, &wish, &plan)?;
    would_start(&wish, &plan)?;
    look_around(&before, &wish, &mut plan);

    let spec = before.get("spec").unwrap_or(&Value::Null);
    let mut own = container::container(&wish, &plan, native, is_guaranteed(spec));
    let volume = container::volume(&wish);
    let mut after = before.clone();
    let noted = status::change(&mut after, &mut own, &plan);
    let hash = status::hash(&own, volume.as_ref(), &plan, &noted);
    if old_hash.as_ref() == Some(&hash) {
        let moved = moved(pod, native);
        return Ok(if moved == *pod { Outcome::Already } else { Outcome::Injected { pod: moved, warnings: Vec::new() } });
    }
    insert(&mut after, own, native);
    if let (Some(volume), Some(spec)) = (volume, after.get_mut("spec")) {
        list_mut(spec, "volumes").into_iter().for_each(|volumes| volumes.push(volume.clone()));
    }
    status::note(&mut after, &hash, noted);
    let mut warnings: Vec<String> = plan.edits.iter().map(status::said).collect();
    warnings.append(&mut plan.warnings);
    Ok(Outcome::Injected { pod: after, warnings })
}

/// A pod that wants the sidecar must not run without it; one that only lives where it is usual may.
fn unfit(wish: &Wish, why: String) -> Outcome {
    if wish.own { Outcome::Rejected(why) } else { Outcome::Skipped(why) }
}

/// Why no sidecar can be in this pod.
fn obstacle(pod: &Value) -> Option<String> {
    let spec = pod.get("spec")?;
    if at(spec, &["hostNetwork"]) == Some(&Value::Bool(true)) {
        return Some("with hostNetwork the pod shares the loopback of its node with others: it cannot have a sidecar".to_owned());
    }
    let system = text(spec, &["os", "name"]).or_else(|| text(spec, &["nodeSelector", "kubernetes.io/os"]));
    if system.is_some_and(|system| system != "linux") {
        return Some("sidepool runs on Linux only".to_owned());
    }
    let taken = LISTS.iter().any(|key| list(spec, &[key]).iter().any(|container| name(container) == OWN_NAME));
    taken.then(|| format!("it has a container {OWN_NAME} of its own: rename that, or remove the label {}", wish::LABEL))
}

fn is_native(wish: &Wish) -> Result<bool, Outcome> {
    let options = &wish.options;
    let too_old = options.kubernetes_minor.is_some_and(|minor| minor < NATIVE_SINCE);
    match (wish.native, options.native) {
        (Some(false), _) | (None, NativeSidecar::Never) => Ok(false),
        (None, NativeSidecar::Always) => Ok(true),
        (Some(true), NativeSidecar::Auto | NativeSidecar::Never | NativeSidecar::Always) | (None, NativeSidecar::Auto) if !too_old => {
            Ok(true)
        }
        (Some(true) | None, _) => Err(rejected(format!(
            "Kubernetes before 1.{NATIVE_SINCE} has no native sidecars and would wait for this one for ever: use an ordinary container \
             (sidepool.dev/native-sidecar: \"false\", or --native-sidecar never for all), and have Jobs POST to /quitquitquit when they are done"
        ))),
    }
}

/// The containers of the application that are looked at: those named, else all that can use the sidecar.
fn application<'p>(pod: &'p Value, wish: &Wish, native: bool) -> Result<Vec<&'p Value>, Outcome> {
    let init = list(pod, &["spec", "initContainers"]);
    // Beside an ordinary container init containers run too early.
    let behind = if native { &init[place(init)..] } else { &[] };
    let all = || behind.iter().chain(list(pod, &["spec", "containers"])).filter(|container| !is_machinery(container));
    let Some(wanted) = &wish.containers else { return Ok(all().collect()) };
    let known: Vec<&str> = all().map(name).collect();
    if let Some(missing) = wanted.iter().find(|wanted| !known.contains(&wanted.as_str())) {
        let hint = nearest(missing, known.iter().copied())
            .map_or_else(|| format!("there are {}", known.join(", ")), |near| format!("did you mean {near}?"));
        let too_early = init.iter().any(|container| name(container) == missing);
        let hint = if too_early { "it runs before the sidecar".to_owned() } else { hint };
        return Err(rejected(format!("sidepool.dev/containers: there is no container {missing} that could use the sidecar: {hint}")));
    }
    Ok(all().filter(|container| wanted.iter().any(|wanted| wanted == name(container))).collect())
}

fn ports_are_free(pod: &Value, wish: &Wish, plan: &Plan) -> Result<(), Outcome> {
    let options = &wish.options;
    let mut ports = vec![("admin-port", options.admin_port)];
    for protocol in &plan.protocols {
        ports.push(match protocol {
            Protocol::Postgres => ("port", options.port),
            Protocol::Redis => ("redis-port", options.redis_port),
        });
    }
    let init = list(pod, &["spec", "initContainers"]).iter().filter(|container| stays(container));
    for container in init.chain(list(pod, &["spec", "containers"])) {
        for taken in list(container, &["ports"]).iter().filter_map(|port| port.get("containerPort")?.as_u64()) {
            if let Some((annotation, port)) = ports.iter().find(|(_, port)| u64::from(*port) == taken) {
                let whose = name(container);
                return Err(rejected(format!("port {port} is container {whose}'s: choose another with sidepool.dev/{annotation}")));
            }
        }
    }
    Ok(())
}

/// Asks sidepool's own checks whether it will take what the annotations say, together with servers of the protocols that are wanted.
fn would_start(wish: &Wish, plan: &Plan) -> Result<(), Outcome> {
    if wish.configured != Configured::Environment {
        return Ok(());
    }
    let has = |protocol| plan.protocols.contains(&protocol);
    let environment = |name: &str| match name {
        "DATABASE_URL" if has(Protocol::Postgres) => Some("postgres://user@server/database".to_owned()),
        "REDIS_URL" if has(Protocol::Redis) => Some("redis://server".to_owned()),
        other => wish.plain.get(other).cloned(),
    };
    let Err(refused) = from_environment(&environment) else { return Ok(()) };
    let said = refused.problems.iter().filter(|problem| problem.is_error()).map(|problem| format!("{}: {}", problem.key, problem.message));
    Err(rejected(format!("the sidecar would not start: {}", said.collect::<Vec<_>>().join("; "))))
}

/// Soft findings about the rest of the pod.
fn look_around(pod: &Value, wish: &Wish, plan: &mut Plan) {
    let grace = at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_u64).unwrap_or(USUAL_GRACE);
    if let Some(drain) = wish.drain_seconds.filter(|drain| *drain >= grace) {
        plan.warnings.push(format!(
            "sidepool.dev/drain-timeout is {drain} s, but the pod is killed after {grace} s (terminationGracePeriodSeconds)"
        ));
    }
}

fn list_of(native: bool) -> &'static str {
    if native { "initContainers" } else { "containers" }
}

fn insert(pod: &mut Value, own: Value, native: bool) {
    let Some(containers) = pod.get_mut("spec").and_then(|spec| list_mut(spec, list_of(native))) else { return };
    let at = if native { place(containers) } else { 0 };
    containers.insert(at, own);
}

/// The pod with the sidecar where it belongs: another webhook may have put something in front of it, or behind it, since.
fn moved(pod: &Value, native: bool) -> Value {
    let mut pod = pod.clone();
    let containers = pod.get_mut("spec").and_then(|spec| list_mut(spec, list_of(native)));
    let own = containers.and_then(|containers| {
        let index = containers.iter().position(|container| name(container) == OWN_NAME)?;
        Some(containers.remove(index))
    });
    if let Some(own) = own {
        insert(&mut pod, own, native);
    }
    pod
}
