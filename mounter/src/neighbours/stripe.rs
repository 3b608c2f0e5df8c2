//! The files of one stripe, as a cache node of this node handed them over ([`penstock_protocol::side`]). Nothing of them is
//! remembered: the cache node stores and evicts meanwhile.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use penstock_protocol::checksum::first_mismatch;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::{CHECKSUMS_AT, HEADER_BYTES, PRESENCE_AT, header};
use rustix::fs::{FileType, fstat, fstatfs};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::sync::OwnedSemaphorePermit;

/// What statfs(2) says of tmpfs (linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Blocks of the largest read, which may begin and end within a block.
const BLOCKS_MAX: usize = crate::limits::READ_BYTES_MAX / BLOCK_BYTES as usize + 2;

pub(super) struct NearStripe {
    data: Part,
    side: Part,
    _room: OwnedSemaphorePermit,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All bytes are in the buffer and match.
    Hit,
    /// Not all is there, or in memory, or right.
    Miss,
    /// The file was cut: the cache node has removed it.
    Gone,
}

impl NearStripe {
    /// Checks that these are the files of this stripe. May wait for the disk.
    pub(super) fn new(
        [data, side]: [File; 2],
        space: &SpaceId,
        stripe: u64,
        room: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let (data, side) = (Part::new(data)?, Part::new(side)?);
        let mut found = [0; HEADER_BYTES];
        side.file.read_exact_at(&mut found, 0)?;
        if found != header(space, stripe) {
            return Err(io::Error::other("the side file is of another stripe or version"));
        }
        Ok(Self {
            data,
            side,
            _room: room,
        })
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
        let looked = self
            .side
            .read_now(presence, PRESENCE_AT + u64::from(first))
            .and_then(|()| {
                let is_there = |block: u32| presence[(block / 8 - first) as usize] & (1 << (block % 8)) != 0;
                if blocks.clone().all(is_there) {
                    Ok(())
                } else {
                    Err(Look::Miss)
                }
            })
            .and_then(|()| self.side.read_now(sums, CHECKSUMS_AT + u64::from(blocks.start) * 4))
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
struct Part {
    file: File,
    /// Its file system is in memory: nothing has to be waited for, and it cannot say so (tmpfs has no RWF_NOWAIT).
    is_in_memory: bool,
}

impl Part {
    fn new(file: File) -> io::Result<Self> {
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
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
            // Short when the next page is not in memory, too.
            Ok(0) => Err(Look::Gone),
            // Also of a file system that cannot do this.
            Ok(_) | Err(_) => Err(Look::Miss),
        }
    }
}
