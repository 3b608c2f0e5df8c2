//! FUSE connections: mounted here, served elsewhere.
#![allow(unsafe_code, reason = "cloning a connection is an ioctl that rustix does not have")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::MountError;

/// Its type in the mount table.
pub const TYPE: &str = "fuse.penstock";

/// Largest read that the kernel sends: the 256 pages of `fs.fuse.max_pages_limit`.
pub const READ_BYTES_MAX: usize = 1 << 20;

const DEVICE: &str = "/dev/fuse";
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Who looks into a FUSE file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// The kernel, which mounts an image over its files.
    Image,
    /// Everybody, by its modes; read-only.
    Readers,
}

/// Mounts a new FUSE file system at `target` and returns its connection; the mount table shows `source`. Nothing answers on it yet: the first request is
/// INIT.
///
/// # Errors
/// When the kernel refuses, for example without root.
pub fn mount(source: &Path, target: &Path, readers: For) -> Result<OwnedFd, MountError> {
    let connection = open()?;
    // Whoever serves it must not lead the kernel, or us, to other files (Linux 5.10).
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOSYMFOLLOW;
    let (more, flags) = match readers {
        For::Image => ("", flags | MountFlags::NOEXEC),
        For::Readers => (",default_permissions", flags | MountFlags::RDONLY),
    };
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={READ_BYTES_MAX}{more}\0",
        connection.as_raw_fd()
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).ok();
    rustix::mount::mount(source, target, TYPE, flags, options).map_err(MountError::new("mount FUSE at", target))?;
    Ok(connection)
}

/// Another descriptor of the same connection, with a queue of its own, so that several threads read requests without
/// taking turns. A request is answered on the descriptor that received it.
///
/// # Errors
/// When the kernel refuses, for example because the connection is gone.
pub fn clone(connection: &OwnedFd) -> Result<OwnedFd, MountError> {
    /// `_IOR(229, 0, uint32_t)` of include/uapi/linux/fuse.h.
    const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
    let clone = open()?;
    let original = connection.as_raw_fd() as u32;
    // SAFETY: the ioctl reads one u32, which outlives the call; both descriptors are open.
    let result = unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const original) };
    if result == 0 {
        return Ok(clone);
    }
    Err(MountError::of_io("clone a FUSE connection by", Path::new(DEVICE))(
        std::io::Error::last_os_error(),
    ))
}

/// Makes the kernel send again what was received on a connection and not answered, by whomever (Linux 6.9). What somebody
/// works at is sent again too: only who receives it again can answer it.
///
/// # Errors
/// When the kernel does not know the message.
pub fn resend(connection: &OwnedFd) -> std::io::Result<()> {
    /// `FUSE_NOTIFY_RESEND` of include/uapi/linux/fuse.h.
    const RESEND: i32 = 7;
    // A `fuse_out_header` alone: its length, the notification in place of an error, and no request that is answered.
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16u32.to_ne_bytes());
    message[4..8].copy_from_slice(&RESEND.to_ne_bytes());
    rustix::io::write(connection, &message)?;
    Ok(())
}

/// Whether this kernel knows [`resend`]: it says so in its first request on a connection. `folder` is an empty one, on which a
/// FUSE file system is mounted for that moment.
///
/// # Errors
/// When the kernel refuses the mount.
pub fn resends(folder: &Path) -> Result<bool, MountError> {
    /// `FUSE_HAS_RESEND`, in the second word of flags.
    const HAS_RESEND: u32 = 1 << (39 - 32);
    // Behind `fuse_in_header`: major, minor, max_readahead, flags, flags2 (Linux 5.17).
    const FLAGS2: usize = 40 + 16;
    let connection = mount(Path::new("probe"), folder, For::Image)?;
    let mut request = [0; 8192];
    // It is there when mount(2) returns; whatever happens, csi must not wait for it.
    let read = rustix::io::ioctl_fionbio(&connection, true)
        .and_then(|()| rustix::io::retry_on_intr(|| rustix::io::read(&connection, &mut request)));
    // It ends here, so that nobody waits for an answer.
    drop(connection);
    let _ = crate::bind::detach(folder);
    let length = read.map_err(MountError::new("read the first request at", folder))?;
    let flags = request[..length].get(FLAGS2..FLAGS2 + 4);
    Ok(flags.is_some_and(|flags| {
        flags
            .iter()
            .zip(HAS_RESEND.to_ne_bytes())
            .any(|(has, wanted)| has & wanted != 0)
    }))
}

/// The kernel's number of the connection that is mounted at `target`. Numbers are reused: keep it only together with the
/// connection's descriptor.
///
/// # Errors
/// When nothing is there. Must not be called while nobody serves the connection and it is not yet initialised.
pub fn connection_number(target: &Path) -> Result<u32, MountError> {
    // The mount table answers without asking the file system, which may have nobody who serves it.
    let table = crate::table::read().map_err(MountError::of_io("read the mount table for", target))?;
    let mount = table
        .iter()
        .rev()
        .find(|mount| mount.target == target && mount.file_system.starts_with("fuse"));
    mount.map(|mount| mount.device.1).ok_or(MountError {
        operation: "find the FUSE connection at",
        path: target.to_owned(),
        errno: rustix::io::Errno::NOENT,
    })
}

/// Ends a connection: every request on it fails with ENOTCONN from now on, whoever should have served it.
///
/// # Errors
/// When there is no such connection any more, or fusectl cannot be mounted.
pub fn abort(connection_number: u32) -> Result<(), MountError> {
    let folder = Path::new(CONNECTIONS);
    if !folder.join(connection_number.to_string()).exists() {
        // Harmless when it is mounted already; in a container it often is not.
        let _ = rustix::mount::mount("fusectl", folder, "fusectl", MountFlags::empty(), None);
    }
    let file: PathBuf = folder.join(connection_number.to_string()).join("abort");
    std::fs::write(&file, "1").map_err(MountError::of_io("abort the FUSE connection by", &file))
}

fn open() -> Result<OwnedFd, MountError> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(MountError::new("open", Path::new(DEVICE)))
}

/// Whether a descriptor is that of a FUSE connection which is not yet unmounted or aborted. Never waits for whoever serves
/// it.
pub fn is_connected(descriptor: BorrowedFd<'_>) -> bool {
    // Documentation/admin-guide/devices.txt: 10 char, 229 = /dev/fuse.
    let fuse = rustix::fs::makedev(10, 229);
    let is_fuse = rustix::fs::fstat(descriptor).is_ok_and(|status| status.st_rdev == fuse);
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    // fs/fuse/dev.c, fuse_dev_poll(): POLLERR once it is not connected.
    let polls = rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok();
    is_fuse && polls && !polled[0].revents().contains(PollFlags::ERR)
}

/// A second descriptor for the same open connection (not a clone), for whoever keeps it alive.
///
/// # Errors
/// When the process has too many descriptors.
pub fn keep(connection: &OwnedFd) -> std::io::Result<File> {
    connection.as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_whether_it_resends_and_nothing_stays_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let numbers: Vec<u32> = release.split('.').map_while(|number| number.parse().ok()).collect();
        assert_eq!(resends(folder.path()).unwrap(), numbers >= vec![6, 9], "{release}");
        let table = crate::table::read().unwrap();
        assert!(table.iter().all(|mount| mount.target != folder.path()));
    }
}
