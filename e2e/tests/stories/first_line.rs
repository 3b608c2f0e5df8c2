//! The first line through the whole product: a bucket, a Dataset, pods on two nodes, a refresh, and leaving.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, apply, exec, form, get, kubectl, reader_pod, wait_condition, wait_for_pods_gone, wait_gone,
    wait_pod_ready,
};
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::manifests::{dataset, runtime, secret};
use penstock_e2e::metrics;
use penstock_e2e::origin::{S3Server, free_address};
use penstock_e2e::wait::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
const NEARBY: &str = "penstock_mounter_nearby_bytes_total";
const BIG_BYTES: usize = 96 << 20;

/// Points 2 to 7 of the story that a user would tell.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("first-line")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let bucket = origin.buckets().join("photos");
    dataset::write(&bucket.join("set"), 600, BIG_BYTES)?;
    let sums = dataset::sums(&bucket.join("set"))?;
    let proxy = CountingProxy::start(free_address()?, origin.address)?;

    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", 2, "2Gi"))?;
    apply(&dataset(ns, "photos", &proxy.address, origin.region, "photos", "set/"))?;
    kubectl([
        "wait",
        "-n",
        ns,
        "--for=condition=Ready",
        "--timeout=90s",
        "dataset/photos",
    ])?;
    shows_what_people_look_for(ns, sums.len())?;

    two_nodes_read_each_byte_once(ns, &proxy, &sums, dataset::total_bytes(&bucket.join("set"))?)?;
    a_third_pod_costs_nothing(ns, &proxy, &sums)?;
    a_refresh_is_seen_by_new_pods_only(ns, &proxy, &bucket.join("set"), &sums)?;
    let before = dataset::sums(&bucket.join("set"))?;
    leaving_takes_seconds(ns)?;
    ensure!(dataset::sums(&bucket.join("set"))? == before, "the bucket was touched");
    namespace.finish(MINUTE)
}

fn shows_what_people_look_for(ns: &str, files: usize) -> Result<()> {
    let table = kubectl(["get", "dataset", "photos", "-n", ns])?;
    let (head, row) = table.split_once('\n').context("a table has two lines")?;
    for column in ["READY", "FILES", "SIZE", "CACHED", "AGE"] {
        ensure!(head.contains(column), "no column {column}:\n{table}");
    }
    ensure!(row.contains("True") && row.contains(&files.to_string()), "{table}");
    let claim = get("pvc", ns, "photos")?.context("the claim")?;
    ensure!(claim["status"]["phase"] == "Bound", "the claim is {}", claim["status"]);
    Ok(())
}

fn two_nodes_read_each_byte_once(ns: &str, proxy: &CountingProxy, sums: &Sums, bytes: u64) -> Result<()> {
    proxy.reset();
    for node in ["n1", "n2"] {
        apply(&reader_pod(ns, &format!("reader-{node}"), node, Some("photos")))?;
    }
    for node in ["n1", "n2"] {
        wait_pod_ready(ns, &format!("reader-{node}"), MINUTE)?;
    }
    // By what the kernel calls file systems without a device, loop devices, and images from files.
    let devices = match form().as_str() {
        "fuse" => "0:*",
        "loop" => "7:*",
        _ => "erofs-*",
    };
    let read_aheads = penstock_e2e::node::shell("n1", &format!("cat /sys/class/bdi/{devices}/read_ahead_kb"))?;
    ensure!(
        read_aheads.lines().any(|kib| kib == "1024"),
        "the kernel reads ahead on volumes by its default: {read_aheads} KiB"
    );
    let read = |pod: &'static str| {
        let ns = ns.to_owned();
        std::thread::spawn(move || exec(&ns, pod, SUM_LINE))
    };
    let nearby_before = metrics::of_mounters(NEARBY)?;
    let started = Instant::now();
    let readers = [read("reader-n1"), read("reader-n2")];
    for reader in readers {
        let text = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        expect_sums(&parse_sums(&text), sums)?;
    }
    println!(
        "  both nodes read {} files, {} MB: {:.1} s",
        sums.len(),
        bytes >> 20,
        started.elapsed().as_secs_f32()
    );
    let (served, repeated) = (proxy.bytes(), proxy.repeated());
    println!(
        "  bytes from the origin: {served} of {bytes}, {:.3}x; {:?}",
        served as f64 / bytes as f64,
        proxy.requests()
    );
    ensure!(
        repeated.is_empty() && served == bytes,
        "served {served} bytes of {bytes}; repeated: {repeated:?}"
    );
    let nearby = metrics::of_mounters(NEARBY)? - nearby_before;
    println!("  bytes from files of the cache node of the same node: {nearby}");
    ensure!(
        nearby > 0.0,
        "mounters read nothing from the files of the cache nodes beside them"
    );
    Ok(())
}

fn a_third_pod_costs_nothing(ns: &str, proxy: &CountingProxy, sums: &Sums) -> Result<()> {
    proxy.reset();
    let mut seconds = Vec::new();
    for (name, claim) in [
        ("plain", None),
        ("third", Some("photos")),
        ("plain-2", None),
        ("third-2", Some("photos")),
    ] {
        let started = Instant::now();
        apply(&reader_pod(ns, name, "n1", claim))?;
        wait_pod_ready(ns, name, MINUTE)?;
        seconds.push(started.elapsed().as_secs_f32());
    }
    println!(
        "  pod ready with emptyDir: {:.1} and {:.1} s; with the dataset in use on the node: {:.1} and {:.1} s",
        seconds[0], seconds[2], seconds[1], seconds[3]
    );
    let text = exec(ns, "third", SUM_LINE)?;
    expect_sums(&parse_sums(&text), sums)?;
    ensure!(
        proxy.bytes() == 0,
        "the origin served {} bytes for a dataset that is cached",
        proxy.bytes()
    );
    let refused = exec(ns, "third", "touch /data/new 2>&1; true")?;
    ensure!(
        refused.contains("Read-only file system"),
        "a write was answered by: {refused}"
    );
    Ok(())
}

fn a_refresh_is_seen_by_new_pods_only(
    ns: &str,
    proxy: &CountingProxy,
    source: &std::path::Path,
    old: &Sums,
) -> Result<()> {
    let before = get("dataset", ns, "photos")?.context("the dataset")?["status"]["revision"]["id"].clone();
    let overwritten = old
        .keys()
        .find(|path| path.contains("/train/"))
        .context("a file to overwrite")?
        .clone();
    let removed = old
        .keys()
        .rfind(|path| path.contains("/train/"))
        .context("a file to remove")?
        .clone();
    dataset::put(source, &overwritten, &dataset::content(4242, 123_456))?;
    dataset::put(source, "new/folder/added.bin", &dataset::content(4243, 70_000))?;
    std::fs::remove_file(source.join(&removed))?;
    let new = dataset::sums(source)?;

    proxy.reset();
    kubectl([
        "annotate",
        "dataset",
        "photos",
        "-n",
        ns,
        "--overwrite",
        "penstock.io/refresh=story",
    ])?;
    let started = Instant::now();
    wait_for("a new revision", MINUTE, || {
        let now = get("dataset", ns, "photos")?.context("the dataset")?["status"]["revision"]["id"].clone();
        Ok(if now == before {
            Err(format!("revision {now}"))
        } else {
            Ok(())
        })
    })?;
    println!("  refresh: {:.1} s", started.elapsed().as_secs_f32());
    apply(&reader_pod(ns, "newcomer", "n2", Some("photos")))?;
    wait_pod_ready(ns, "newcomer", MINUTE)?;
    expect_sums(&parse_sums(&exec(ns, "newcomer", SUM_LINE)?), &new).context("a new pod sees the new tree")?;
    expect_sums(&parse_sums(&exec(ns, "reader-n2", SUM_LINE)?), old).context("an old pod keeps the old tree")?;
    let fetched = proxy.bytes();
    ensure!(
        fetched == 123_456 + 70_000,
        "after the refresh {fetched} bytes were fetched instead of the two new objects"
    );
    Ok(())
}

fn leaving_takes_seconds(ns: &str) -> Result<()> {
    let started = Instant::now();
    let volume = get("pvc", ns, "photos")?.context("the claim")?["spec"]["volumeName"]
        .as_str()
        .unwrap_or("")
        .to_owned();
    kubectl(["delete", "pods", "-n", ns, "-l", "app", "--wait=false"])?;
    kubectl(["delete", "dataset", "photos", "-n", ns, "--wait=false"])?;
    kubectl(["delete", "cacheruntime", "pool", "-n", ns, "--wait=false"])?;
    wait_gone("dataset", ns, "photos", MINUTE)?;
    wait_gone("cacheruntime", ns, "pool", MINUTE)?;
    wait_gone("pv", "", &volume, MINUTE)?;
    wait_for_pods_gone(ns, MINUTE)?;
    println!("  everything deleted: {:.1} s", started.elapsed().as_secs_f32());
    penstock_e2e::node::nothing_left()
}

/// Fails with the differences when two sets of checksums differ.
pub fn expect_sums(got: &Sums, expected: &Sums) -> Result<()> {
    let missing: Vec<_> = expected
        .keys()
        .filter(|path| !got.contains_key(*path))
        .take(5)
        .collect();
    let extra: Vec<_> = got
        .keys()
        .filter(|path| !expected.contains_key(*path))
        .take(5)
        .collect();
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(path, sum)| got.get(*path).is_some_and(|g| g != *sum))
        .take(5)
        .collect();
    ensure!(
        missing.is_empty() && extra.is_empty() && wrong.is_empty(),
        "{} files instead of {}; missing {missing:?}; not expected {extra:?}; wrong bytes {wrong:?}",
        got.len(),
        expected.len()
    );
    Ok(())
}

/// Waits for the Ready condition of a dataset; used by the other stories too.
/// A CacheRuntime of so many nodes and the Dataset `d` of the bucket `b`, which is ready then.
pub fn declare(ns: &str, origin: &S3Server, replicas: u32, capacity: &str) -> Result<()> {
    apply(&secret(ns))?;
    apply(&runtime(ns, "pool", replicas, capacity))?;
    apply(&dataset(ns, "d", &origin.address, origin.region, "b", ""))?;
    wait_ready(ns, "d").map(drop)
}

pub fn wait_ready(ns: &str, name: &str) -> Result<(String, String)> {
    wait_condition("dataset", ns, name, ("Ready", "True"), MINUTE)
}
