//! The process's own mount namespace, in which the FUSE mounts are private: nobody else on the node sees a file system
//! that stops answering when its mounter does. The kubelet's folder stays shared with the node.
#![allow(
    unsafe_code,
    reason = "unshare(2) is unsafe when descriptor tables are unshared, which they are not here"
)]

use std::io;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Takes a mount namespace of its own for the process, and makes mounts below `private` invisible to everybody else. Call
/// it before any thread is started: threads that run already stay where they are.
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn enter(private: &Path) -> io::Result<()> {
    // SAFETY: only the mount namespace is unshared; no descriptor changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let mounts = penstock_mount::table::read()?;
    let private = private.canonicalize()?;
    let around = mounts
        .iter()
        .filter(|mount| private.starts_with(&mount.target))
        .max_by_key(|mount| mount.target.as_os_str().len());
    if let Some(mount) = around {
        // Of our copy of that mount; the container's and the node's are left as they are.
        mount_change(&mount.target, MountPropagationFlags::PRIVATE)?;
    }
    Ok(())
}
