//! What a person sees on the nodes themselves.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::{kubectl, repository, run};
use crate::wait::wait_for;

/// The names of the nodes.
pub const NODES: [&str; 2] = ["n1", "n2"];

/// Runs a shell line on a node, as root on that machine.
///
/// # Errors
/// When it fails.
pub fn shell(node: &str, line: &str) -> Result<String> {
    run(Command::new(repository().join("e2e/cluster/node")).args([node, "exec", "/bin/sh", "-c", line]))
}

/// SIGKILL to every process of a program on a node.
///
/// # Errors
/// When there is none.
pub fn kill(node: &str, program: &str) -> Result<()> {
    signal(node, "KILL", program)
}

/// SIGKILL to every process of a program on a node, as soon as there is one: its supervisor may be pausing before it starts it
/// again.
///
/// # Errors
/// When none appears.
pub fn kill_when_there(node: &str, program: &str) -> Result<()> {
    wait_for(
        &format!("a process of {program} to kill"),
        Duration::from_secs(10),
        || Ok(kill(node, program).map_err(|error| error.to_string())),
    )
}

/// A signal to every process of a program on a node.
///
/// # Errors
/// When there is none.
pub fn signal(node: &str, signal: &str, program: &str) -> Result<()> {
    // The brackets keep the line itself from being found.
    let (first, rest) = program.split_at(1);
    shell(node, &format!("pkill -{signal} -f '^[{first}]{rest}'")).map(drop)
}

/// A pod whose processes are to be killed, with all that is asked of the API server before.
pub struct Victim {
    node: String,
    pod: String,
    uid: String,
}

impl Victim {
    /// A pod that is on a node.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(namespace: &str, pod: &str) -> Result<Self> {
        let told = |path: &str| {
            kubectl([
                "get",
                "pod",
                pod,
                "-n",
                namespace,
                "-o",
                &format!("jsonpath={{{path}}}"),
            ])
        };
        Ok(Self {
            node: told(".spec.nodeName")?,
            uid: told(".metadata.uid")?,
            pod: pod.to_owned(),
        })
    }

    /// SIGKILL to every process of a program in it.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, program: &str) -> Result<()> {
        let Self { node, pod, uid } = self;
        // The pod's own processes are those in its memory cgroup.
        let line = format!(
            "for p in $(pgrep -f {program}); do grep -q {uid} /proc/$p/cgroup && kill -9 $p && echo killed; done; true"
        );
        let out = shell(node, &line)?;
        ensure!(out.contains("killed"), "no process {program} of {pod} on {node}");
        Ok(())
    }
}

/// The arguments of every process of every pod of a node, a line each.
///
/// # Errors
/// When the node does not answer.
pub fn arguments_of_pods(node: &str) -> Result<String> {
    shell(
        node,
        "for p in /proc/[0-9]*; do \
             grep -q kubepods $p/cgroup 2>/dev/null && tr '\\0\\n' '  ' <$p/cmdline 2>/dev/null && echo; \
         done; true",
    )
}

/// Fills the memory of the container of a program until the kernel kills what it finds there.
///
/// # Errors
/// When no container has such a process, or it lives on.
pub fn run_out_of_memory(node: &str, program: &str) -> Result<()> {
    let (first, rest) = program.split_at(1);
    // A limit a little above what is used, and somebody who wants more, who is killed next. The container may be gone then.
    let victim = shell(
        node,
        &format!(
            r#"set -e
            victim=$(pgrep -o -f '^[{first}]{rest}')
            group=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/$victim/cgroup)
            echo 1000 >/proc/$victim/oom_score_adj
            echo $(($(cat $group/memory.usage_in_bytes) + 4194304)) >$group/memory.limit_in_bytes
            sh -c "echo \$\$ >$group/cgroup.procs && exec dd if=/dev/zero of=/dev/null bs=64M count=1" >/dev/null 2>&1 || true
            {{ echo -1 >$group/memory.limit_in_bytes; }} 2>/dev/null || true
            echo $victim"#
        ),
    )?;
    wait_for(&format!("the end of {program}"), Duration::from_secs(10), || {
        let state = shell(
            node,
            &format!("kill -0 {} 2>/dev/null && echo it lives; true", victim.trim()),
        )?;
        Ok(if state.is_empty() { Ok(()) } else { Err(state) })
    })
}

/// Fails when a node still has a mount of a dataset, a FUSE connection or the folder of a tier, after the kubelet had its
/// time: a pod without a grace period is gone from the API before it is gone from the node.
///
/// # Errors
/// Names what is left.
pub fn nothing_left() -> Result<()> {
    for node in NODES {
        wait_for(&format!("{node} to be clean"), Duration::from_secs(30), || {
            let left = shell(
                node,
                // FUSE is mounted where only the process of csi sees it.
                "grep -E ' /var/lib/.* - (erofs|fuse.penstock) ' /proc/self/mountinfo | cut -c1-200; \
                 for csi in $(pgrep -x penstock-csi); do \
                     grep -F ' - fuse.penstock ' /proc/$csi/mountinfo | cut -c1-200; \
                 done; \
                 ls -d /var/lib/penstock/tiers/* /var/lib/penstock/revisions/* 2>/dev/null; true",
            )?;
            Ok(if left.trim().is_empty() { Ok(()) } else { Err(left) })
        })?;
    }
    Ok(())
}

/// What `e2e/cluster/node NAME …` can do to a node: `kill`, `start`, `restart COMPONENT`, `link down`, `link up`.
///
/// # Errors
/// When it fails.
pub fn control(node: &str, what: &[&str]) -> Result<()> {
    run(Command::new(repository().join("e2e/cluster/node")).arg(node).args(what)).map(drop)
}
