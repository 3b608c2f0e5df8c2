//! How far the kernel reads ahead on an image that is mounted from a regular file.
//!
//! The kernel names the backing device of such a mount by a number of its own (`/sys/class/bdi/erofs-7`), which nothing
//! else shows: it is the one that was not there before. The device number of the mount, by which other file systems are
//! found there, leads nowhere.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::limits::READ_AHEAD_KIB;

const BACKING_DEVICES: &str = "/sys/class/bdi";

/// Mounts an image by `mount` and sets its read-ahead.
///
/// # Errors
/// Those of `mount`. Where `/sys` is read-only the kernel's 128 KiB stay: reads are right, only slower.
pub fn mounted<E>(mount: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    // Two mounts at the same time would take each other's backing device for their own.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = backing_devices();
    mount()?;
    let set = before.and_then(|before| {
        backing_devices()?.difference(&before).try_for_each(|name| {
            let file = Path::new(BACKING_DEVICES).join(name).join("read_ahead_kb");
            std::fs::write(file, READ_AHEAD_KIB.to_string())
        })
    });
    if let Err(error) = set {
        tracing::info!(%error, "the kernel's default of read-ahead stays");
    }
    Ok(())
}

fn backing_devices() -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(BACKING_DEVICES)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(b"erofs-") {
            names.insert(name);
        }
    }
    Ok(names)
}
