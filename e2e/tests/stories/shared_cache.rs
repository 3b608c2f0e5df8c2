//! Two Datasets, one with a pinned folder and a guarantee and one with a limit, share a memory and a disk tier that are smaller
//! than the data: each gets what it was promised; tiers grow and shrink while pods read; the cache node dies a dozen times.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, condition, exec, get, in_pod, kubectl, reader_pod, wait_condition, wait_pod_ready,
};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::load::Load;
use penstock_e2e::manifests::{dataset as dataset_yaml, secret};
use penstock_e2e::origin::{S3Server, free_address};
use penstock_e2e::wait::wait_for;
use penstock_e2e::{metrics, node};
use serde_json::Value;

use crate::first_line::{expect_sums, wait_ready};

const MINUTE: Duration = Duration::from_secs(60);
const BIG_BYTES: usize = 24 << 20;
const BLOCK_BYTES: u64 = 4096;
const MIB: u64 = 1 << 20;
const GUARANTEED_BYTES: u64 = 12 * MIB;
const LIMIT_BYTES: u64 = 6 * MIB;
const KILLS: usize = 12;
/// Longest pause: until the pod of the only cache node is there again.
const KILLED_BOUND: Duration = Duration::from_secs(45);
const CHANGED_BOUND: Duration = Duration::from_secs(5);

/// A Dataset as the story knows it.
struct Data {
    name: &'static str,
    sums: Sums,
    bytes: u64,
    /// What the cache has of it at least, in the end.
    share: u64,
}

struct Scene<'a> {
    ns: &'a str,
    proxy: CountingProxy,
}

/// Four epochs of both, then changes and kills under load.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("shared-cache")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let data = |name, share| -> Result<Data> {
        let folder = origin.buckets().join("b").join(name);
        dataset::write(&folder, 300, BIG_BYTES)?;
        let (sums, bytes) = (dataset::sums(&folder)?, dataset::total_bytes(&folder)?);
        Ok(Data {
            name,
            sums,
            bytes,
            share,
        })
    };
    let (kept, limited) = (data("kept", GUARANTEED_BYTES)?, data("limited", 0)?);
    let proxy = CountingProxy::start(free_address()?, origin.address)?;
    let scene = Scene { ns, proxy };
    apply(&secret(ns))?;
    apply(&runtime(ns, &[("disk", "16Mi")]))?;
    let pinned = "{quota: {guaranteed: 12Mi}, rules: [{path: train/class-001, pin: true}]}";
    apply(&yaml(&scene, origin.region, "kept", pinned))?;
    apply(&yaml(&scene, origin.region, "limited", "{quota: {limit: 6Mi}}"))?;
    for data in [&kept, &limited] {
        wait_ready(ns, data.name)?;
    }

    for number in 1..=4 {
        for data in [&kept, &limited] {
            // The first epochs of both find out what the other needs.
            scene.epoch(data, number, number >= 4)?;
        }
    }
    let held = of_pool(
        ns,
        "penstock_dataset_cached_bytes",
        &[("dataset", &format!("{ns}/limited"))],
    )?;
    // What only passes does not count.
    let held_max = LIMIT_BYTES + 24 * MIB / 100;
    ensure!(held as u64 <= held_max, "{held} bytes of at most {held_max} are held");

    looked_into(ns, &kept)?;
    changed_under_load(&scene, &kept)?;
    tiers_come_and_go(&scene, &kept)?;
    refused(&scene, origin.region)?;
    killed_under_load(&scene, &limited)?;
    for data in [&kept, &limited] {
        scene.epoch(data, 6, false)?;
    }
    namespace.finish(MINUTE)
}

impl Scene<'_> {
    /// A new pod reads everything, and goes with what the kernel had of it.
    fn epoch(&self, data: &Data, number: u32, is_steady: bool) -> Result<()> {
        let Data {
            name,
            sums,
            bytes,
            share,
        } = data;
        let ns = self.ns;
        self.proxy.reset();
        let before = of_pool(ns, "penstock_origin_bytes_total", &[])?;
        let pod = format!("{name}-{number}");
        apply(&reader_pod(ns, &pod, "n1", Some(name)))?;
        wait_pod_ready(ns, &pod, MINUTE)?;
        expect_sums(&parse_sums(&exec(ns, &pod, SUM_LINE)?), sums)?;
        kubectl(["delete", "pod", &pod, "-n", ns, "--wait=true"])?;
        // The pod has no grace period: it is gone from the API before it is gone from the node.
        wait_for("its volume to go", MINUTE, || {
            let mounted = node::shell("n1", "grep csi.penstock.io/revisions /proc/self/mountinfo; true")?;
            Ok(if mounted.is_empty() { Ok(()) } else { Err(mounted) })
        })?;
        if !is_steady {
            return Ok(());
        }
        // Small files take whole blocks.
        let whole_blocks = bytes + sums.len() as u64 * BLOCK_BYTES;
        let fits = *share as f64 / whole_blocks as f64;
        let fetched = of_pool(ns, "penstock_origin_bytes_total", &[])? - before;
        let ratio = 1.0 - fetched / *bytes as f64;
        println!("  epoch {number} of {name}: {ratio:.3} came from the cache, of {fits:.3} that are promised");
        ensure!(
            ratio >= fits - 0.02,
            "epoch {number} of {name} got {ratio:.3} of {fits:.3} from the cache"
        );
        let seen = self.proxy.bytes() as f64;
        ensure!(
            (seen - fetched).abs() <= 0.01 * *bytes as f64,
            "the metrics say that {fetched} bytes came from the origin, which sent {seen}"
        );
        Ok(())
    }
}

/// What a person sees who asks the cache node: where a file is, that all of it is right, and that what is evicted is gone.
fn looked_into(ns: &str, data: &Data) -> Result<()> {
    let ask = |line: &str| -> Result<Value> {
        let line = format!("/bin/penstock {line} -o json");
        let words: Vec<&str> = line.split(' ').collect();
        Ok(serde_json::from_str(&in_pod(ns, "pool-0", &words)?)?)
    };
    let (name, path) = (data.name, "train/class-001");
    let listed = ask("cache ls")?;
    let datasets = listed["datasets"].as_array().context("the Datasets")?;
    ensure!(
        datasets.len() == 2 && listed["tiers"].as_array().is_some_and(|tiers| tiers.len() == 2),
        "{listed}"
    );
    let stated = ask(&format!("cache stat {name} {path}"))?;
    ensure!(stated["cachedBytes"] == stated["blockBytes"], "it is pinned: {stated}");
    let explained = ask(&format!("explain {name} big.bin"))?;
    let parts = explained["ranges"].as_array().context("the parts")?;
    let bytes: u64 = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum();
    ensure!(bytes == BIG_BYTES as u64, "{bytes} bytes are explained: {explained}");
    let is = |state: &str| parts.iter().any(|part| part["state"] == state);
    ensure!(is("kept") && (is("contested") || is("unread")), "{explained}");
    let verified = ask("cache verify")?;
    ensure!(
        verified["damagedBlocks"] == 0 && verified["comparedBytes"].as_u64() > Some(MIB),
        "{verified}"
    );
    let evicted = ask(&format!("cache evict {name} {path}"))?;
    ensure!(evicted["bytes"] == stated["cachedBytes"], "{evicted} of {stated}");
    let stated = ask(&format!("cache stat {name} {path}"))?;
    ensure!(stated["cachedBytes"] == 0, "{stated}");
    Ok(())
}

/// The disk tier shrinks and grows: the pod of the cache node stays, nobody notices, and what was cached is not lost.
fn changed_under_load(scene: &Scene<'_>, data: &Data) -> Result<()> {
    let ns = scene.ns;
    apply(&reader_pod(ns, "loaded", "n1", Some(data.name)))?;
    wait_pod_ready(ns, "loaded", MINUTE)?;
    let uid = || kubectl(["get", "pod", "pool-0", "-n", ns, "-o", "jsonpath={.metadata.uid}"]);
    let (before, load) = (uid()?, Load::on_pod(ns, "loaded", &data.sums, 2)?);
    for (capacity, bytes) in [("4Mi", 4 * MIB), ("200Mi", 200 * MIB)] {
        apply(&runtime(ns, &[("disk", capacity)]))?;
        let of_tier = |name| of_pool(ns, name, &[("tier", "disk")]);
        wait_for("the tier to hold no more than it may", MINUTE, || {
            let (capacity, used) = (
                of_tier("penstock_tier_capacity_bytes")?,
                of_tier("penstock_tier_used_bytes")?,
            );
            let is_done = capacity as u64 == bytes && used <= capacity;
            Ok(if is_done {
                Ok(())
            } else {
                Err(format!("{used} of {capacity}"))
            })
        })?;
        load.check(&format!("a tier of {capacity}"), MINUTE, CHANGED_BOUND)?;
    }
    ensure!(uid()? == before, "the pod of the cache node was replaced");
    wait_ready(ns, data.name)?;
    drop(load);
    kubectl(["delete", "pod", "loaded", "-n", ns, "--wait=true"])?;
    // Everything fits by now, but for what the other may not hold.
    for number in [7, 8] {
        scene.epoch(data, number, false)?;
    }
    ensure!(
        scene.proxy.bytes() == 0,
        "{} bytes were fetched though everything fits",
        scene.proxy.bytes()
    );
    Ok(())
}

/// A tier is added and taken away, for which the cache node's pod is replaced: readers wait for that long, and what is on a tier
/// that stays is there.
fn tiers_come_and_go(scene: &Scene<'_>, data: &Data) -> Result<()> {
    let ns = scene.ns;
    apply(&reader_pod(ns, "resident", "n1", Some(data.name)))?;
    wait_pod_ready(ns, "resident", MINUTE)?;
    let load = Load::on_pod(ns, "resident", &data.sums, 2)?;
    scene.proxy.reset();
    let disks = [("disk", "200Mi"), ("more", "64Mi")];
    for (disks, capacity) in [(&disks[..], "8Mi + 200Mi + 64Mi"), (&disks[..1], "8Mi + 200Mi")] {
        apply(&runtime(ns, disks))?;
        wait_for("the cache node to have these tiers", 2 * MINUTE, || {
            // Its pod may be gone at the moment.
            let listed = in_pod(ns, "pool-0", &["/bin/penstock", "cache", "ls", "-o", "json"]);
            let listed = match listed {
                Ok(listed) => serde_json::from_str::<Value>(&listed)?,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let count = listed["tiers"].as_array().map_or(0, Vec::len);
            Ok(if count == 1 + disks.len() {
                Ok(())
            } else {
                Err(listed.to_string())
            })
        })?;
        wait_ready(ns, data.name)?;
        let shown = kubectl([
            "get",
            "cacheruntime",
            "pool",
            "-n",
            ns,
            "-o",
            "jsonpath={.status.capacity}",
        ])?;
        ensure!(shown == capacity, "it is said to hold {shown}");
        load.goes_on(MINUTE)?;
    }
    load.check("a tier that came and went", MINUTE, KILLED_BOUND)?;
    drop(load);
    kubectl(["delete", "pod", "resident", "-n", ns, "--wait=true"])?;
    let (fetched, in_memory) = (scene.proxy.bytes(), 2 * 8 * MIB);
    ensure!(
        fetched <= in_memory,
        "{fetched} bytes were fetched, though only {in_memory} were in memory"
    );
    Ok(())
}

/// What cannot be pinned is said in words, and heals.
fn refused(scene: &Scene<'_>, region: &str) -> Result<()> {
    let ns = scene.ns;
    let said = |is: bool| {
        wait_for("the condition", MINUTE, || {
            let object = get("dataset", ns, "limited")?.context("the Dataset")?;
            let condition = condition(&object, "CachingRefused");
            let text = condition
                .as_ref()
                .map(|(.., message)| message.clone())
                .unwrap_or_default();
            let holds = condition.is_some_and(|(status, ..)| status == "True") == is;
            Ok(if holds { Ok(text) } else { Err(text) })
        })
    };
    apply(&yaml(
        scene,
        region,
        "limited",
        "{quota: {limit: 6Mi}, rules: [{path: big.bin, pin: true}]}",
    ))?;
    let text = said(true)?;
    ensure!(text.contains("\"big.bin\" is not pinned: it has 24 MiB"), "{text}");
    apply(&yaml(scene, region, "limited", "{quota: {limit: 6Mi}}"))?;
    said(false)?;
    Ok(())
}

/// The only cache node dies again and again.
fn killed_under_load(scene: &Scene<'_>, data: &Data) -> Result<()> {
    let ns = scene.ns;
    apply(&reader_pod(ns, "survivor", "n1", Some(data.name)))?;
    wait_pod_ready(ns, "survivor", MINUTE)?;
    let load = Load::on_pod(ns, "survivor", &data.sums, 3)?;
    for _ in 0..KILLS {
        load.goes_on(2 * MINUTE)?;
        crate::cache_node_killed::kill_cache_node(ns, "pool-0")?;
        // A new pod, so that the kubelet does not wait longer each time.
        kubectl([
            "delete",
            "pod",
            "pool-0",
            "-n",
            ns,
            "--grace-period=0",
            "--force",
            "--wait=false",
        ])?;
        wait_condition("pod", ns, "pool-0", ("Ready", "True"), MINUTE)?;
    }
    load.check(
        &format!("the cache node killed {KILLS} times"),
        2 * MINUTE,
        KILLED_BOUND,
    )?;
    drop(load);
    kubectl(["delete", "pod", "survivor", "-n", ns, "--wait=true"])?;
    Ok(())
}

fn of_pool(ns: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    metrics::of_pod(ns, "pool-0", 7072, name, labels)
}

/// One cache node with a tier of 8 MiB in memory, and disks beside it: names and capacities. Always where its disks are.
fn runtime(ns: &str, disks: &[(&str, &str)]) -> String {
    let disks = disks
        .iter()
        .map(|(name, capacity)| format!("  - {{name: {name}, medium: SSD, capacity: {capacity}}}\n"));
    format!(
        "apiVersion: penstock.io/v1alpha1
kind: CacheRuntime
metadata: {{name: pool, namespace: {ns}}}
spec:
  replicas: 1
  nodeSelector: {{kubernetes.io/hostname: n1}}
  tiers:
  - {{name: memory, medium: Memory, capacity: 8Mi, volume: EmptyDir}}
{}",
        disks.collect::<String>()
    )
}

fn yaml(scene: &Scene<'_>, region: &str, name: &str, cache: &str) -> String {
    let address: &SocketAddr = &scene.proxy.address;
    let dataset = dataset_yaml(scene.ns, name, address, region, "b", &format!("{name}/"));
    format!("{dataset}  cache: {cache}\n")
}
