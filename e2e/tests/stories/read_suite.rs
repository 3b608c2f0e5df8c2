//! The suite of read-only semantics (`read_suite.py`) on the volume of a pod.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use penstock_e2e::cluster::{kubectl, repository, run};
use penstock_e2e::dataset;
use penstock_e2e::load::root_of;
use penstock_e2e::node;

/// Writes what the suite looks for into the folder of a bucket: the sample data, a git repository, a file of tensors.
pub fn write(folder: &Path) -> Result<()> {
    dataset::write(folder, 60, 4 << 20)?;
    dataset::put(folder, "model.safetensors", &tensors()?)?;
    let at = folder.join("repository");
    fs::create_dir_all(&at)?;
    fs::write(at.join("file"), "content")?;
    for arguments in [
        &["init", "-q"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.com",
            "commit",
            "-q",
            "-m",
            "first",
        ],
        // A bucket has no empty folders, and what is packed has none.
        &["repack", "-q", "-a", "-d"],
    ] {
        run(Command::new("git").arg("-C").arg(&at).args(arguments))?;
    }
    // git wants the folder to be there, if empty; a bucket cannot say that.
    fs::write(at.join(".git/refs/tags/.keep"), "")?;
    Ok(())
}

/// Runs it on the volume at `/data` of a pod, which has this form; `folder` has what the volume shows.
pub fn check(namespace: &str, pod: &str, form: &str, folder: &Path) -> Result<()> {
    let tree = root_of(namespace, pod)?.join("data");
    let script = repository().join("e2e/tests/stories/read_suite.py");
    let passed = run(Command::new("python3").arg(script).arg(form).arg(folder).arg(tree));
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

/// Two tensors of numbers that say where they stand, as <https://github.com/huggingface/safetensors> lays them out.
fn tensors() -> Result<Vec<u8>> {
    const COUNT: usize = 100_000;
    let header = serde_json::json!({
        "a": {"dtype": "F32", "shape": [COUNT], "data_offsets": [0, 4 * COUNT]},
        "b": {"dtype": "F32", "shape": [COUNT], "data_offsets": [4 * COUNT, 8 * COUNT]},
    });
    let header = serde_json::to_vec(&header)?;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    for tensor in 0..2 {
        for at in 0..COUNT {
            bytes.extend_from_slice(&((tensor * 1000 + at) as f32).to_le_bytes());
        }
    }
    Ok(bytes)
}
