//! Leaving: in the wrong order, and for good.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use penstock_e2e::cluster::{
    Namespace, SYSTEM_NAMESPACE, apply, helm, kubectl, reader_pod, wait_condition, wait_for_pods_gone, wait_gone,
    wait_pod_ready,
};
use penstock_e2e::dataset;
use penstock_e2e::manifests::runtime;
use penstock_e2e::origin::S3Server;

use crate::first_line::declare;

const MINUTE: Duration = Duration::from_secs(60);

/// CacheRuntime first, then the Dataset, then the pod: each waits for the next, says so, and ends when it is gone.
pub fn wrong_order() -> Result<()> {
    let namespace = Namespace::create("wrong-order")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    dataset::write(&origin.buckets().join("b"), 10, 1 << 20)?;
    declare(ns, &origin, 1, "1Gi")?;
    apply(&reader_pod(ns, "reader", "n1", Some("d")))?;
    wait_pod_ready(ns, "reader", MINUTE)?;

    kubectl(["delete", "cacheruntime", "pool", "-n", ns, "--wait=false"])?;
    let (_, message) = wait_condition("cacheruntime", ns, "pool", ("DeletionBlocked", "True"), MINUTE)?;
    ensure!(message.ends_with(": d"), "{message}");
    println!("  told: {message}");
    kubectl(["delete", "dataset", "d", "-n", ns, "--wait=false"])?;
    let (_, message) = wait_condition("dataset", ns, "d", ("DeletionBlocked", "True"), MINUTE)?;
    println!("  told: {message}");
    ensure!(message.contains("reader"), "{message}");
    let started = Instant::now();
    kubectl(["delete", "pod", "reader", "-n", ns])?;
    wait_gone("dataset", ns, "d", MINUTE)?;
    wait_gone("cacheruntime", ns, "pool", MINUTE)?;
    println!("  all gone {:.1} s after the pod", started.elapsed().as_secs_f32());
    namespace.finish(MINUTE)
}

/// Uninstalling first is stopped and names what is in use; afterwards it ends and leaves the CRDs alone.
pub fn uninstall() -> Result<()> {
    let namespace = Namespace::create("still-here")?;
    let ns = &namespace.name;
    apply(&runtime(ns, "pool", 1, "1Gi"))?;
    wait_condition("cacheruntime", ns, "pool", ("Ready", "True"), MINUTE)?;
    let refused = helm(["uninstall", "penstock", "-n", SYSTEM_NAMESPACE, "--timeout=60s"]);
    ensure!(
        refused.is_err(),
        "helm uninstall went through while a CacheRuntime lives"
    );
    let logs = kubectl([
        "logs",
        "-n",
        SYSTEM_NAMESPACE,
        "-l",
        "app.kubernetes.io/component=uninstall-check",
        "--tail=20",
    ])?;
    println!("  told: {}", logs.trim());
    ensure!(
        logs.contains("still-here/pool"),
        "the hook does not name what is in use: {logs}"
    );
    wait_condition("cacheruntime", ns, "pool", ("Ready", "True"), MINUTE)?;

    kubectl(["delete", "cacheruntime", "pool", "-n", ns])?;
    namespace.finish(MINUTE)?;
    let started = Instant::now();
    helm([
        "uninstall",
        "penstock",
        "-n",
        SYSTEM_NAMESPACE,
        "--wait",
        "--timeout=2m",
    ])?;
    wait_for_pods_gone(SYSTEM_NAMESPACE, MINUTE)?;
    println!("  helm uninstall: {:.1} s", started.elapsed().as_secs_f32());
    kubectl(["get", "crd", "datasets.penstock.io", "cacheruntimes.penstock.io"])?;
    ensure!(
        kubectl(["get", "pv", "-o", "name"])?.trim().is_empty(),
        "a PersistentVolume is left"
    );
    penstock_e2e::node::nothing_left()?;
    kubectl(["delete", "namespace", SYSTEM_NAMESPACE])?;
    Ok(())
}
