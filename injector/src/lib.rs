//! Puts the sidepool sidecar into pods: pure functions from a pod to a changed pod, a patch, or a refusal that helps.
//!
//! No IO, no clock, no API access: everything comes from the pod and from [`options::Options`]. Who calls this (the webhook, `sidepool inject`)
//! is in the proxy; what the sidecar does with the environment it is given is `sidepool_config::environment`.
//!
//! ```text
//! review (AdmissionReview) ─┐
//! manifests (YAML files) ───┴─► inject ─┬─ wish       what labels and annotations ask for
//!                                       ├─ rewriting  where the upstream is said, what the application gets instead (source, address)
//!                                       ├─ container  the sidecar itself
//!                                       ├─ placing    where it goes, and which class of service the pod has
//!                                       └─ status     what was done, so that it can be undone and is not done twice
//! patch: the difference of two documents as JSON Patch
//! ```

pub mod address;
mod container;
pub mod inject;
pub mod manifests;
pub mod options;
pub mod patch;
mod placing;
mod pods;
pub mod review;
mod rewriting;
mod source;
mod status;
pub mod wish;
