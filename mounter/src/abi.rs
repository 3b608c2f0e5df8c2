//! The part of the FUSE kernel interface that a read-only file system needs: numbers and records of
//! include/uapi/linux/fuse.h (version 7.38), as pure functions over bytes. Integers are in the machine's byte order.

use crate::files::{Attributes, Caching, DirectoryEntry, Totals};
use crate::limits::{ATTRIBUTES_VALID, BACKGROUND_REQUESTS_MAX, READ_BYTES_MAX};

/// Bytes of `fuse_in_header`.
const IN_HEADER_BYTES: usize = 40;
/// Bytes of `fuse_out_header`.
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// Bytes of `fuse_entry_out`.
const ENTRY_BYTES: usize = 40 + ATTRIBUTES_BYTES;
/// Bytes of `fuse_attr`.
const ATTRIBUTES_BYTES: usize = 88;
/// Bytes of `fuse_dirent` without its name.
const DIRENT_BYTES: usize = 24;

const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// Flags of INIT: reads may be asynchronous and direct, a request may have 256 pages, folders are looked up in parallel.
const ASYNC_READ: u32 = 1 << 0;
const ASYNC_DIO: u32 = 1 << 15;
/// ... entries come with their attributes where somebody seems to want them; what was open before is opened without us.
const DO_READDIRPLUS: u32 = 1 << 13;
const READDIRPLUS_AUTO: u32 = 1 << 14;
const NO_OPEN_SUPPORT: u32 = 1 << 17;
const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
/// ... there are more flags, among them that owners may be shown as those of a user namespace (Linux 6.12).
const INIT_EXT: u32 = 1 << 30;
const ALLOW_IDMAP_OF_FLAGS2: u32 = 1 << (40 - 32);
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
        flags2: u32,
        max_readahead: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    GetAttributes,
    Open,
    OpenDirectory,
    Read {
        offset: u64,
        bytes: u32,
    },
    ReadDirectory {
        position: u64,
        bytes: u32,
        with_attributes: bool,
    },
    /// `bytes` 0 asks how long the list is.
    ListAttributes {
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
            23 => Operation::ListAttributes {
                bytes: u32_at(body, 0)?,
            },
            27 => Operation::OpenDirectory,
            28 | 44 => Operation::ReadDirectory {
                position: u64_at(body, 8)?,
                bytes: u32_at(body, 16)?,
                with_attributes: u32_at(header, 4)? == 44,
            },
            18 | 29 => Operation::Release,
            26 => Operation::Init {
                minor: u32_at(body, 4)?,
                max_readahead: u32_at(body, 8)?,
                flags: u32_at(body, 12)?,
                // Longer since Linux 5.17.
                flags2: u32_at(body, 16).unwrap_or(0),
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
pub(crate) fn init_out(minor: u32, (flags, flags2): (u32, u32), max_readahead: u32, caching: Caching) -> Vec<u8> {
    let wanted = ASYNC_READ | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES | INIT_EXT;
    let (wanted, wanted2) = match caching {
        Caching::Above => (wanted, 0),
        Caching::Here => (
            wanted | DO_READDIRPLUS | READDIRPLUS_AUTO | NO_OPEN_SUPPORT | NO_OPENDIR_SUPPORT,
            ALLOW_IDMAP_OF_FLAGS2,
        ),
    };
    let mut out = Vec::with_capacity(64);
    for word in [
        MAJOR,
        minor.min(MINOR),
        max_readahead.max(READ_BYTES_MAX as u32),
        wanted & flags,
    ] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(&BACKGROUND_REQUESTS_MAX.to_ne_bytes());
    out.extend_from_slice(&(BACKGROUND_REQUESTS_MAX / 4 * 3).to_ne_bytes());
    out.extend_from_slice(&4096u32.to_ne_bytes()); // max_write: nothing is written
    out.extend_from_slice(&1u32.to_ne_bytes()); // time_gran, ns
    out.extend_from_slice(&((READ_BYTES_MAX / 4096) as u16).to_ne_bytes());
    out.extend_from_slice(&0u16.to_ne_bytes()); // map_alignment: nothing is mapped
    out.extend_from_slice(&(wanted2 & flags2).to_ne_bytes());
    out.resize(64, 0);
    out
}

/// `fuse_open_out` of a file whose pages are kept above this file system.
pub(crate) fn open_out() -> Vec<u8> {
    let mut out = vec![0; 16];
    out[8..12].copy_from_slice(&FOPEN_DIRECT_IO.to_ne_bytes());
    out
}

/// `fuse_attr_out`.
pub(crate) fn attributes_out(attributes: &Attributes) -> Vec<u8> {
    let mut out = vec![0; 16];
    out[..8].copy_from_slice(&ATTRIBUTES_VALID.as_secs().to_ne_bytes());
    out.extend_from_slice(&record(attributes));
    out
}

/// `fuse_entry_out`; a name that is not there is remembered as well.
pub(crate) fn entry_out(found: Option<&Attributes>) -> Vec<u8> {
    entry(found).to_vec()
}

/// `fuse_statfs_out`: no free space, blocks of 4 KiB.
pub(crate) fn statfs_out(totals: Totals) -> Vec<u8> {
    let mut out = vec![0; 80];
    out[..8].copy_from_slice(&totals.blocks.to_ne_bytes());
    out[24..32].copy_from_slice(&totals.inodes.to_ne_bytes());
    out[40..44].copy_from_slice(&4096u32.to_ne_bytes());
    out[44..48].copy_from_slice(&255u32.to_ne_bytes());
    out[48..52].copy_from_slice(&4096u32.to_ne_bytes());
    out
}

/// `fuse_getxattr_out`, or the list itself: there are no extended attributes.
pub(crate) fn list_attributes_out(bytes: u32) -> Vec<u8> {
    if bytes == 0 { vec![0; 8] } else { Vec::new() }
}

/// The answer to a `READDIR` or `READDIRPLUS` as it grows.
pub(crate) struct Entries {
    out: Vec<u8>,
    room: usize,
}

impl Entries {
    /// An empty one with room for so many bytes.
    pub(crate) fn new(bytes: u32) -> Self {
        let room = (bytes as usize).min(READ_BYTES_MAX);
        Self {
            out: Vec::with_capacity(room),
            room,
        }
    }

    /// Appends `fuse_dirent`, or `fuse_direntplus` with the attributes if there are some; `false` when there is no room for
    /// it.
    pub(crate) fn push(&mut self, found: &DirectoryEntry<'_>, plus: Option<Option<&Attributes>>) -> bool {
        /// DT_DIR and DT_REG.
        const TYPES: [u32; 2] = [4, 8];
        let length = DIRENT_BYTES + found.name.len().next_multiple_of(8);
        if self.out.len() + plus.map_or(0, |_| ENTRY_BYTES) + length > self.room {
            return false;
        }
        if let Some(attributes) = plus {
            self.out.extend_from_slice(&entry(attributes));
        }
        let end = self.out.len() + length;
        self.out.extend_from_slice(&found.inode.to_ne_bytes());
        self.out.extend_from_slice(&found.next.to_ne_bytes());
        self.out.extend_from_slice(&(found.name.len() as u32).to_ne_bytes());
        let kind = TYPES[usize::from(!found.is_directory)];
        self.out.extend_from_slice(&kind.to_ne_bytes());
        self.out.extend_from_slice(found.name.as_bytes());
        self.out.resize(end, 0);
        true
    }

    /// The answer.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

/// `fuse_entry_out`.
fn entry(found: Option<&Attributes>) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    for at in [16, 24] {
        out[at..at + 8].copy_from_slice(&ATTRIBUTES_VALID.as_secs().to_ne_bytes());
    }
    if let Some(attributes) = found {
        out[..8].copy_from_slice(&attributes.node.to_ne_bytes());
        out[40..].copy_from_slice(&record(attributes));
    }
    out
}

/// `fuse_attr`.
fn record(attributes: &Attributes) -> [u8; ATTRIBUTES_BYTES] {
    let Attributes {
        node: _,
        inode,
        mode,
        uid,
        gid,
        links,
        bytes,
        modified_unix_nanos,
    } = *attributes;
    let seconds = modified_unix_nanos.div_euclid(1_000_000_000);
    let nanos = modified_unix_nanos.rem_euclid(1_000_000_000) as u32;
    let mut out = [0; ATTRIBUTES_BYTES];
    out[..8].copy_from_slice(&inode.to_ne_bytes());
    out[8..16].copy_from_slice(&bytes.to_ne_bytes());
    out[16..24].copy_from_slice(&(bytes.div_ceil(4096) * 8).to_ne_bytes());
    for (time, fraction) in [(24, 48), (32, 52), (40, 56)] {
        out[time..time + 8].copy_from_slice(&seconds.to_ne_bytes());
        out[fraction..fraction + 4].copy_from_slice(&nanos.to_ne_bytes());
    }
    for (at, word) in [(60, mode), (64, links), (68, uid), (72, gid), (80, 4096)] {
        out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
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

    const FILE: Attributes = Attributes {
        node: 2,
        inode: 2,
        mode: 0o100_444,
        uid: 0,
        gid: 0,
        links: 1,
        bytes: 4097,
        modified_unix_nanos: -1,
    };

    #[test]
    fn records_have_the_lengths_of_the_kernel() {
        let lengths = [
            init_out(38, (!0, !0), 0, Caching::Here).len(),
            open_out().len(),
            attributes_out(&FILE).len(),
            entry_out(Some(&FILE)).len(),
            entry_out(None).len(),
        ];
        assert_eq!(lengths, [64, 16, 16 + 88, 40 + 88, 40 + 88]);
        assert_eq!(statfs_out(Totals::default()).len(), 80);
    }

    #[test]
    fn a_time_before_1970_has_a_fraction_that_counts_forward() {
        let out = record(&FILE);
        assert_eq!(out[32..40], (-1i64).to_ne_bytes());
        assert_eq!(out[52..56], 999_999_999u32.to_ne_bytes());
        assert_eq!(out[16..24], 16u64.to_ne_bytes());
    }

    #[test]
    fn entries_are_padded_and_end_where_the_room_does() {
        let entry = DirectoryEntry {
            name: "name",
            inode: 7,
            node: 7,
            is_directory: false,
            next: 1,
        };
        let mut entries = Entries::new(2 * 32 + 31);
        let pushed = [(); 3].map(|()| entries.push(&entry, None));
        assert_eq!(pushed, [true, true, false]);
        assert_eq!(entries.into_bytes().len(), 2 * 32);
        let mut entries = Entries::new(200);
        assert!(entries.push(&entry, Some(None)) && !entries.push(&entry, Some(Some(&FILE))));
        assert_eq!(entries.into_bytes().len(), 128 + 32);
    }
}
