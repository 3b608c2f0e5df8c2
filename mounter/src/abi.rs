//! The part of the FUSE kernel interface that a read-only file system of a few files needs: numbers and records of
//! include/uapi/linux/fuse.h (version 7.38), as pure functions over bytes. Integers are in the machine's byte order.

use crate::limits::{ATTRIBUTES_VALID, BACKGROUND_REQUESTS_MAX, READ_BYTES_MAX};

/// Bytes of `fuse_in_header`.
const IN_HEADER_BYTES: usize = 40;
/// Bytes of `fuse_out_header`.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Node of the root folder (FUSE_ROOT_ID).
pub(crate) const ROOT: u64 = 1;

const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// Flags of INIT: reads may be asynchronous and direct, a request may have 256 pages, folders are looked up in parallel.
const ASYNC_READ: u32 = 1 << 0;
const ASYNC_DIO: u32 = 1 << 15;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
/// Flag of OPEN: the kernel keeps no pages of this file; EROFS above it does.
const FOPEN_DIRECT_IO: u32 = 1 << 0;

/// What the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Init {
        minor: u32,
        flags: u32,
        max_readahead: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    GetAttributes,
    Open,
    Read {
        offset: u64,
        bytes: u32,
    },
    Release,
    StatFs,
    /// FORGET, BATCH_FORGET and INTERRUPT: the kernel expects no answer.
    Silent,
    Destroy,
    /// Something that would change the file system.
    Write,
    Other,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) operation: Operation<'a>,
}

impl<'a> Request<'a> {
    /// The request in `bytes`; `None` when it is none, which only a broken kernel sends.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..IN_HEADER_BYTES)?;
        let body = &bytes[IN_HEADER_BYTES..];
        let operation = match u32_at(header, 4)? {
            1 => Operation::Lookup {
                name: body.split(|byte| *byte == 0).next()?,
            },
            2 | 36 | 42 => Operation::Silent,
            3 => Operation::GetAttributes,
            14 => Operation::Open,
            15 => Operation::Read {
                offset: u64_at(body, 8)?,
                bytes: u32_at(body, 16)?,
            },
            17 => Operation::StatFs,
            18 => Operation::Release,
            26 => Operation::Init {
                minor: u32_at(body, 4)?,
                max_readahead: u32_at(body, 8)?,
                flags: u32_at(body, 12)?,
            },
            38 => Operation::Destroy,
            // SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE,
            // FALLOCATE, RENAME2, COPY_FILE_RANGE, TMPFILE
            4 | 6 | 8..=13 | 16 | 21 | 24 | 35 | 43 | 45 | 47 | 51 => Operation::Write,
            _ => Operation::Other,
        };
        Some(Self {
            unique: u64_at(header, 8)?,
            node: u64_at(header, 16)?,
            operation,
        })
    }
}

/// Set in the number of a request that is sent again (`FUSE_UNIQUE_RESEND`).
pub(crate) const UNIQUE_RESEND: u64 = 1 << 63;

/// The header of an answer with `bytes` bytes behind it; `errno` 0 is success.
pub(crate) fn out_header(unique: u64, errno: i32, bytes: usize) -> [u8; OUT_HEADER_BYTES] {
    let mut out = [0; OUT_HEADER_BYTES];
    out[..4].copy_from_slice(&((OUT_HEADER_BYTES + bytes) as u32).to_ne_bytes());
    out[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    out[8..].copy_from_slice(&unique.to_ne_bytes());
    out
}

/// `fuse_init_out`.
pub(crate) fn init_out(minor: u32, flags: u32, max_readahead: u32) -> Vec<u8> {
    let wanted = (ASYNC_READ | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES) & flags;
    let mut out = Vec::with_capacity(64);
    for word in [
        MAJOR,
        minor.min(MINOR),
        max_readahead.max(READ_BYTES_MAX as u32),
        wanted,
    ] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(&BACKGROUND_REQUESTS_MAX.to_ne_bytes());
    out.extend_from_slice(&(BACKGROUND_REQUESTS_MAX / 4 * 3).to_ne_bytes());
    out.extend_from_slice(&4096u32.to_ne_bytes()); // max_write: nothing is written
    out.extend_from_slice(&1u32.to_ne_bytes()); // time_gran, ns
    out.extend_from_slice(&((READ_BYTES_MAX / 4096) as u16).to_ne_bytes());
    out.resize(64, 0);
    out
}

/// `fuse_open_out`.
pub(crate) fn open_out() -> Vec<u8> {
    let mut out = vec![0; 16];
    out[8..12].copy_from_slice(&FOPEN_DIRECT_IO.to_ne_bytes());
    out
}

/// `fuse_attr_out` for a node; `bytes` `None` is the root folder.
pub(crate) fn attributes_out(node: u64, bytes: Option<u64>) -> Vec<u8> {
    let mut out = vec![0; 16];
    out[..8].copy_from_slice(&ATTRIBUTES_VALID.as_secs().to_ne_bytes());
    out.extend_from_slice(&attributes(node, bytes));
    out
}

/// `fuse_entry_out` for a file.
pub(crate) fn entry_out(node: u64, bytes: u64) -> Vec<u8> {
    let mut out = vec![0; 40];
    out[..8].copy_from_slice(&node.to_ne_bytes());
    for at in [16, 24] {
        out[at..at + 8].copy_from_slice(&ATTRIBUTES_VALID.as_secs().to_ne_bytes());
    }
    out.extend_from_slice(&attributes(node, Some(bytes)));
    out
}

/// `fuse_statfs_out`: no free space, blocks of 4 KiB.
pub(crate) fn statfs_out() -> Vec<u8> {
    let mut out = vec![0; 80];
    out[40..44].copy_from_slice(&4096u32.to_ne_bytes());
    out[44..48].copy_from_slice(&255u32.to_ne_bytes());
    out[48..52].copy_from_slice(&4096u32.to_ne_bytes());
    out
}

/// `fuse_attr`.
fn attributes(node: u64, bytes: Option<u64>) -> [u8; 88] {
    let mut out = [0; 88];
    out[..8].copy_from_slice(&node.to_ne_bytes());
    out[8..16].copy_from_slice(&bytes.unwrap_or(0).to_ne_bytes());
    out[16..24].copy_from_slice(&(bytes.unwrap_or(0) / 512).to_ne_bytes());
    let (mode, links) = if bytes.is_some() {
        (0o100_400u32, 1u32)
    } else {
        (0o040_500, 2)
    };
    out[60..64].copy_from_slice(&mode.to_ne_bytes());
    out[64..68].copy_from_slice(&links.to_ne_bytes());
    out[80..84].copy_from_slice(&4096u32.to_ne_bytes());
    out
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_requests_are_refused_and_never_panic() {
        let mut bytes = [0u8; 80];
        for opcode in 0..60u32 {
            bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
            for cut in 0..bytes.len() {
                let _ = Request::parse(&bytes[..cut]);
            }
        }
        assert_eq!(Request::parse(&bytes[..39]), None);
    }

    #[test]
    fn records_have_the_lengths_of_the_kernel() {
        let lengths = [
            init_out(38, !0, 0).len(),
            open_out().len(),
            attributes_out(1, None).len(),
            entry_out(2, 1).len(),
        ];
        assert_eq!(lengths, [64, 16, 16 + 88, 40 + 88]);
        assert_eq!(statfs_out().len(), 80);
    }
}
