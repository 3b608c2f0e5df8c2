//! The files of one stripe, as a cache node of this node handed them over ([`penstock_protocol::side`]). Nothing of them is
//! remembered: the cache node stores and evicts meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use penstock_protocol::checksum::first_mismatch;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::{CHECKSUMS_AT, FILE_BYTES, HEADER_BYTES, PRESENCE_AT, header};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// What statfs(2) says of tmpfs (linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Blocks of the largest read, which may begin and end within a block.
const BLOCKS_MAX: usize = crate::limits::READ_BYTES_MAX / BLOCK_BYTES as usize + 2;

pub(super) struct NearStripe {
    data: Part,
    side: Part,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All bytes are in the buffer and match.
    Hit,
    /// Not all is there, or in memory, or right.
    Miss,
    /// The kernel does not have the side file in memory, and nobody else reads it.
    Cold,
    /// The file was cut: the cache node has removed it.
    Gone,
}

impl NearStripe {
    /// Checks that these are the files of this stripe. May wait for the disk.
    pub(super) fn new([data, side]: [File; 2], space: &SpaceId, stripe: u64) -> io::Result<Self> {
        let near = Self {
            data: Part::new(data)?,
            side: Part::new(side)?,
        };
        if near.read_side()?[..HEADER_BYTES] != header(space, stripe) {
            return Err(io::Error::other("the side file is of another stripe or version"));
        }
        Ok(near)
    }

    /// Reads the side file, so that the kernel has it in memory. May wait for the disk.
    pub(super) fn read_side(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; FILE_BYTES as usize];
        self.side.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    pub(super) fn into_files(self) -> [Part; 2] {
        [self.data, self.side]
    }

    /// Reads whole blocks of the stripe and checks them, without waiting for the disk.
    pub(super) fn read(&self, space: &SpaceId, range: BlockRange, into: &mut [u8]) -> Look {
        let blocks = range.blocks_in_stripe();
        if blocks.len() > BLOCKS_MAX {
            return Look::Miss;
        }
        let (mut presence, mut sums) = ([0; BLOCKS_MAX / 8 + 2], [0; BLOCKS_MAX * 4]);
        let (first, last) = (blocks.start / 8, (blocks.end - 1) / 8);
        let presence = &mut presence[..(last - first + 1) as usize];
        let sums = &mut sums[..blocks.len() * 4];
        let cold = |look| if look == Look::Miss { Look::Cold } else { look };
        let looked = self
            .side
            .read_now(presence, PRESENCE_AT + u64::from(first))
            .map_err(cold)
            .and_then(|()| {
                let is_there = |block: u32| presence[(block / 8 - first) as usize] & (1 << (block % 8)) != 0;
                if blocks.clone().all(is_there) {
                    Ok(())
                } else {
                    Err(Look::Miss)
                }
            })
            .and_then(|()| {
                let sums = self.side.read_now(sums, CHECKSUMS_AT + u64::from(blocks.start) * 4);
                sums.map_err(cold)
            })
            .and_then(|()| self.data.read_now(into, range.address() % STRIPE_BYTES));
        if let Err(look) = looked {
            return look;
        }
        let mut expected = [0; BLOCKS_MAX];
        for (sum, bytes) in expected.iter_mut().zip(sums.chunks_exact(4)) {
            *sum = u32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
        }
        match first_mismatch(space, range.address(), into, &expected[..blocks.len()]) {
            None => Look::Hit,
            // Evicted under us, or damaged: the cache node finds out.
            Some(_) => Look::Miss,
        }
    }
}

/// One of the two files.
pub(super) struct Part {
    file: File,
    /// Its file system is in memory: nothing has to be waited for, and it cannot say so (tmpfs has no RWF_NOWAIT).
    is_in_memory: bool,
}

impl Part {
    fn new(file: File) -> io::Result<Self> {
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        // Otherwise the first read after each write would wait for the file system's journal, RWF_NOWAIT or not.
        if !fcntl_getfl(&file)?.contains(OFlags::NOATIME) {
            return Err(io::Error::other("a file whose time of access would be written"));
        }
        let is_in_memory = fstatfs(&file)?.f_type == TMPFS_MAGIC;
        Ok(Self { file, is_in_memory })
    }

    /// Fills `into` with what the kernel has in memory.
    fn read_now(&self, into: &mut [u8], offset: u64) -> Result<(), Look> {
        let flags = if self.is_in_memory {
            ReadWriteFlags::empty()
        } else {
            ReadWriteFlags::NOWAIT
        };
        match preadv2(&self.file, &mut [IoSliceMut::new(into)], offset, flags) {
            Ok(got) if got == into.len() => Ok(()),
            Ok(0) => Err(Look::Gone),
            // Short when the next page is not in memory, EAGAIN when the first is not.
            Ok(_) | Err(Errno::AGAIN) => Err(Look::Miss),
            // Also of a file system that cannot do this: there is no use in it.
            Err(_) => Err(Look::Gone),
        }
    }
}
