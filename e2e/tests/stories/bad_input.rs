//! What goes wrong on the first day, what a person is told, and that it heals by itself.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, condition, exec, get, kubectl, reader_pod, wait_condition, wait_pod_ready,
};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::manifests::{dataset as dataset_yaml, runtime, secret, secret_with};
use penstock_e2e::origin::{S3Server, free_address};
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};
use crate::secrets;

const MINUTE: Duration = Duration::from_secs(60);

/// A namespace with a pool and a bucket `b` of a few files, and no Dataset yet.
fn scene(name: &str) -> Result<(Namespace, S3Server)> {
    let namespace = Namespace::create(name)?;
    let origin = S3Server::rclone()?;
    dataset::write(&origin.buckets().join("b"), 40, 1 << 20)?;
    apply(&secret(&namespace.name))?;
    apply(&runtime(&namespace.name, "pool", 1, "1Gi"))?;
    Ok((namespace, origin))
}

/// Waits until the Dataset `d` says that its source cannot be reached, and checks that the sentence names `words`.
fn told(ns: &str, words: &[&str]) -> Result<()> {
    let (reason, message) = wait_condition("dataset", ns, "d", ("SourceReachable", "False"), MINUTE)?;
    println!("  told: {reason}: {message}");
    for word in words {
        ensure!(message.contains(word), "the message does not name {word}: {message}");
    }
    let ready = get("dataset", ns, "d")?
        .and_then(|d| condition(&d, "Ready"))
        .context("a Ready condition")?;
    ensure!(
        ready.0 == "False",
        "Ready is {ready:?} while the source cannot be reached"
    );
    Ok(())
}

/// The wrong secret key is told without being said; the right one heals it.
pub fn wrong_credentials() -> Result<()> {
    let (namespace, origin) = scene("wrong-credentials")?;
    let ns = &namespace.name;
    const WRONG: &str = "5e1f0d2c9b8a7766554433221100ffeeddccbbaa99887766554433221100abcd";
    apply(&secret_with(ns, WRONG))?;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", ""))?;
    told(ns, &["origin"])?;
    secrets::are_said_nowhere(ns, &[], 1)?;
    apply(&secret(ns))?;
    wait_ready(ns, "d")?;
    secrets::are_said_nowhere(ns, &[WRONG], 2)?;
    namespace.finish(MINUTE)
}

/// A bucket that does not exist is named; it heals when there is one.
pub fn missing_bucket() -> Result<()> {
    let (namespace, origin) = scene("missing-bucket")?;
    let ns = &namespace.name;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "nowhere", ""))?;
    told(ns, &["nowhere"])?;
    // All of its objects are there with it.
    std::fs::rename(origin.buckets().join("b"), origin.buckets().join("nowhere"))?;
    wait_ready(ns, "d")?;
    namespace.finish(MINUTE)
}

/// An endpoint where nobody listens is named; it heals when somebody does.
pub fn unreachable_endpoint() -> Result<()> {
    let (namespace, origin) = scene("unreachable")?;
    let ns = &namespace.name;
    let proxy = CountingProxy::start(free_address()?, origin.address)?;
    proxy.refuse(true);
    apply(&dataset_yaml(ns, "d", &proxy.address, origin.region, "b", ""))?;
    told(ns, &[&proxy.address.to_string()])?;
    proxy.refuse(false);
    wait_ready(ns, "d")?;
    namespace.finish(MINUTE)
}

/// A prefix without an object is named; it heals when there is one.
pub fn empty_prefix() -> Result<()> {
    let (namespace, origin) = scene("empty-prefix")?;
    let ns = &namespace.name;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", "not/here/"))?;
    told(ns, &["not/here/"])?;
    dataset::put(&origin.buckets().join("b"), "not/here/file", b"now it is")?;
    wait_ready(ns, "d")?;
    namespace.finish(MINUTE)
}

/// Pod first, then Dataset, then Secret, then CacheRuntime: each says what it waits for, and all of it comes up.
pub fn any_order() -> Result<()> {
    let namespace = Namespace::create("any-order")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    dataset::write(&origin.buckets().join("b"), 20, 1 << 20)?;
    apply(&reader_pod(ns, "early", "n1", Some("d")))?;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", ""))?;
    let (_, message) = wait_condition("dataset", ns, "d", ("RuntimeReady", "False"), MINUTE)?;
    println!("  told: {message}");
    ensure!(message.contains("CacheRuntime"), "{message}");
    apply(&runtime(ns, "pool", 1, "1Gi"))?;
    wait_for("the missing Secret to be named", MINUTE, || {
        let dataset = get("dataset", ns, "d")?.context("the dataset")?;
        let conditions = dataset["status"]["conditions"].to_string();
        Ok(if conditions.contains("Secret") && conditions.contains("origin") {
            Ok(())
        } else {
            Err(conditions)
        })
    })?;
    apply(&secret(ns))?;
    wait_ready(ns, "d")?;
    wait_pod_ready(ns, "early", 2 * MINUTE)?;
    expect_sums(
        &parse_sums(&exec(ns, "early", SUM_LINE)?),
        &dataset::sums(&origin.buckets().join("b"))?,
    )?;
    namespace.finish(MINUTE)
}

/// The API server refuses what cannot work, with a sentence that says what to write instead.
pub fn refused_specs() -> Result<()> {
    let namespace = Namespace::create("refused")?;
    let ns = &namespace.name;
    let dataset = |spec: &str| {
        format!(
            "apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {{name: d, namespace: {ns}}}\nspec: {spec}\n"
        )
    };
    let runtime = |spec: &str| {
        format!(
            "apiVersion: penstock.io/v1alpha1\nkind: CacheRuntime\nmetadata: {{name: r, namespace: {ns}}}\nspec: {spec}\n"
        )
    };
    for (what, yaml, words) in [
        ("no source", dataset("{sources: []}"), "sources"),
        ("an unknown origin", dataset("{sources: [{ftp: {host: x}}]}"), "ftp"),
        ("no origin", dataset("{sources: [{path: a}]}"), "s3"),
        (
            "an unknown field",
            dataset("{sources: [{s3: {bucket: b, colour: red}}]}"),
            "colour",
        ),
        (
            "a bad bucket name",
            dataset("{sources: [{s3: {bucket: 'NO SPACES'}}]}"),
            "bucket",
        ),
        (
            "two sources at one path",
            dataset("{sources: [{s3: {bucket: aaa}}, {s3: {bucket: bbb}}]}"),
            "path",
        ),
        (
            "a path that leaves the tree",
            dataset("{sources: [{path: a/../b, s3: {bucket: aaa}}]}"),
            "no parts `.` or `..`",
        ),
        (
            "a prefix as people write paths",
            dataset("{sources: [{s3: {bucket: aaa, prefix: /train}}]}"),
            "must not begin with a slash",
        ),
        (
            "an endpoint without a scheme",
            dataset("{sources: [{s3: {bucket: aaa, endpoint: minio.local}}]}"),
            "endpoint",
        ),
        (
            "a Secret beside the identity of the pool",
            dataset("{sources: [{s3: {bucket: aaa, workloadIdentity: true, credentialsSecretRef: {name: keys}}}]}"),
            "both say who asks",
        ),
        (
            "a label of ours for cache nodes",
            runtime(
                "{replicas: 1, tiers: [{name: t, medium: SSD, capacity: 1Gi}], workloadIdentity: {podLabels: {penstock.io/a: b}}}",
            ),
            "a label begins with the domain of a cloud",
        ),
        (
            "a refresh without a pause",
            dataset("{sources: [{s3: {bucket: aaa}}], refresh: {intervalSeconds: 1}}"),
            "intervalSeconds",
        ),
        (
            "a memory tier that should outlive its pod",
            runtime("{replicas: 1, tiers: [{name: t, medium: Memory, capacity: 1Gi}]}"),
            "a tier in Memory has the volume EmptyDir",
        ),
        (
            "a capacity that is no number",
            runtime("{replicas: 1, tiers: [{name: t, medium: SSD, capacity: plenty}]}"),
            "capacity",
        ),
        (
            "no cache node",
            runtime("{replicas: -1, tiers: [{name: ssd, medium: SSD, capacity: 1Gi}]}"),
            "replicas",
        ),
        (
            "an unknown medium",
            runtime("{replicas: 1, tiers: [{name: t, medium: Tape, capacity: 1Gi}]}"),
            "Tape",
        ),
        ("no tier", runtime("{replicas: 1, tiers: []}"), "tiers"),
        (
            "two tiers of one name",
            runtime(
                "{replicas: 1, tiers: [{name: t, medium: SSD, capacity: 1Gi}, {name: t, medium: HDD, capacity: 1Gi}]}",
            ),
            "t",
        ),
        (
            "a rule for a path that leaves the tree",
            dataset("{sources: [{s3: {bucket: aaa}}], cache: {rules: [{path: ../b, pin: true}]}}"),
            "no parts `.` or `..`",
        ),
        (
            "two rules for one path",
            dataset("{sources: [{s3: {bucket: aaa}}], cache: {rules: [{pin: true}, {pin: false}]}}"),
            "path",
        ),
        (
            "a priority that is none",
            dataset("{sources: [{s3: {bucket: aaa}}], cache: {rules: [{priority: 101}]}}"),
            "priority",
        ),
        (
            "a policy that nobody knows",
            dataset("{sources: [{s3: {bucket: aaa}}], cache: {rules: [{eviction: FIFO}]}}"),
            "FIFO",
        ),
    ] {
        match apply(&yaml) {
            Ok(()) => bail!("{what} was accepted:\n{yaml}"),
            Err(error) => {
                let text = error.to_string();
                ensure!(
                    text.contains(words),
                    "{what}: the refusal does not name {words}: {text}"
                );
            }
        }
    }
    namespace.finish(MINUTE)
}

/// A claim that a person made under the Dataset's name is neither used nor changed; the Dataset says so and heals.
pub fn foreign_claim() -> Result<()> {
    let (namespace, origin) = scene("foreign-claim")?;
    let ns = &namespace.name;
    apply(&format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: d, namespace: {ns}}}\nspec: {{storageClassName: mine, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n"
    ))?;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", ""))?;
    wait_for("the claim to be named", MINUTE, || {
        let dataset = get("dataset", ns, "d")?.context("the dataset")?;
        let ready = condition(&dataset, "Ready").unwrap_or_default();
        Ok(if ready.0 == "False" && ready.2.contains("PersistentVolumeClaim") {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        })
    })?;
    let claim = get("pvc", ns, "d")?.context("the claim is still there")?;
    ensure!(
        claim["spec"]["storageClassName"] == "mine",
        "the claim was changed: {claim}"
    );
    wait_for("a revision, after which only the claim is in the way", MINUTE, || {
        let status = get("dataset", ns, "d")?.unwrap_or_default()["status"].clone();
        Ok(if status["revision"]["id"].is_string() {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })?;
    kubectl(["delete", "pvc", "d", "-n", ns])?;
    wait_ready(ns, "d")?;
    kubectl(["delete", "pvc", "d", "-n", ns])?;
    wait_for("a deleted claim to be made again", MINUTE, || {
        let claim = get("pvc", ns, "d")?.unwrap_or_default();
        Ok(if claim["status"]["phase"] == "Bound" {
            Ok(())
        } else {
            Err(claim["status"].to_string())
        })
    })?;
    namespace.finish(MINUTE)
}

/// What a quota forbids is said in the API server's own words, by the CacheRuntime and by the Dataset; each heals when its
/// quota goes.
pub fn refused_by_quota() -> Result<()> {
    let namespace = Namespace::create("quota")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    dataset::write(&origin.buckets().join("b"), 10, 1 << 20)?;
    apply(&secret(ns))?;
    forbid(ns, "no-cache-nodes", "count/statefulsets.apps")?;
    forbid(ns, "no-claims", "persistentvolumeclaims")?;
    apply(&runtime(ns, "pool", 1, "1Gi"))?;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", ""))?;
    refused_by(ns, "cacheruntime", "pool", "no-cache-nodes")?;
    kubectl(["delete", "resourcequota", "no-cache-nodes", "-n", ns])?;
    wait_condition("cacheruntime", ns, "pool", ("Ready", "True"), MINUTE)?;
    refused_by(ns, "dataset", "d", "no-claims")?;
    kubectl(["delete", "resourcequota", "no-claims", "-n", ns])?;
    wait_ready(ns, "d")?;
    namespace.finish(MINUTE)
}

/// A quota that allows none of a resource, once Kubernetes has counted how many there are.
fn forbid(ns: &str, quota: &str, resource: &str) -> Result<()> {
    apply(&format!(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: {quota}, namespace: {ns}}}\nspec: {{hard: {{{resource}: \"0\"}}}}\n"
    ))?;
    wait_for("the quota to be counted", MINUTE, || {
        let status = get("resourcequota", ns, quota)?.unwrap_or_default()["status"].clone();
        Ok(if status["used"][resource] == "0" {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
}

/// Waits until an object says that the API server refused what a quota forbids.
fn refused_by(ns: &str, kind: &str, name: &str, quota: &str) -> Result<()> {
    wait_for(&format!("{kind} {name} to name the quota"), MINUTE, || {
        let object = get(kind, ns, name)?.unwrap_or_default();
        let (status, reason, message) = condition(&object, "Ready").unwrap_or_default();
        let names_quota = message.contains(&format!("exceeded quota: {quota}"));
        Ok(if status == "False" && reason == "ApplyFailed" && names_quota {
            println!("  told: {reason}: {message}");
            Ok(())
        } else {
            Err(object["status"]["conditions"].to_string())
        })
    })
}

/// An object that vanishes from the origin before it was read fails with an error of its own; the others are read.
pub fn object_deleted() -> Result<()> {
    let (namespace, origin) = scene("object-deleted")?;
    let ns = &namespace.name;
    let folder = origin.buckets().join("b");
    dataset::put(&folder, "doomed.bin", &dataset::content(9, 200_000))?;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", ""))?;
    wait_ready(ns, "d")?;
    apply(&reader_pod(ns, "reader", "n1", Some("d")))?;
    wait_pod_ready(ns, "reader", MINUTE)?;
    std::fs::remove_file(folder.join("doomed.bin"))?;
    let outcome = exec(
        ns,
        "reader",
        "cat /data/doomed.bin > /dev/null 2>/tmp/e; echo status $?; cat /tmp/e",
    )?;
    ensure!(outcome.contains("status 1"), "reading a vanished object: {outcome}");
    let rest = exec(ns, "reader", &SUM_LINE.replace("-type f", "-type f ! -name doomed.bin"))?;
    expect_sums(&parse_sums(&rest), &dataset::sums(&folder)?)?;
    wait_for("the dataset to name the object", MINUTE, || {
        let text = get("dataset", ns, "d")?.unwrap_or_default()["status"]["conditions"].to_string();
        Ok(if text.contains("doomed.bin") { Ok(()) } else { Err(text) })
    })?;
    namespace.finish(MINUTE)
}
