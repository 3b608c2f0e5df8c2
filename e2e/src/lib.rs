//! What the stories share: the cluster as a person types at it, origins that are real servers, and waiting.
//!
//! A story is a test in `tests/stories/`, run inside the network namespace of the cluster by `e2e/stories`. It speaks to
//! Kubernetes only through `kubectl` and `helm`, as a user does, and must not know how Penstock works inside.

pub mod cluster;
pub mod counting_proxy;
pub mod dataset;
pub mod load;
pub mod manifests;
pub mod metrics;
pub mod node;
pub mod origin;
pub mod read_suite;
pub mod stop;
pub mod wait;
