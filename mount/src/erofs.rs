//! EROFS images, mounted from a regular file over device files.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::MountError;

/// Its type in the mount table.
pub const TYPE: &str = "erofs";

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
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOSYMFOLLOW;
    rustix::mount::mount(image, target, TYPE, flags, options).map_err(refused)
}
