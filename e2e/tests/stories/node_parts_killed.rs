//! kill -9 of our own processes on a node while a pod has its dataset open.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{Namespace, SYSTEM_NAMESPACE, apply, exec, kubectl, reader_pod, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::manifests::{dataset as dataset_yaml, runtime, secret};
use penstock_e2e::node;
use penstock_e2e::origin::S3Server;
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);

/// A pod goes on reading what its node has never read, while the mounter is gone and while the csi container is gone; new
/// pods come up when both are back.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("parts-killed")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let folder = origin.buckets().join("b");
    dataset::write(&folder, 300, 8 << 20)?;
    let sums = dataset::sums(&folder)?;
    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", 1, "1Gi"))?;
    apply(&dataset_yaml(ns, "d", &origin.address, origin.region, "b", ""))?;
    wait_ready(ns, "d")?;
    apply(&reader_pod(ns, "old", "n1", Some("d")))?;
    wait_pod_ready(ns, "old", MINUTE)?;

    reads(ns, "old", "class-000", &sums)?;
    for (part, cold) in [("mounter", "class-001"), ("csi", "class-002")] {
        let started = started_at(part)?;
        node::kill("n1", &format!("/bin/penstock-{part}"))?;
        reads(ns, "old", cold, &sums).with_context(|| format!("after kill -9 of the {part}"))?;
        wait_for(&format!("the {part} to be started again"), MINUTE, || {
            let now = started_at(part)?;
            Ok(if now != started && !now.is_empty() {
                Ok(())
            } else {
                Err(now)
            })
        })?;
    }
    reads(ns, "old", "class-003", &sums)?;
    apply(&reader_pod(ns, "new", "n1", Some("d")))?;
    wait_pod_ready(ns, "new", MINUTE)?;
    expect_sums(&parse_sums(&exec(ns, "new", SUM_LINE)?), &sums)?;
    namespace.finish(MINUTE)
}

/// Reads the files of one class, and compares them.
fn reads(ns: &str, pod: &str, class: &str, sums: &Sums) -> Result<()> {
    let expected: Sums = sums
        .iter()
        .filter(|(path, _)| path.contains(class))
        .map(|(path, sum)| (path.clone(), sum.clone()))
        .collect();
    ensure!(!expected.is_empty(), "there is no {class}");
    let line = SUM_LINE.replace("find .", &format!("find ./train/{class}"));
    expect_sums(&parse_sums(&exec(ns, pod, &line)?), &expected)
}

/// When the container of a part on n1 was started, as text; "" while it does not run.
fn started_at(part: &str) -> Result<String> {
    kubectl([
        "get",
        "pods",
        "-n",
        SYSTEM_NAMESPACE,
        "-l",
        &format!("app.kubernetes.io/component={part}"),
        "--field-selector=spec.nodeName=n1",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[0].state.running.startedAt}",
    ])
}
