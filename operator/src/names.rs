//! Names, labels and addresses, all in one place.

use std::collections::BTreeMap;

use penstock_crds::{BULK_PORT, CONTROL_PORT, READER_PORT};

/// Field manager of everything but commits.
pub const FIELD_MANAGER: &str = "penstock-operator";
/// Field manager of `status.revision`.
pub const COMMIT_MANAGER: &str = "penstock-commit";
/// Finalizer of both kinds.
pub const FINALIZER: &str = "penstock.io/cleanup";
/// Annotation of cache nodes' pods: a digest of what their service account is for clouds.
pub const IDENTITY_ANNOTATION: &str = "penstock.io/workload-identity";
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

/// Label of what belongs to one reader of a claim.
pub const READER_LABEL: &str = "penstock.io/reader";

/// Name of a reader, and of all that belongs to it: `what` tells it from all others. A Service has it, so it has at most 63
/// characters and begins with a letter.
pub fn reader(dataset: &str, what: &str) -> String {
    let dataset: String = dataset.chars().take(READER_DATASET_CHARACTERS).collect();
    format!("reader-{dataset}-{}", &digest(what)[..12])
}

/// Characters of the Dataset's name in that of a reader.
const READER_DATASET_CHARACTERS: usize = 40;

/// Labels of everything that belongs to a reader of a claim.
pub fn reader_labels(dataset: &str, reader: &str) -> BTreeMap<String, String> {
    labels([
        ("app.kubernetes.io/name", "penstock"),
        ("app.kubernetes.io/component", "reader"),
        ("app.kubernetes.io/managed-by", "penstock-operator"),
        ("penstock.io/dataset", dataset),
        (READER_LABEL, reader),
    ])
}

/// Label selector of the readers of a Dataset.
pub fn readers_selector(dataset: &str) -> String {
    format!("app.kubernetes.io/component=reader,penstock.io/dataset={dataset}")
}

/// URL of a reader.
pub fn reader_url(reader: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("http://{reader}.{namespace}.svc.{cluster_domain}:{READER_PORT}")
}

/// Tells texts apart that nobody chooses to be alike.
pub fn digest(text: &str) -> String {
    let (mut a, mut b) = (0xcbf2_9ce4_8422_2325_u64, 0x6c62_272e_07bb_0142_u64);
    for byte in text.bytes() {
        // FNV-1a, twice with different starts.
        a = (a ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        b = (b ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(1);
    }
    format!("{a:016x}{b:016x}")
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
