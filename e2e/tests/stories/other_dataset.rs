//! A Dataset whose files are those of another namespace's Dataset.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, exec, get, kubectl, kubectl_penstock, reader_pod, wait_condition, wait_gone, wait_pod_ready,
};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::manifests::{dataset as s3_dataset, runtime, secret};
use penstock_e2e::origin::{S3Server, free_address};
use penstock_e2e::wait::wait_for;
use serde_json::Value;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);

/// Who may not is refused without learning what there is; who may reads what is cached for the other, follows it, and holds up its
/// deletion.
pub fn story() -> Result<()> {
    let (owner, team) = (Namespace::create("owner")?, Namespace::create("team")?);
    let (lender, taker) = (&owner.name, &team.name);
    let origin = S3Server::rclone()?;
    let bucket = origin.buckets().join("photos");
    dataset::write(&bucket.join("train"), 60, 9 << 20)?;
    dataset::put(&bucket, "private/out", b"not below the folder")?;
    let proxy = CountingProxy::start(free_address()?, origin.address)?;
    apply(&secret(lender))?;
    apply(&runtime(lender, "pool", 1, "1Gi"))?;
    apply(&s3_dataset(
        lender,
        "photos",
        &proxy.address,
        origin.region,
        "photos",
        "",
    ))?;
    wait_ready(lender, "photos")?;

    apply(&runtime(taker, "pool", 2, "1Gi"))?;
    apply(&format!(
        "apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {{name: subset, namespace: {taker}}}
spec:
  sources:
  - dataset: {{namespace: {lender}, name: photos, path: train}}
"
    ))?;
    wait_for("the refusal", MINUTE, || {
        let (reason, message) = source_reachable(taker)?;
        let is_refused = reason == "DatasetNotAvailable" && message.contains("spec.allowedNamespaces");
        Ok(if is_refused { Ok(()) } else { Err(message) })
    })?;
    let allow = format!("{{\"spec\": {{\"allowedNamespaces\": [{taker:?}]}}}}");
    kubectl(["patch", "dataset", "photos", "-n", lender, "--type=merge", "-p", &allow])?;
    wait_ready(taker, "subset")?;

    proxy.reset();
    for (pod, node) in [("one", "n1"), ("two", "n2")] {
        apply(&reader_pod(taker, pod, node, Some("subset")))?;
        wait_pod_ready(taker, pod, MINUTE)?;
        expect_sums(&sums_in(taker, pod)?, &dataset::sums(&bucket.join("train"))?)
            .context("the files of the folder")?;
    }
    // The first contact has read a byte, and with it a small file or a first piece.
    let (served, all) = (proxy.bytes(), dataset::total_bytes(&bucket.join("train"))?);
    println!("  bytes from the origin for two nodes: {served} of {all}");
    ensure!(served <= all && proxy.repeated().is_empty(), "{:?}", proxy.repeated());
    let cached = get("dataset", taker, "subset")?.context("the Dataset")?["status"]["cachedBytes"].clone();
    ensure!(cached.as_i64().unwrap_or(0) == 0, "{cached} bytes are cached twice");

    let shown = kubectl_penstock(&["ls", "subset", "-R", "-n", taker])?;
    let shown = shown.lines().filter(|line| !line.ends_with('/')).count();
    let there = dataset::sums(&bucket.join("train"))?.len();
    ensure!(shown == there, "kubectl penstock ls shows {shown} of {there} files");

    dataset::put(&bucket, "train/new/file", &dataset::content(77, 70_000))?;
    kubectl(["annotate", "dataset", "photos", "-n", lender, "penstock.io/refresh=1"])?;
    let files = dataset::sums(&bucket.join("train"))?.len() as i64;
    wait_for("the new file", MINUTE, || {
        let status = get("dataset", taker, "subset")?.context("the Dataset")?["status"].clone();
        Ok(if status["revision"]["files"] == files {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })?;
    apply(&reader_pod(taker, "three", "n1", Some("subset")))?;
    wait_pod_ready(taker, "three", MINUTE)?;
    expect_sums(&sums_in(taker, "three")?, &dataset::sums(&bucket.join("train"))?).context("the new revision")?;

    kubectl(["delete", "dataset", "photos", "-n", lender, "--wait=false"])?;
    wait_condition("dataset", lender, "photos", ("DeletionBlocked", "True"), MINUTE)?;
    ensure!(sums_in(taker, "one")?.len() as i64 == files - 1, "the pods read on");
    kubectl(["delete", "pods", "-n", taker, "--all", "--wait"])?;
    kubectl(["delete", "dataset", "subset", "-n", taker, "--wait"])?;
    wait_gone("dataset", lender, "photos", MINUTE)?;
    team.finish(MINUTE)?;
    owner.finish(MINUTE)
}

fn sums_in(ns: &str, pod: &str) -> Result<Sums> {
    Ok(parse_sums(&exec(ns, pod, SUM_LINE)?))
}

/// Reason and message of the condition.
fn source_reachable(ns: &str) -> Result<(String, String)> {
    let dataset = get("dataset", ns, "subset")?.context("the Dataset")?;
    let conditions = dataset["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == "SourceReachable");
    let found = found.unwrap_or(Value::Null);
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("reason"), text("message")))
}
