//! Whether a part of a file is in the kernel's memory, asked without reading it: cachestat(2), Linux 6.5.
#![allow(unsafe_code, reason = "rustix has no cachestat(2)")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// From `include/uapi/asm-generic/unistd.h`; the same on every architecture but alpha.
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `include/uapi/linux/mman.h`.
#[repr(C)]
struct Range {
    offset: u64,
    bytes: u64,
}

/// `struct cachestat` of the same file, in pages.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    being_written: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether all pages with bytes of `offset..offset + bytes` are in memory. `bytes` is not 0.
///
/// # Errors
/// Before Linux 6.5, and for file systems without a page cache.
pub(super) fn is_resident(file: &File, offset: u64, bytes: u64) -> io::Result<bool> {
    let (range, mut counts) = (Range { offset, bytes }, Counts::default());
    // SAFETY: the kernel reads one `Range` and writes one `Counts`, both of its own layout and alive during the call.
    let answer = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let page = rustix::param::page_size() as u64;
    Ok(counts.cached > (offset + bytes - 1) / page - offset / page)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn what_was_written_is_there_and_what_the_kernel_dropped_is_not() {
        // Not in /tmp, which may be in memory.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&[1; 64 << 10]).unwrap();
        assert!(is_resident(&file, 0, 64 << 10).unwrap());
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert!(!is_resident(&file, 0, 64 << 10).unwrap());
        file.write_all(&[1; 64 << 10]).unwrap();
        assert!(is_resident(&file, 64 << 10, 64 << 10).unwrap());
        assert!(!is_resident(&file, 60 << 10, 8 << 10).unwrap());
    }
}
