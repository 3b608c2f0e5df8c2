//! A Dataset larger than its cache: every byte is right, each epoch gets from the cache as much as fits, and a larger cache
//! takes the rest, with what was there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{Namespace, apply, condition, exec, get, kubectl, reader_pod, wait_pod_ready};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::manifests::{dataset as dataset_yaml, runtime, secret};
use penstock_e2e::node;
use penstock_e2e::origin::{S3Server, free_address};
use penstock_e2e::wait::wait_for;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);
const BIG_BYTES: usize = 48 << 20;
/// 16Mi.
const CAPACITY_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: u64 = 4096;

/// Four epochs in a cache that is too small, and then it is not.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("small-cache")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let bucket = origin.buckets().join("b");
    dataset::write(&bucket, 200, BIG_BYTES)?;
    let (sums, bytes) = (dataset::sums(&bucket)?, dataset::total_bytes(&bucket)?);
    let proxy = CountingProxy::start(free_address()?, origin.address)?;
    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", 1, "16Mi"))?;
    apply(&yaml(ns, &proxy.address, origin.region))?;
    wait_ready(ns, "d")?;

    // Small files take whole blocks.
    let whole_blocks = bytes + sums.len() as u64 * BLOCK_BYTES;
    let fits = CAPACITY_BYTES as f64 / whole_blocks as f64;
    for number in 1..=4 {
        let ratio = 1.0 - epoch(ns, number, &proxy, &sums)? as f64 / bytes as f64;
        println!("  epoch {number}: {ratio:.3} came from the cache, of {fits:.3} that fit");
        ensure!(
            number < 3 || ratio >= fits - 0.02,
            "epoch {number} got {ratio:.3} of {fits:.3} from the cache"
        );
    }

    apply(&runtime(ns, "pool", 1, "1Gi"))?;
    wait_seen(ns)?;
    let fetched = epoch(ns, 5, &proxy, &sums)?;
    println!("  in a larger cache: {fetched} of {bytes} bytes from the origin, then");
    ensure!(
        fetched < bytes * 3 / 4,
        "what was cached was lost: {fetched} bytes were fetched"
    );
    let fetched = epoch(ns, 6, &proxy, &sums)?;
    println!("  {fetched}");
    ensure!(fetched == 0, "{fetched} bytes were fetched though everything fits");
    namespace.finish(MINUTE)
}

fn yaml(ns: &str, endpoint: &SocketAddr, region: &str) -> String {
    dataset_yaml(ns, "d", endpoint, region, "b", "")
}

/// A new pod reads everything, and goes with what the kernel had of it; returns the bytes that the origin sent.
fn epoch(ns: &str, number: u32, proxy: &CountingProxy, sums: &Sums) -> Result<u64> {
    proxy.reset();
    let pod = format!("epoch-{number}");
    apply(&reader_pod(ns, &pod, "n1", Some("d")))?;
    wait_pod_ready(ns, &pod, MINUTE)?;
    expect_sums(&parse_sums(&exec(ns, &pod, SUM_LINE)?), sums)?;
    kubectl(["delete", "pod", &pod, "-n", ns, "--wait=true"])?;
    // The pod has no grace period: it is gone from the API before it is gone from the node.
    wait_for("its volume to go", MINUTE, || {
        let mounted = node::shell("n1", "grep csi.penstock.io/revisions /proc/self/mountinfo; true")?;
        Ok(if mounted.is_empty() { Ok(()) } else { Err(mounted) })
    })?;
    Ok(proxy.bytes())
}

/// Waits until the CacheRuntime `pool` serves as its spec wants it now.
fn wait_seen(ns: &str) -> Result<()> {
    wait_for("the CacheRuntime to serve", 2 * MINUTE, || {
        let pool = get("cacheruntime", ns, "pool")?.context("the CacheRuntime")?;
        let is_seen = pool["status"]["observedGeneration"] == pool["metadata"]["generation"];
        let is = |kind| condition(&pool, kind).is_some_and(|(status, ..)| status == "True");
        Ok(if is_seen && is("Ready") && !is("CacheDegraded") {
            Ok(())
        } else {
            Err(pool["status"].to_string())
        })
    })
}
