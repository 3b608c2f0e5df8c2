//! kill -9 of a cache node while pods read through it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use penstock_e2e::cluster::{Namespace, apply, exec, kubectl, reader_pod, wait_condition, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, parse_sums};
use penstock_e2e::origin::S3Server;

use crate::first_line::{declare, expect_sums};

const MINUTE: Duration = Duration::from_secs(60);

/// A pod reads cold data while one of the two cache nodes dies by SIGKILL: no error, no wrong byte, and the
/// node comes back.
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

    let reader = {
        let ns = ns.clone();
        std::thread::spawn(move || exec(&ns, "reader", SUM_LINE))
    };
    wait_until_cached_bytes(ns, 20 << 20)?;
    ensure!(
        !reader.is_finished(),
        "the reader was done before the kill: make the dataset larger"
    );
    let killed = Instant::now();
    kill_cache_node(ns, "pool-0")?;
    let text = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    println!(
        "  the reader ended {:.1} s after the kill, without an error",
        killed.elapsed().as_secs_f32()
    );
    expect_sums(&parse_sums(&text), &sums)?;
    wait_condition("pod", ns, "pool-0", ("Ready", "True"), MINUTE)?;
    namespace.finish(MINUTE)
}

/// SIGKILL to the process of a cache node, on the node that runs it.
fn kill_cache_node(ns: &str, pod: &str) -> Result<()> {
    let node = kubectl(["get", "pod", pod, "-n", ns, "-o", "jsonpath={.spec.nodeName}"])?;
    let uid = kubectl(["get", "pod", pod, "-n", ns, "-o", "jsonpath={.metadata.uid}"])?;
    // The pod's own processes are those in its memory cgroup; PID 1 of the container is the cache node.
    let line = format!(
        "for p in $(pgrep -f /bin/penstock-cache-node); do grep -q {uid} /proc/$p/cgroup && kill -9 $p && echo killed; done; true"
    );
    let out = penstock_e2e::node::shell(&node, &line)?;
    ensure!(out.contains("killed"), "no cache node process of {pod} on {node}");
    Ok(())
}

fn wait_until_cached_bytes(ns: &str, bytes: u64) -> Result<()> {
    penstock_e2e::wait::wait_for("the cache to fill", MINUTE, || {
        let dataset = penstock_e2e::cluster::get("dataset", ns, "d")?.unwrap_or_default();
        let cached = dataset["status"]["cachedBytes"].as_u64().unwrap_or(0);
        Ok(if cached >= bytes {
            Ok(())
        } else {
            Err(format!("{cached} bytes cached"))
        })
    })
}
