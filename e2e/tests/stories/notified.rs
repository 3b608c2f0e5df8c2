//! A store says what has changed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{Namespace, SYSTEM_NAMESPACE, apply, exec, get, kubectl, reader_pod, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::manifests::{runtime, secret};
use penstock_e2e::origin::S3Server;
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};
use crate::secrets;

const MINUTE: Duration = Duration::from_secs(60);
const TOKEN: &str = "hush-hush-of-whoever-notifies";

/// New pods have what was named a moment ago, without any interval; who does not know the token changes nothing.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("notified")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let bucket = origin.buckets().join("photos");
    dataset::write(&bucket, 20, 2 << 20)?;
    apply(&secret(ns))?;
    apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: told, namespace: {ns}}}\nstringData: {{token: {TOKEN}}}\n"
    ))?;
    apply(&runtime(ns, "pool", 1, "1Gi"))?;
    let (address, region) = (origin.address, origin.region);
    apply(&format!(
        "apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {{name: photos, namespace: {ns}}}
spec:
  sources:
  - s3: {{bucket: photos, region: {region}, endpoint: \"http://{address}\", credentialsSecretRef: {{name: origin}}}}
  refresh: {{notifications: {{tokenSecretRef: {{name: told}}}}}}
"
    ))?;
    wait_ready(ns, "photos")?;
    apply(&reader_pod(ns, "writer", "n1", Some("photos")))?;
    wait_pod_ready(ns, "writer", MINUTE)?;

    dataset::put(&bucket, "raw/new.bin", &dataset::content(1, 70_000))?;
    dataset::put(&bucket, "raw/not named.bin", &dataset::content(2, 70_000))?;
    let before = files(ns)?;
    let said = answer(ns, "a-token-that-is-not-the-one", r#"{"all": true}"#)?;
    ensure!(said.contains("401"), "{said}");
    let said = taken(ns, r#"{"keys": ["raw/new.bin"]}"#)?;
    println!("  the operator answers: {}", said.trim());
    wait_files(ns, before + 1)?;
    std::fs::remove_file(bucket.join("raw/new.bin"))?;
    taken(ns, r#"{"prefixes": ["raw/"]}"#)?;
    // One is gone, and the other one was below the prefix.
    wait_for("the other file", MINUTE, || {
        apply(&reader_pod(ns, "new", "n2", Some("photos")))?;
        wait_pod_ready(ns, "new", MINUTE)?;
        let names = exec(ns, "new", "ls /data/raw")?;
        let is_there = names.trim() == "not named.bin";
        if !is_there {
            kubectl(["delete", "pod", "new", "-n", ns, "--wait"])?;
        }
        Ok(if is_there { Ok(()) } else { Err(names) })
    })?;
    expect_sums(&parse_sums(&exec(ns, "new", SUM_LINE)?), &dataset::sums(&bucket)?)
        .context("the tree is that of the bucket")?;
    // The key of the bucket and the token.
    secrets::are_said_nowhere(ns, &[], 2)?;
    namespace.finish(MINUTE)
}

/// What the operator answers to a pod. One that does not lead sends senders back, and they come again.
fn answer(ns: &str, token: &str, body: &str) -> Result<String> {
    let url = format!("http://penstock-notifications.{SYSTEM_NAMESPACE}/v1/notifications/{ns}/photos");
    let line = format!("wget -O- --header 'Authorization: Bearer {token}' --post-data '{body}' {url} 2>&1; true");
    wait_for("an answer of the one that leads", MINUTE, || {
        let said = exec(ns, "writer", &line)?;
        Ok(if said.contains("503") { Err(said) } else { Ok(said) })
    })
}

fn taken(ns: &str, body: &str) -> Result<String> {
    let said = answer(ns, TOKEN, body)?;
    ensure!(!said.contains("error"), "{said}");
    Ok(said)
}

fn files(ns: &str) -> Result<i64> {
    let dataset = get("dataset", ns, "photos")?.context("the Dataset")?;
    dataset["status"]["revision"]["files"].as_i64().context("files")
}

fn wait_files(ns: &str, wanted: i64) -> Result<()> {
    wait_for(&format!("{wanted} files"), MINUTE, || {
        let found = files(ns)?;
        Ok(if found == wanted {
            Ok(())
        } else {
            Err(found.to_string())
        })
    })
}
