//! Names, labels and addresses, all in one place.

use std::collections::BTreeMap;

use penstock_crds::{BULK_PORT, CONTROL_PORT};

/// Field manager of everything but commits.
pub const FIELD_MANAGER: &str = "penstock-operator";
/// Field manager of `status.revision`.
pub const COMMIT_MANAGER: &str = "penstock-commit";
/// Finalizer of both kinds.
pub const FINALIZER: &str = "penstock.io/cleanup";
/// User and group of cache nodes.
pub const CACHE_USER: i64 = 65532;

/// Name of the PersistentVolume of a Dataset.
pub fn volume(dataset_uid: &str) -> String {
    format!("penstock-{dataset_uid}")
}

/// Labels of everything that belongs to a CacheRuntime.
pub fn runtime_labels(runtime: &str) -> BTreeMap<String, String> {
    labels([
        ("app.kubernetes.io/name", "penstock"),
        ("app.kubernetes.io/component", "cache-node"),
        ("app.kubernetes.io/managed-by", "penstock-operator"),
        ("penstock.io/cache-runtime", runtime),
    ])
}

/// Label selector of the cache nodes of a CacheRuntime.
pub fn runtime_selector(runtime: &str) -> String {
    format!("app.kubernetes.io/component=cache-node,penstock.io/cache-runtime={runtime}")
}

/// Labels of a volume and its claim.
pub fn volume_labels(namespace: &str, dataset: &str) -> BTreeMap<String, String> {
    labels([
        ("app.kubernetes.io/name", "penstock"),
        ("app.kubernetes.io/managed-by", "penstock-operator"),
        ("penstock.io/dataset", dataset),
        ("penstock.io/dataset-namespace", namespace),
    ])
}

/// Host name of a cache node, the same for its whole life.
pub fn node_host(runtime: &str, namespace: &str, ordinal: i32, cluster_domain: &str) -> String {
    format!("{runtime}-{ordinal}.{runtime}.{namespace}.svc.{cluster_domain}")
}

/// `host:port` of the bulk protocol of a cache node.
pub fn bulk_address(host: &str) -> String {
    format!("{host}:{BULK_PORT}")
}

/// URL of the control protocol of a cache node.
pub fn control_url(host: &str) -> String {
    format!("http://{host}:{CONTROL_PORT}")
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}
