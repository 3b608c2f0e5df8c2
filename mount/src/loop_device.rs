//! Files as block devices (loop(4)), for kernels that mount EROFS from block devices only.
#![allow(unsafe_code, reason = "the ioctls of loop devices are not in rustix")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::MountError;

/// Documentation/admin-guide/devices.txt.
const CONTROL: (u32, u32) = (10, 237);
const LOOP_MAJOR: u32 = 7;

/// include/uapi/linux/loop.h.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often a free device is asked for: somebody else may take it before we do.
const ATTEMPTS: usize = 16;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// How the kernel reads the file below a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Through the page cache, one read after the other.
    Cached,
    /// Many at the same time, and nothing is cached twice; the file must allow O_DIRECT.
    Direct,
}

impl Reads {
    fn flags(self) -> u32 {
        match self {
            Self::Cached => 0,
            Self::Direct => LO_FLAGS_DIRECT_IO,
        }
    }
}

/// A read-only block device over a file. It goes by itself when nothing uses it any more: when this is dropped, or with
/// the last mount of it.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: OwnedFd,
}

impl LoopDevice {
    /// Makes a device over the file at `path`; device nodes that are missing in `/dev` are made in `nodes`, a folder on a
    /// file system where devices may be opened.
    ///
    /// # Errors
    /// When the kernel refuses, for example without root, or the file cannot be opened.
    pub fn over(path: &Path, access: Reads, nodes: &Path) -> Result<Self, MountError> {
        let refused = |error| MountError::of_io("make a loop device over", path)(error);
        let file = File::open(path).map_err(refused)?;
        let control = node("loop-control", CONTROL, nodes).and_then(open).map_err(refused)?;
        let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
        for _ in 0..ATTEMPTS {
            match configure(&control, &file, access, nodes) {
                Ok(device) => return Ok(device),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => last = error,
                Err(error) => return Err(refused(error)),
            }
        }
        Err(refused(last))
    }

    /// How far the kernel reads ahead on what is mounted from this device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read_ahead(&self, kib: u32) -> Result<(), MountError> {
        /// `_IO(0x12, 98)` of include/uapi/linux/fs.h; the argument is a number of sectors of 512 bytes.
        const BLKRASET: libc::Ioctl = 0x1262;
        // SAFETY: the ioctl takes a number; the descriptor is open.
        let result = unsafe { libc::ioctl(self.device.as_raw_fd(), BLKRASET, libc::c_ulong::from(2 * kib)) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(MountError::of_io("set the read-ahead of", &self.path)(error))
    }

    /// Where the block device is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(control: &File, file: &File, access: Reads, nodes: &Path) -> io::Result<LoopDevice> {
    // SAFETY: the ioctl takes no argument and returns a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
    let path = node(&format!("loop{number}"), (LOOP_MAJOR, number), nodes)?;
    let device = open(path.clone())?;
    let config = LoopConfig {
        fd: file.as_raw_fd() as u32,
        block_size: 4096,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | access.flags(),
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the ioctl reads one `loop_config`, which outlives the call; both descriptors are open.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(LoopDevice {
        path,
        device: device.into(),
    })
}

/// The node of a device: that in `/dev`, or one that is made in `nodes`.
fn node(name: &str, (major, minor): (u32, u32), nodes: &Path) -> io::Result<PathBuf> {
    for folder in [Path::new("/dev"), nodes] {
        let path = folder.join(name);
        let is_device = fs::metadata(&path)
            .map(|status| status.file_type())
            .is_ok_and(|kind| kind.is_block_device() || kind.is_char_device());
        if is_device {
            return Ok(path);
        }
    }
    let path = nodes.join(name);
    let kind = if major == LOOP_MAJOR {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    match mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
        Err(errno) => Err(errno.into()),
    }
}

fn open(path: PathBuf) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_file_is_read_through_its_device_and_the_device_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().write_all(&[7; 8192]).unwrap();
        let device = LoopDevice::over(&path, Reads::Cached, folder.path()).expect("run this as root");
        let mut bytes = Vec::new();
        File::open(device.path()).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 8192]);
        let size = Path::new("/sys/block")
            .join(device.path().file_name().unwrap())
            .join("size");
        drop(device);
        assert_eq!(
            fs::read_to_string(size).unwrap_or_default().trim().parse().unwrap_or(0),
            0
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = LoopDevice::over(&folder.path().join("nothing"), Reads::Cached, folder.path()).unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
