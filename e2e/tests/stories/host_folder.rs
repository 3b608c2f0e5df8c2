//! Folders of the nodes as sources.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{Namespace, apply, exec, get, kubectl, reader_pod, wait_pod_ready};
use penstock_e2e::dataset::{SUM_LINE, parse_sums};
use penstock_e2e::node;
use penstock_e2e::wait::wait_for;
use serde_json::Value;

use crate::first_line::wait_ready;

const MINUTE: Duration = Duration::from_secs(60);

/// What the chart permits in all stories.
pub const PERMITTED: &str = "/var/lib/host-data";
/// The one that has it.
const NODE: &str = "n1";

/// Nothing is read that one of the two does not allow, nor what a link leads to; what both allow is read as the user that the source
/// names, by a pod on a node of the pool.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("host-folder")?;
    let ns = &namespace.name;
    node::shell(
        NODE,
        &format!(
            "rm -rf {PERMITTED} && mkdir -p {PERMITTED}/team/2024/deep && cd {PERMITTED}/team && seq 1 90000 >'2024/deep/a b.txt' && \
             seq 1 10 >2024/small && ln -s /etc out && chown -R 1000:100 . && chmod -R u=rX,g=,o= ."
        ),
    )?;
    let runtime = |host_paths: &str| {
        format!(
            "apiVersion: penstock.io/v1alpha1
kind: CacheRuntime
metadata: {{name: pool, namespace: {ns}}}
spec:
  replicas: 1
  nodeSelector: {{kubernetes.io/hostname: {NODE}}}
  tiers:
  - {{name: ssd, medium: SSD, capacity: 1Gi}}
  origins: {{hostPaths: [{host_paths}]}}
"
        )
    };
    let dataset = |name: &str, path: &str| {
        format!(
            "apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {{name: {name}, namespace: {ns}}}
spec:
  sources:
  - folder: {{path: {path}, uid: 1000, gid: 100}}
"
        )
    };
    apply(&runtime(""))?;
    apply(&dataset("tree", &format!("{PERMITTED}/team/2024")))?;
    apply(&dataset("etc", "/etc"))?;
    apply(&dataset("linked", &format!("{PERMITTED}/team/out")))?;
    wait_refused(ns, "tree", "NotAllowed", "the CacheRuntime pool does not list")?;
    // Who lists a link gets what is permitted, and not what it leads to.
    apply(&runtime(&format!("{PERMITTED}/team, {PERMITTED}/team/out, /etc")))?;
    wait_ready(ns, "tree")?;
    wait_refused(ns, "etc", "NotAllowed", "hostPaths of the chart")?;
    wait_refused(ns, "linked", "InvalidSource", "is a link that leads out of its volume")?;
    let mounted = kubectl([
        "get",
        "pods",
        "-n",
        ns,
        "-o",
        "jsonpath={.items[*].spec.volumes[*].hostPath.path}",
    ])?;
    ensure!(
        mounted.split_whitespace().all(|path| path == PERMITTED),
        "pods mount {mounted}"
    );

    apply(&reader_pod(ns, "pod", "n2", Some("tree")))?;
    wait_pod_ready(ns, "pod", MINUTE)?;
    let read = parse_sums(&exec(ns, "pod", SUM_LINE)?);
    let there = parse_sums(&node::shell(
        NODE,
        &format!("cd {PERMITTED}/team/2024 && find . -type f -exec sha256sum {{}} +"),
    )?);
    ensure!(
        read.len() == 2 && read == there,
        "a pod reads {read:?}, there is {there:?}"
    );

    kubectl(["delete", "datasets", "etc", "linked", "-n", ns])?;
    apply(&runtime(""))?;
    wait_refused(ns, "tree", "NotAllowed", "does not list")?;
    namespace.finish(MINUTE)?;
    node::shell(NODE, &format!("rm -rf {PERMITTED}"))?;
    Ok(())
}

fn wait_refused(ns: &str, name: &str, reason: &str, words: &str) -> Result<()> {
    wait_for(&format!("{name} to be refused: {words}"), MINUTE, || {
        let dataset = get("dataset", ns, name)?.context("the Dataset")?;
        let conditions = dataset["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|one| one["type"] == "SourceReachable");
        let found = found.unwrap_or(Value::Null);
        let message = found["message"].as_str().unwrap_or_default();
        let is_refused = found["reason"] == reason && message.contains(words);
        Ok(if is_refused { Ok(()) } else { Err(found.to_string()) })
    })
}
