//! What a CacheRuntime does not allow its Datasets to reach.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, condition, exec, get, kubectl, reader_pod, wait_condition, wait_pod_ready,
};
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::manifests::secret;
use penstock_e2e::origin::S3Server;
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);
/// Port of the Service, which is not that of the server behind it.
const PORT: u16 = 9000;

/// Services, pods, the API server, what tells machines their secrets, and buckets that are not listed are refused with a sentence each;
/// what the owner of the pool grants is read, and nothing beside it.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("not-allowed")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    for bucket in ["open", "closed"] {
        dataset::write(&origin.buckets().join(bucket), 10, 1 << 20)?;
    }
    apply(&secret(ns))?;
    apply(&service(ns, origin.address))?;
    apply(&runtime(ns, origin.address, ""))?;
    wait_condition("cacheruntime", ns, "pool", ("Ready", "True"), MINUTE)?;
    let named = format!("store.{ns}.svc:{PORT}");
    let service = told("service", ns, "store", "{.spec.clusterIP}")?;
    let pod = told("pod", ns, "pool-0", "{.status.podIP}")?;
    let api = kubectl([
        "get",
        "endpointslices",
        "-n",
        "default",
        "-l",
        "kubernetes.io/service-name=kubernetes",
        "-o",
        "jsonpath={.items[0].endpoints[0].addresses[0]}:{.items[0].ports[0].port}",
    ])?;

    let s3 = |endpoint: &str, bucket: &str| {
        format!(
            "{{s3: {{bucket: {bucket}, region: {}, endpoint: \"http://{endpoint}\", credentialsSecretRef: {{name: origin}}}}}}",
            origin.region
        )
    };
    let http = |url: &str, file: &str| format!("{{http: {{url: \"{url}\", files: [{file}]}}}}");
    let is_granted = |address: &str| format!("add {address} to spec.origins.clusterAddresses of the CacheRuntime");
    let refused = [
        ("service", s3(&named, "open"), is_granted(&named)),
        (
            "service-by-address",
            s3(&format!("{service}:{PORT}"), "open"),
            is_granted(&format!("{service}:{PORT}")),
        ),
        (
            "pod",
            http(&format!("http://{pod}:7072/"), "metrics"),
            is_granted(&format!("{pod}:7072")),
        ),
        (
            "api-server",
            http("https://kubernetes.default.svc/", "version"),
            is_granted("kubernetes.default.svc:443"),
        ),
        (
            "api-server-by-address",
            http(&format!("https://{api}/"), "version"),
            is_granted(&api),
        ),
        (
            "metadata",
            http("http://169.254.169.254/", "latest"),
            "is for the machine itself".to_owned(),
        ),
        (
            "bucket",
            s3(&origin.address.to_string(), "closed"),
            "to spec.origins.allowed of the CacheRuntime".to_owned(),
        ),
    ];
    for (name, source, _) in &refused {
        apply(&format!(
            "apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {{name: {name}, namespace: {ns}}}\nspec: {{sources: [{source}]}}\n"
        ))?;
    }
    for (name, _, words) in &refused {
        wait_refused(ns, name, words)?;
    }

    apply(&runtime(ns, origin.address, &named))?;
    wait_ready(ns, "service")?;
    apply(&reader_pod(ns, "reader", "n1", Some("service")))?;
    wait_pod_ready(ns, "reader", MINUTE)?;
    expect_sums(
        &parse_sums(&exec(ns, "reader", SUM_LINE)?),
        &dataset::sums(&origin.buckets().join("open"))?,
    )
    .context("the bucket behind the Service")?;
    for (name, _, words) in &refused[1..] {
        wait_refused(ns, name, words)?;
        let revision = told("dataset", ns, name, "{.status.revision}")?;
        ensure!(revision.is_empty(), "{name} has a revision: {revision}");
    }
    namespace.finish(MINUTE)
}

/// A Service in front of a server beside the cluster.
fn service(ns: &str, server: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: store, namespace: {ns}}}
spec: {{ports: [{{port: {PORT}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: store, namespace: {ns}, labels: {{kubernetes.io/service-name: store}}}}
addressType: IPv4
ports: [{{name: \"\", port: {}}}]
endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]
",
        server.port(),
        server.ip()
    )
}

/// A pool that allows every place that is tried but the closed bucket, so that addresses alone stand in the way of the others.
fn runtime(ns: &str, server: SocketAddr, granted: &str) -> String {
    format!(
        "apiVersion: penstock.io/v1alpha1
kind: CacheRuntime
metadata: {{name: pool, namespace: {ns}}}
spec:
  replicas: 1
  tiers: [{{name: ssd, medium: SSD, capacity: 1Gi}}]
  origins:
    allowed: [\"http://{server}/open/**\", \"http://store.{ns}.svc:{PORT}/**\", \"http://10.*/**\", \"http://169.*/**\", \"https://*/**\"]
    clusterAddresses: [{granted}]
"
    )
}

fn told(kind: &str, ns: &str, name: &str, path: &str) -> Result<String> {
    kubectl(["get", kind, name, "-n", ns, "-o", &format!("jsonpath={path}")])
}

fn wait_refused(ns: &str, name: &str, words: &str) -> Result<()> {
    let message = wait_for(&format!("{name} to be refused: {words}"), MINUTE, || {
        let dataset = get("dataset", ns, name)?.context("the Dataset")?;
        let (status, reason, message) = condition(&dataset, "SourceReachable").unwrap_or_default();
        let is_refused = status == "False" && reason == "NotAllowed" && message.contains(words);
        Ok(if is_refused {
            Ok(message)
        } else {
            Err(dataset["status"]["conditions"].to_string())
        })
    })?;
    println!("  told: {message}");
    Ok(())
}
