//! Everything of ours on a node is killed, deleted and replaced under pods that verify every byte they read.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{
    Namespace, SYSTEM_NAMESPACE, apply, exec, helm, kubectl, reader_pod, repository, wait_pod_ready,
};
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::load::Load;
use penstock_e2e::node;
use penstock_e2e::origin::S3Server;
use penstock_e2e::wait::wait_for;
use rand::Rng;

use crate::first_line::{declare, expect_sums};
use crate::read_suite;

pub const MINUTE: Duration = Duration::from_secs(60);
/// Longest pause that a killed worker may cost.
pub const WORKER_BOUND: Duration = Duration::from_secs(2);
/// Longest pause that a container or a pod that is made anew may cost.
const POD_BOUND: Duration = Duration::from_secs(10);
const PARTS: [&str; 2] = ["mounter", "csi"];

/// A dataset that a pod on n1 reads all the time, cold.
pub struct Scene {
    pub namespace: Namespace,
    pub sums: Sums,
    load: Option<Load>,
    origin: Option<S3Server>,
}

impl Scene {
    pub fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::create(name)?;
        let ns = &namespace.name;
        let origin = S3Server::rclone()?;
        let folder = origin.buckets().join("b");
        penstock_e2e::read_suite::write(&folder)?;
        let sums = dataset::sums(&folder)?;
        declare(ns, &origin, 2, "1Gi")?;
        apply(&reader_pod(ns, "reader", "n1", Some("d")))?;
        wait_pod_ready(ns, "reader", MINUTE)?;
        let load = Load::on_pod(ns, "reader", &sums, 3)?;
        load.goes_on(MINUTE)?;
        load.take();
        Ok(Self {
            namespace,
            sums,
            load: Some(load),
            origin: Some(origin),
        })
    }

    /// Waits until everything behind the readers is behind them, and checks what they saw.
    pub fn check(&self, what: &str, bound: Duration) -> Result<()> {
        self.load()?.check(what, MINUTE, bound)
    }

    fn load(&self) -> Result<&Load> {
        self.load.as_ref().context("the load was stopped")
    }

    /// Nobody reads any more.
    pub fn stop_load(&mut self) {
        self.load = None;
    }

    /// What the volume shows.
    fn bucket(&self) -> Result<PathBuf> {
        let origin = self.origin.as_ref().context("the bucket's server has ended")?;
        Ok(origin.buckets().join("b"))
    }

    /// The bucket's server ends.
    pub fn end_origin(&mut self) {
        self.origin = None;
    }

    /// A new pod of the dataset starts on the node, and everything goes.
    pub fn finish(self) -> Result<()> {
        let ns = &self.namespace.name;
        apply(&reader_pod(ns, "new", "n1", Some("d")))?;
        wait_pod_ready(ns, "new", MINUTE)?;
        self.leave()
    }

    /// Everything goes.
    pub fn leave(self) -> Result<()> {
        drop(self.load);
        self.namespace.finish(MINUTE)
    }
}

/// kill -9 of the workers, one or both, at random moments.
pub fn workers() -> Result<()> {
    let rounds = if std::env::var_os("PENSTOCK_LONG").is_some() {
        100
    } else {
        10
    };
    let scene = Scene::new("workers-killed")?;
    kill_workers("n1", rounds, scene.load()?)?;
    scene.check(&format!("{rounds} rounds of kill -9 of workers"), WORKER_BOUND)?;
    scene.finish()
}

fn kill_workers(node: &str, rounds: usize, load: &Load) -> Result<()> {
    for round in 0..rounds {
        let victims = match round % 3 {
            0 => &PARTS[..1],
            1 => &PARTS[1..],
            _ => &PARTS[..],
        };
        for part in victims {
            // The moment is what is tried.
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..500)));
            node::kill_when_there(node, &format!("/bin/penstock-{part}"))?;
        }
        load.goes_on(MINUTE)?;
    }
    Ok(())
}

/// The containers and the pods are made anew.
pub fn pods() -> Result<()> {
    let scene = Scene::new("pods-replaced")?;
    for part in PARTS {
        make_anew("n1", part, scene.load()?)?;
    }
    scene.finish()
}

/// Container and pod of a part are killed and deleted, under a load.
fn make_anew(node: &str, part: &str, load: &Load) -> Result<()> {
    let before = pod_of(node, part)?;
    node::kill(node, &format!("/bin/penstock-supervisor /bin/penstock-{part}"))?;
    load.check(&format!("the container of {part} killed"), MINUTE, POD_BOUND)?;
    wait_complete(node, part)?;
    kubectl(["delete", "pod", &before, "-n", SYSTEM_NAMESPACE, "--wait=false"])?;
    wait_for(&format!("another pod of {part}"), MINUTE, || {
        let now = pod_of(node, part)?;
        Ok(if now != before && !now.is_empty() {
            Ok(())
        } else {
            Err(now)
        })
    })?;
    wait_complete(node, part)?;
    load.check(&format!("the pod of {part} deleted"), MINUTE, POD_BOUND)?;
    node::run_out_of_memory(node, &format!("/bin/penstock-{part}"))?;
    wait_complete(node, part)?;
    load.check(&format!("{part} out of memory"), MINUTE, POD_BOUND)
}

/// `helm upgrade` to other pods of both DaemonSets with another form of volumes, twice, under the load of a pod of before, and
/// a rollback. In each form a pod reads all, runs the read suite, and has its mounter and csi killed and replaced.
pub fn upgrade() -> Result<()> {
    let scene = Scene::new("upgraded")?;
    let ns = &scene.namespace.name;
    for form in ["loop", "fuse"] {
        let started = Instant::now();
        upgrade_to(form)?;
        // Kernels that need loop devices cannot resend either.
        let has_ledger = form == "loop";
        if has_ledger {
            set_resend("PENSTOCK_RESEND=off")?;
        }
        println!("  helm upgrade --wait: {:.1} s", started.elapsed().as_secs_f32());
        scene.check("the upgrade", WORKER_BOUND)?;
        // What is mounted stays as it is; on a node where nothing is mounted it is done in the new form.
        let pod = format!("in-form-{form}");
        apply(&reader_pod(ns, &pod, "n2", Some("d")))?;
        wait_pod_ready(ns, &pod, MINUTE)?;
        expect_sums(&parse_sums(&exec(ns, &pod, SUM_LINE)?), &scene.sums)?;
        let mounts = exec(ns, &pod, "grep /data /proc/mounts")?;
        let is_so = match form {
            "loop" => mounts.contains("/loop"),
            _ => mounts.contains("fuse.penstock"),
        };
        ensure!(is_so, "not in the form {form}: {mounts}");
        let ledgers = "ls -l /proc/$(pgrep -of '^[/]bin/penstock-mounter')/fd | grep -c memfd:ledger; true";
        let ledgers = node::shell("n2", ledgers)?;
        ensure!((ledgers.trim() != "0") == has_ledger, "{form}: {ledgers} ledgers");
        read_suite::check(ns, &pod, form, &scene.bucket()?)?;

        let load = Load::on_pod(ns, &pod, &scene.sums, 3)?;
        load.check(&format!("{form}: the load begins"), MINUTE, MINUTE)?;
        kill_workers("n2", 6, &load)?;
        load.check(&format!("{form}: 6 rounds of kill -9 of workers"), MINUTE, WORKER_BOUND)?;
        for part in PARTS {
            make_anew("n2", part, &load)?;
        }
        drop(load);
        kubectl(["delete", "pod", &pod, "-n", ns])?;
        if has_ledger {
            set_resend("PENSTOCK_RESEND-")?;
        }
    }
    helm([
        "rollback",
        "penstock",
        "1",
        "-n",
        SYSTEM_NAMESPACE,
        "--wait",
        "--timeout=3m",
    ])?;
    scene.check("the rollback", WORKER_BOUND)?;
    scene.finish()
}

/// Sets the switch of csi for tests, and waits until its pods have it.
fn set_resend(value: &str) -> Result<()> {
    let csi = "daemonset/penstock-csi";
    kubectl(["set", "env", csi, value, "-n", SYSTEM_NAMESPACE])?;
    kubectl(["rollout", "status", csi, "--timeout=2m", "-n", SYSTEM_NAMESPACE]).map(drop)
}

fn upgrade_to(form: &str) -> Result<()> {
    let chart = repository().join("charts/penstock");
    let chart = chart.to_str().context("the repository's path is UTF-8")?;
    let values = format!("log=warn,csi.form={form}");
    let flags = ["--reuse-values", "--wait", "--timeout=3m", "--set", &values];
    helm(
        ["upgrade", "penstock", chart, "-n", SYSTEM_NAMESPACE]
            .into_iter()
            .chain(flags),
    )
    .map(drop)
}

/// The pod of a part on a node that is not about to end.
pub fn pod_of(node: &str, part: &str) -> Result<String> {
    let pods = kubectl([
        "get",
        "pods",
        "-n",
        SYSTEM_NAMESPACE,
        "-l",
        &format!("app.kubernetes.io/component={part}"),
        &format!("--field-selector=spec.nodeName={node}"),
        "-o",
        r#"jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.deletionTimestamp}{"\n"}{end}"#,
    ])?;
    let pods: Vec<_> = pods.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    ensure!(pods.len() <= 2, "{pods:?}");
    let living = pods
        .iter()
        .find(|pod| pod.get(1).is_none_or(|deleted| deleted.is_empty()));
    Ok(living.map(|pod| pod[0].to_owned()).unwrap_or_default())
}

/// Waits until the pod of a part on a node is ready: it holds everything then.
fn wait_complete(node: &str, part: &str) -> Result<()> {
    let pod = pod_of(node, part)?;
    wait_pod_ready(SYSTEM_NAMESPACE, &pod, MINUTE).map(drop)
}
