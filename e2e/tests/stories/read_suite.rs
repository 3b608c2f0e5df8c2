//! The suite of read-only semantics (`read_suite.py`) on the volume of a pod.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{kubectl, run};
use penstock_e2e::load::root_of;
use penstock_e2e::{node, read_suite};

/// Runs it on the volume at `/data` of a pod, which has this form; `folder` has what the volume shows.
pub fn check(namespace: &str, pod: &str, form: &str, folder: &Path) -> Result<()> {
    let tree = root_of(namespace, pod)?.join("data");
    let passed = run(&mut read_suite::command(form, folder, &tree));
    let passed = passed.with_context(|| format!("the suite of read-only semantics in {pod}"))?;
    git(namespace, pod)?;
    println!(
        "  read suite: {}, git",
        passed.replace("ok ", "").trim().replace('\n', ", ")
    );
    Ok(())
}

/// git wants to know where it is, so it runs on the node, where the volume has a path.
fn git(namespace: &str, pod: &str) -> Result<()> {
    let field = |path: &str| {
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
    let (node, uid) = (field(".spec.nodeName")?, field(".metadata.uid")?);
    // Modes are not kept by a bucket.
    let git = format!(
        "GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' -c core.fileMode=false \
         -C /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/*/mount/repository"
    );
    let status = node::shell(&node, &format!("{git} status --porcelain"))?;
    ensure!(status.is_empty(), "git status: {status}");
    let log = node::shell(&node, &format!("{git} log --format=%s"))?;
    ensure!(log.trim() == "first", "git log: {log}");
    node::shell(&node, &format!("{git} fsck --strict")).map(drop)
}
