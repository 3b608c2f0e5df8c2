//! The ways in which a pod gets a dataset, and what it is told when it asks for what it cannot have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{BUSYBOX, Namespace, apply, exec, form, get, kubectl, run, wait_condition, wait_pod_ready};
use penstock_e2e::dataset::{self, SUM_LINE, Sums, parse_sums};
use penstock_e2e::node;
use penstock_e2e::origin::S3Server;
use penstock_e2e::wait::wait_for;

use crate::first_line::{declare, expect_sums};
use crate::read_suite;

const MINUTE: Duration = Duration::from_secs(60);
const CLAIM: &str = "persistentVolumeClaim: {claimName: d}";
const INLINE: &str = "csi: {driver: csi.penstock.io, volumeAttributes: {dataset: d}}";

/// Claims of both access modes, inline volumes, subPath, init containers, Jobs, several users, many pods at once.
pub fn story() -> Result<()> {
    let namespace = Namespace::create("ways")?;
    let ns = &namespace.name;
    let origin = S3Server::rclone()?;
    let folder = origin.buckets().join("b");
    penstock_e2e::read_suite::write(&folder)?;
    let sums = dataset::sums(&folder)?;
    declare(ns, &origin, 1, "1Gi")?;
    read_write_many(ns)?;

    // Name, volume, mount, user.
    let ways = [
        ("claim", CLAIM, "mountPath: /data", 1000),
        (
            "claim-read-only",
            "persistentVolumeClaim: {claimName: d, readOnly: true}",
            "mountPath: /data",
            0,
        ),
        ("mount-read-only", CLAIM, "mountPath: /data, readOnly: true", 1000),
        (
            "many-writers",
            "persistentVolumeClaim: {claimName: rwx}",
            "mountPath: /data",
            1000,
        ),
        ("inline", INLINE, "mountPath: /data", 65534),
        (
            "inline-read-only",
            "csi: {driver: csi.penstock.io, readOnly: true, volumeAttributes: {dataset: d}}",
            "mountPath: /data",
            1000,
        ),
        ("sub-path", CLAIM, "mountPath: /data, subPath: train/class-001", 1000),
    ];
    // At once, as a job with many workers does it.
    for (name, volume, mount, user) in ways {
        apply(&pod(ns, name, volume, mount, user))?;
    }
    for (name, ..) in ways {
        wait_pod_ready(ns, name, MINUTE)?;
        let expected = if name == "sub-path" {
            below(&sums, "./train/class-001/")
        } else {
            sums.clone()
        };
        let read = exec(ns, name, SUM_LINE).with_context(|| name.to_owned())?;
        expect_sums(&parse_sums(&read), &expected).with_context(|| name.to_owned())?;
        for line in ["touch /data/new", "mkdir /data/new", "rm -r /data/*", "chmod 777 /data"] {
            let refused = exec(ns, name, line);
            let why = refused.err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(why.contains("Read-only file system"), "{name}: {line}: {why}");
        }
    }
    read_suite::check(ns, "claim", &form(), &folder)?;
    println!("  {} ways, each read {} files and wrote none", ways.len(), sums.len());
    job(ns, &sums)?;
    what_cannot_be_had(ns)?;
    namespace.finish(MINUTE)?;
    kubectl(["delete", "pv", "penstock-rwx"])?;
    node::nothing_left()
}

fn pod(ns: &str, name: &str, volume: &str, mount: &str, user: u32) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {ns}}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsUser: {user}}}
  containers:
  - name: c
    image: {BUSYBOX}
    command: [/bin/sh, -c, "while true; do sleep 3600; done"]
    volumeMounts: [{{name: data, {mount}}}]
  volumes: [{{name: data, {volume}}}]
"#
    )
}

/// A volume of one's own, made from what the operator wrote into its volume, with a claim that wants ReadWriteMany.
fn read_write_many(ns: &str) -> Result<()> {
    let claim = get("pvc", ns, "d")?.context("the claim")?;
    let volume = claim["spec"]["volumeName"].as_str().context("its volume")?;
    let volume = get("pv", "", volume)?.context("the volume")?;
    let attributes = &volume["spec"]["csi"]["volumeAttributes"];
    apply(&format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: penstock-rwx}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ''
  csi: {{driver: csi.penstock.io, volumeHandle: mine, volumeAttributes: {attributes}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: rwx, namespace: {ns}}}
spec: {{accessModes: [ReadWriteMany], storageClassName: '', volumeName: penstock-rwx, resources: {{requests: {{storage: 1Gi}}}}}}
"
    ))
}

fn below(sums: &Sums, prefix: &str) -> Sums {
    let below = sums.iter().filter_map(|(path, sum)| {
        let rest = path.strip_prefix(prefix)?;
        Some((format!("./{rest}"), sum.clone()))
    });
    below.collect()
}

/// A Job whose init container and container read the dataset, on whatever nodes.
fn job(ns: &str, sums: &Sums) -> Result<()> {
    apply(&format!(
        r#"apiVersion: batch/v1
kind: Job
metadata: {{name: job, namespace: {ns}}}
spec:
  completions: 6
  parallelism: 6
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      securityContext: {{runAsUser: 1000}}
      initContainers:
      - {{name: i, image: {BUSYBOX}, command: [/bin/sh, -c, "cat /data/big.bin > /dev/null"], volumeMounts: [{{name: data, mountPath: /data}}]}}
      containers:
      - {{name: c, image: {BUSYBOX}, command: [/bin/sh, -c, "{SUM_LINE}"], volumeMounts: [{{name: data, mountPath: /data}}]}}
      volumes: [{{name: data, {CLAIM}}}]
"#
    ))?;
    wait_condition("job", ns, "job", ("Complete", "True"), MINUTE)?;
    for pod in kubectl(["get", "pods", "-n", ns, "-l", "job-name=job", "-o", "name"])?.lines() {
        expect_sums(&parse_sums(&kubectl(["logs", "-n", ns, pod, "-c", "c"])?), sums)?;
    }
    println!("  a Job of 6 pods with init containers read everything");
    Ok(())
}

/// Each pod that asks for the impossible has an event that says so.
fn what_cannot_be_had(ns: &str) -> Result<()> {
    let wishes = [
        (
            "no-dataset",
            "csi: {driver: csi.penstock.io, volumeAttributes: {dataset: nowhere}}",
            "there is no Dataset nowhere in namespace ways",
        ),
        (
            "elsewhere",
            "csi: {driver: csi.penstock.io, volumeAttributes: {dataset: d, namespace: other}}",
            r#"the volume attribute "namespace" is not known here"#,
        ),
        (
            "a-tier",
            "csi: {driver: csi.penstock.io, volumeAttributes: {cacheRuntime: pool, tier: ssd}}",
            "only pods of the CacheRuntime's own StatefulSet can",
        ),
        (
            "the-socket",
            "csi: {driver: csi.penstock.io, volumeAttributes: {keeper: socket}}",
            "it is for the mounter only",
        ),
    ];
    for (name, volume, _) in wishes {
        apply(&pod(ns, name, volume, "mountPath: /data", 1000))?;
    }
    for (name, _, sentence) in wishes {
        wait_for(&format!("an event of {name}"), MINUTE, || {
            let events = kubectl(["events", "-n", ns, "--for", &format!("pod/{name}")])?;
            Ok(if events.contains(sentence) { Ok(()) } else { Err(events) })
        })?;
    }
    let names = wishes.map(|(name, ..)| name);
    let mut delete = std::process::Command::new(penstock_e2e::cluster::repository().join("e2e/cluster/kubectl"));
    run(delete.args(["delete", "pod", "-n", ns, "--timeout=20s"]).args(names))?;
    Ok(())
}
