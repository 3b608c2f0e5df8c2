//! How far the kernel reads ahead on an image that is mounted from a regular file.
//!
//! The kernel names the backing device of such a mount by a number of its own (`erofs-7`), which nothing else shows: it is the
//! one that was not there before. The device number of the mount, by which other file systems are found there, leads nowhere.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

const BACKING_DEVICES: &str = "/sys/class/bdi";

/// Mounts an image by `mount` and sets how many KiB the kernel reads ahead on it. Another image that is mounted at the same
/// moment gets the same value.
///
/// # Errors
/// Those of `mount`. Where `/sys` is read-only the kernel's 128 KiB stay: reads are right, only slower.
pub fn mounted<E>(kib: u32, mount: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let before = of_images();
    mount()?;
    let set = before.and_then(|before| {
        of_images()?.difference(&before).try_for_each(|name| {
            let file = Path::new(BACKING_DEVICES).join(name).join("read_ahead_kb");
            std::fs::write(file, kib.to_string())
        })
    });
    if let Err(error) = set {
        tracing::warn!(%error, "the kernel's default of read-ahead stays");
    }
    Ok(())
}

fn of_images() -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(BACKING_DEVICES)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(b"erofs-") {
            names.insert(name);
        }
    }
    Ok(names)
}
