//! What a person sees on the nodes themselves.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::cluster::{repository, run};

/// The names of the nodes.
pub const NODES: [&str; 2] = ["n1", "n2"];

/// Runs a shell line on a node, as root on that machine.
///
/// # Errors
/// When it fails.
pub fn shell(node: &str, line: &str) -> Result<String> {
    run(Command::new(repository().join("e2e/cluster/node")).args([node, "exec", "/bin/sh", "-c", line]))
}

/// Fails when a node still has a mount of a dataset or a tier's folder.
///
/// # Errors
/// Names what is left.
pub fn nothing_left() -> Result<()> {
    for node in NODES {
        let mounts = shell(
            node,
            "grep -E ' - erofs | - fuse.penstock ' /proc/self/mountinfo || true",
        )?;
        ensure!(mounts.is_empty(), "{node} still has mounts:\n{mounts}");
        let folders = shell(
            node,
            "ls /var/lib/penstock/tiers /var/lib/penstock/revisions 2>/dev/null | grep -v : || true",
        )?;
        ensure!(folders.trim().is_empty(), "{node} still has folders:\n{folders}");
    }
    Ok(())
}
