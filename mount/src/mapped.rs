//! Files in memory, page by page as they are looked at: an image of a million files needs no heap.
#![allow(unsafe_code, reason = "a file could change below its mapping")]

use std::io;
use std::os::fd::BorrowedFd;

use memmap2::Mmap;

/// The bytes of a regular file that nobody writes to any more.
///
/// A disk that fails under a mapping kills the process (SIGBUS); for the mounter that is a restart, and an error line of the
/// kernel says which disk.
///
/// # Errors
/// When it is no regular file, or cannot be mapped.
pub fn read_only(file: BorrowedFd<'_>) -> io::Result<impl AsRef<[u8]> + Send + Sync + 'static> {
    let status = rustix::fs::fstat(file)?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(io::Error::other("what should be an image is no regular file"));
    }
    // SAFETY: images are written under another name before they get theirs, in a folder that csi alone can write, and are
    // never written to afterwards; what reads them checks every offset and every name.
    unsafe { Mmap::map(&file) }
}
