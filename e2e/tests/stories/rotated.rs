//! Keys are exchanged under cache nodes that run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{Namespace, apply, exec, kubectl, reader_pod, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::manifests::{dataset as dataset_yaml, runtime, secret, secret_of};
use penstock_e2e::origin::{ACCESS_KEY, S3Server, SECRET_KEY};
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};
use crate::secrets;

const MINUTE: Duration = Duration::from_secs(60);
const NEW_KEY: &str = "GK5d2c7a90b1e84f6d3a5b7c92";
const NEW_SECRET: &str = "3b1d0f5c7a9e2468ace013579bdf02468ace13579bdf0123456789abcdef4a5e";
/// A Secret is looked at each minute, and a read waits for the next attempt.
const ROTATED_BOUND: Duration = Duration::from_secs(90);

/// The Secret has another key, the store does not know the old one any more, and what is not cached is read all the same, by the same
/// processes.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("rotated")?;
    let ns = &namespace.name;
    let local = tempfile::tempdir()?;
    dataset::write(local.path(), 60, 8 << 20)?;
    let origin = S3Server::garage("things")?;
    origin.upload(local.path(), "things")?;
    let sums = dataset::sums(local.path())?;
    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", 2, "1Gi"))?;
    apply(&dataset_yaml(
        ns,
        "things",
        &origin.address,
        origin.region,
        "things",
        "",
    ))?;
    wait_ready(ns, "things")?;
    apply(&reader_pod(ns, "reader", "n1", Some("things")))?;
    wait_pod_ready(ns, "reader", MINUTE)?;
    // The old key is one with which these processes have read.
    exec(
        ns,
        "reader",
        "cat /data/train/class-000/part-0/img_000000.jpg >/dev/null",
    )?;
    let processes = processes(ns)?;

    origin.allow_key("things", NEW_KEY, NEW_SECRET)?;
    apply(&secret_of(ns, NEW_KEY, NEW_SECRET))?;
    origin.revoke_key(ACCESS_KEY)?;
    let started = Instant::now();
    ensure!(
        origin.upload(local.path(), "things").is_err(),
        "the old key still opens the bucket"
    );
    // A read with keys that open nothing waits far longer.
    let line = format!("timeout {} cat /data/big.bin >/dev/null", ROTATED_BOUND.as_secs());
    wait_for("what was not cached to be read", ROTATED_BOUND, || {
        Ok(exec(ns, "reader", &line).map_err(|error| error.to_string()))
    })?;
    let took = started.elapsed();
    println!("  read with the new key after {:.1} s", took.as_secs_f32());
    ensure!(took <= ROTATED_BOUND, "that took {took:?}");
    expect_sums(&parse_sums(&exec(ns, "reader", SUM_LINE)?), &sums)
        .context("what the pod reads is what was uploaded")?;
    ensure!(
        self::processes(ns)? == processes,
        "cache nodes were started again: before {processes}, now {}",
        self::processes(ns)?
    );
    secrets::are_said_nowhere(ns, &[SECRET_KEY], 2)?;
    namespace.finish(MINUTE)
}

/// The containers of the cache nodes: others after each start.
fn processes(ns: &str) -> Result<String> {
    kubectl([
        "get",
        "pods",
        "-n",
        ns,
        "-l",
        "app.kubernetes.io/component=cache-node",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].containerID}",
    ])
}
