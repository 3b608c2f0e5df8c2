//! How far the kernel reads ahead on a file system without a block device.
//!
//! The kernel names the backing device of an image that is mounted from a regular file by a number of its own (`erofs-7`),
//! which nothing else shows: it is the one that was not there before. Others are found by the device number of their mount.
//!
//! Where `/sys` is read-only the kernel's 128 KiB stay: reads are right, only slower.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;

const BACKING_DEVICES: &str = "/sys/class/bdi";

/// Mounts an image by `mount` and sets how many KiB the kernel reads ahead on it. Another image that is mounted at the same
/// moment gets the same value.
///
/// # Errors
/// Those of `mount`.
pub fn mounted<E>(kib: u32, mount: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let before = of_images();
    mount()?;
    let set = before.and_then(|before| {
        of_images()?
            .difference(&before)
            .try_for_each(|name| write(Path::new(name), kib))
    });
    told(set);
    Ok(())
}

/// Sets how many KiB the kernel reads ahead on the file system with this device number.
pub fn of_device((major, minor): (u32, u32), kib: u32) {
    told(write(Path::new(&format!("{major}:{minor}")), kib));
}

fn write(name: &Path, kib: u32) -> io::Result<()> {
    std::fs::write(
        Path::new(BACKING_DEVICES).join(name).join("read_ahead_kb"),
        kib.to_string(),
    )
}

fn told(set: io::Result<()>) {
    if let Err(error) = set {
        tracing::warn!(%error, "the kernel's default of read-ahead stays");
    }
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
