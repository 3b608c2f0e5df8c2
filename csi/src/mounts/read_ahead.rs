//! How far the kernel reads ahead on an image that is mounted from a regular file.
//!
//! The kernel names the backing device of such a mount by a number of its own (`/sys/class/bdi/erofs-7`), which nothing
//! else shows: it is the one that was not there before. The device number of the mount, by which other file systems are
//! found there, leads nowhere.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::limits::READ_AHEAD_KIB;

const BACKING_DEVICES: &str = "/sys/class/bdi";

/// The backing devices of all EROFS mounts of the machine.
///
/// # Errors
/// When `/sys` is not there.
pub fn backing_devices() -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(BACKING_DEVICES)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(b"erofs-") {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Sets the read-ahead of the backing devices that were not there `before`. Where that fails the kernel's 128 KiB stay:
/// reads are right, only slower.
pub fn set_of_new(before: io::Result<BTreeSet<OsString>>) {
    let set = before.and_then(|before| {
        backing_devices()?.difference(&before).try_for_each(|name| {
            let file = Path::new(BACKING_DEVICES).join(name).join("read_ahead_kb");
            std::fs::write(file, READ_AHEAD_KIB.to_string())
        })
    });
    if let Err(error) = set {
        tracing::warn!(%error, "the kernel's default of read-ahead stays");
    }
}
