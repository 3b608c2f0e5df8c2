//! One error for everything that the kernel refuses: what was tried, where, why, and what to do.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The kernel refused something.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {errno}{}", .path.display(), advice(*.errno, .operation))]
pub struct MountError {
    /// What was tried, as a verb phrase.
    pub operation: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    pub errno: Errno,
}

impl MountError {
    pub(crate) fn new(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self { operation, path, errno }
    }

    pub(crate) fn of_io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self {
            operation,
            path,
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        }
    }
}

fn advice(errno: Errno, operation: &str) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => "; this needs root (CAP_SYS_ADMIN)",
        Errno::NODEV if operation.contains("EROFS") => {
            "; this kernel has no EROFS: load the module (modprobe erofs) or use a kernel with CONFIG_EROFS_FS"
        }
        Errno::NOTBLK => {
            "; EROFS images are mounted from files on ext4, xfs or btrfs with Linux 6.12 or newer: put the cache folder there"
        }
        Errno::BUSY => "; something still uses it: see `fuser -vm` on the path",
        _ => "",
    }
}
