//! EROFS images, mounted from a regular file over device files.

use std::path::Path;

use rustix::fs::{major, minor, stat};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::MountError;

/// Mounts the image in the file `image` at `target`, read-only, over `devices` (the device files of its table, in order).
///
/// Needs Linux 6.12 or newer, and a file on ext4, xfs or btrfs.
///
/// # Errors
/// When the kernel refuses; the advice is part of the text.
pub fn mount(image: &Path, target: &Path, devices: &[impl AsRef<Path>]) -> Result<(), MountError> {
    let refused = MountError::new("mount EROFS at", target);
    let mut options = Vec::new();
    for device in devices {
        let device = device.as_ref().as_os_str().as_encoded_bytes();
        if device.contains(&b',') || device.contains(&0) {
            return Err(refused(Errno::INVAL));
        }
        options.extend_from_slice(if options.is_empty() { b"device=" } else { b",device=" });
        options.extend_from_slice(device);
    }
    options.push(0);
    let options = std::ffi::CStr::from_bytes_with_nul(&options).ok();
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(image, target, "erofs", flags, options).map_err(refused)
}

/// Sets how far the kernel reads ahead on the file system at `target`, in KiB.
///
/// # Errors
/// When `/sys` is read-only or has no such file system.
pub fn set_read_ahead_kib(target: &Path, kib: u32) -> Result<(), MountError> {
    let device = stat(target).map_err(MountError::new("look at", target))?.st_dev;
    let file = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
    std::fs::write(&file, kib.to_string()).map_err(MountError::of_io("set the read-ahead by", Path::new(&file)))
}
