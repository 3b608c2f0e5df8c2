//! Bind mounts and unmounting.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::MountError;

/// Whether a bind can be written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes fail with EROFS.
    ReadOnly,
    /// As the source allows.
    ReadWrite,
}

/// Shows what is at `source` at `target` too, `nosuid,nodev,nosymfollow`.
///
/// # Errors
/// When the kernel refuses; nothing is left mounted then.
pub fn bind(source: &Path, target: &Path, access: Access) -> Result<(), MountError> {
    rustix::mount::mount_bind(source, target).map_err(MountError::new("bind at", target))?;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOSYMFOLLOW;
    if access == Access::ReadOnly {
        flags |= MountFlags::RDONLY;
    }
    // The flags of a bind can only be set by a second call.
    rustix::mount::mount_remount(target, flags, "").map_err(|errno| {
        let _ = detach(target);
        MountError::new("restrict the bind at", target)(errno)
    })
}

/// Unmounts everything that is mounted at `target`, however often. Nothing mounted there is fine.
///
/// # Errors
/// EBUSY while something uses it.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    unmount_all(target, UnmountFlags::NOFOLLOW)
}

/// As [`unmount`], but never busy: what still uses it goes on and the mount ends with its last user.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(target: &Path) -> Result<(), MountError> {
    unmount_all(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

fn unmount_all(target: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    loop {
        match rustix::mount::unmount(target, flags) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(MountError::new("unmount", target)(errno)),
        }
    }
}
