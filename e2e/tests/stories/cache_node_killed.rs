//! kill -9 of a cache node while pods read through it.

use std::time::Duration;

use anyhow::Result;
use penstock_e2e::cluster::{Namespace, apply, exec, reader_pod, wait_condition, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::load::Load;
use penstock_e2e::node::Victim;
use penstock_e2e::origin::S3Server;

use crate::first_line::{declare, expect_sums};

const MINUTE: Duration = Duration::from_secs(60);
/// Longest pause: the reads that it had taken go to the other node within two seconds.
const KILLED_BOUND: Duration = Duration::from_secs(5);

/// A pod reads while the cache nodes die by SIGKILL, one after the other: no error, no wrong byte, and they come back.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("node-killed")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let folder = origin.buckets().join("b");
    dataset::write(&folder, 800, 160 << 20)?;
    let sums = dataset::sums(&folder)?;
    declare(ns, &origin, 2, "2Gi")?;
    apply(&reader_pod(ns, "reader", "n1", Some("d")))?;
    wait_pod_ready(ns, "reader", MINUTE)?;

    // Cold each time: while the cache fills, and from what it has.
    let load = Load::on_pod(ns, "reader", &sums, 3)?;
    load.goes_on(MINUTE)?;
    for pod in ["pool-0", "pool-1"] {
        kill_cache_node(ns, pod)?;
        load.check(&format!("the cache node {pod} killed"), MINUTE, KILLED_BOUND)?;
        wait_condition("pod", ns, pod, ("Ready", "True"), MINUTE)?;
    }
    drop(load);
    let text = exec(ns, "reader", SUM_LINE)?;
    expect_sums(&parse_sums(&text), &sums)?;
    namespace.finish(MINUTE)
}

/// SIGKILL to the process of a cache node: PID 1 of its container.
pub fn kill_cache_node(ns: &str, pod: &str) -> Result<()> {
    Victim::new(ns, pod)?.kill("/bin/penstock-cache-node")
}
