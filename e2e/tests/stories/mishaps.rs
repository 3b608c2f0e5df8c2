//! What else happens to a node: processes that hang, parts of Kubernetes that restart, power failures.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use penstock_e2e::cluster::{SYSTEM_NAMESPACE, apply, exec, kubectl, reader_pod, wait_gone, wait_pod_ready};
use penstock_e2e::dataset::{SUM_LINE, parse_sums};
use penstock_e2e::node;
use penstock_e2e::wait::wait_for;

use crate::first_line::expect_sums;
use crate::replaced::{MINUTE, Scene, WORKER_BOUND, pod_of};

/// A mounter that hangs is killed by its supervisor after 10 s.
const HANG_BOUND: Duration = Duration::from_secs(14);

/// SIGSTOP to the mounter; restarts of kubelet and containerd; cache nodes that are away for a while.
pub fn hangs_and_restarts() -> Result<()> {
    let scene = Scene::new("mishaps")?;
    let seen = doctor()?;
    println!("  penstock doctor:\n    {}", seen.trim().replace('\n', "\n    "));
    ensure!(
        seen.contains("a mounter is connected: answering, complete") && seen.contains("held here and served"),
        "{seen}"
    );
    node::signal("n1", "STOP", "/bin/penstock-mounter")?;
    scene.check("SIGSTOP to the mounter", HANG_BOUND)?;
    for component in ["kubelet", "containerd"] {
        node::control("n1", &["restart", component])?;
        scene.check(&format!("{component} restarted"), WORKER_BOUND)?;
    }
    let away = MINUTE;
    for node in node::NODES {
        node::signal(node, "STOP", "/bin/penstock-cache-node")?;
    }
    // Time passes while they are away: that is what is tried.
    std::thread::sleep(away);
    for node in node::NODES {
        node::signal(node, "CONT", "/bin/penstock-cache-node")?;
    }
    scene.check(&format!("cache nodes away for {away:?}"), away + Duration::from_secs(5))?;
    scene.finish()
}

/// What a person types to see what is wrong on a node.
fn doctor() -> Result<String> {
    let pod = pod_of("n1", "csi")?;
    kubectl(["exec", "-n", SYSTEM_NAMESPACE, &pod, "--", "/bin/penstock", "doctor"])
}

/// Pods end in seconds though nobody answers the reads that they wait for: mounter and cache nodes stopped, origin gone.
pub fn deletion_with_everything_dead() -> Result<()> {
    let mut scene = Scene::new("all-dead")?;
    let ns = scene.namespace.name.clone();
    apply(&reader_pod(&ns, "second", "n1", Some("d")))?;
    wait_pod_ready(&ns, "second", MINUTE)?;
    scene.stop_load();
    let stopped = [
        "/bin/penstock-supervisor /bin/penstock-mounter",
        "/bin/penstock-mounter",
    ];
    for program in stopped {
        node::signal("n1", "STOP", program)?;
    }
    for node in node::NODES {
        node::signal(node, "STOP", "/bin/penstock-cache-node")?;
    }
    scene.end_origin();
    // Readers in the pods, which wait in the kernel.
    node::shell("n1", "echo 1 > /proc/sys/vm/drop_caches")?;
    let readers = ["reader", "second"].map(|pod| {
        let ns = ns.clone();
        std::thread::spawn(move || exec(&ns, pod, "cat /data/big.bin > /dev/null"))
    });
    wait_for("readers that wait", MINUTE, || {
        // The letter of their state: D waits for a disk, which is ours.
        let states = node::shell("n1", "ps -o stat= -p \"$(pgrep -d, -f '^cat /data/big')\"; true")?;
        let waiting = states.lines().filter(|state| state.starts_with('D')).count();
        Ok(if waiting == 2 { Ok(()) } else { Err(states) })
    })?;
    for pod in ["reader", "second"] {
        let started = Instant::now();
        kubectl(["delete", "pod", pod, "-n", &ns, "--wait=false"])?;
        wait_gone("pod", &ns, pod, Duration::from_secs(20))?;
        println!(
            "  {pod} was gone {:.1} s after its deletion",
            started.elapsed().as_secs_f32()
        );
    }
    for reader in readers {
        let read = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?;
        ensure!(read.is_err(), "a reader in a pod that was deleted ended well");
    }
    for program in stopped {
        node::signal("n1", "CONT", program)?;
    }
    for node in node::NODES {
        node::signal(node, "CONT", "/bin/penstock-cache-node")?;
    }
    scene.leave()
}

/// A power failure of the node, and the boot after it: the pod comes back with its volume.
pub fn reboot() -> Result<()> {
    let mut scene = Scene::new("rebooted")?;
    let ns = scene.namespace.name.clone();
    scene.stop_load();
    node::control("n1", &["kill"])?;
    node::control("n1", &["start"])?;
    let started = Instant::now();
    wait_for("the pod to be started again", Duration::from_secs(90), || {
        let restarts = kubectl([
            "get",
            "pod",
            "reader",
            "-n",
            &ns,
            "-o",
            "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}",
        ])?;
        Ok(if restarts.trim() == "1 true" {
            Ok(())
        } else {
            Err(restarts)
        })
    })?;
    println!(
        "  the pod ran again {:.1} s after the boot",
        started.elapsed().as_secs_f32()
    );
    expect_sums(&parse_sums(&exec(&ns, "reader", SUM_LINE)?), &scene.sums)?;
    scene.finish()
}
