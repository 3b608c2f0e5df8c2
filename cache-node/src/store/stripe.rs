//! One stripe: a sparse file of data and its side file.
//!
//! *Order of a write*: data, checksums, presence. A reader that sees a block present finds its data and its checksum.
//!
//! ```text
//! a block:  missing ──data, checksum, presence──► present ──evicted──► missing, a hole is owed ──nobody sends──► missing
//!                                                                        │ stored again: owed no more
//! ```
//!
//! *Order of an eviction*: presence, then, when nobody sends the blocks unread any more, the hole in the file. Who reads them
//! beside us (into a buffer, or a mounter that was handed the files) finds that they do not match, which is a miss.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::BLOCKS;
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate, fstatfs};
use rustix::io::{ReadWriteFlags, preadv2};

use super::resident::is_resident;
use super::side::Side;

/// What statfs(2) says of tmpfs (linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;

pub(crate) struct Stripe {
    space: SpaceId,
    pub(super) data: File,
    /// Its file system is in memory: nothing has to be waited for, and it cannot say so (tmpfs has no RWF_NOWAIT).
    is_in_memory: bool,
    pub(super) side: Side,
    /// Blocks that are missing and still take up the disk. Held by whoever writes or punches holes.
    owed: Mutex<Vec<Range<u32>>>,
}

/// Whether a look may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Allowed,
    /// Only what the kernel has in memory is looked at.
    Never,
}

/// What a look into a stripe found.
#[derive(Debug)]
pub(crate) enum Look {
    /// All bytes are in the buffer and match.
    Hit,
    /// Not all blocks are present.
    Missing,
    /// Not without waiting for the disk.
    WouldWait,
    /// These blocks of the stripe do not match their checksums.
    Damaged(Vec<u32>),
    /// The disk failed.
    Fault(io::Error),
}

impl Stripe {
    pub(super) fn open(folder: &Path, space: SpaceId, number: u64) -> io::Result<Self> {
        create_dir_all(folder)?;
        let file = |ending: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(folder.join(format!("{number}.{ending}")))
        };
        let (data, side) = (file("data")?, file("side")?);
        if data.metadata()?.len() != STRIPE_BYTES {
            data.set_len(STRIPE_BYTES)?;
        }
        let side = Side::open(side, space, number)?;
        Ok(Self {
            space,
            is_in_memory: fstatfs(&data)?.f_type == TMPFS_MAGIC,
            data,
            side,
            owed: Mutex::default(),
        })
    }

    /// Reads whole blocks and checks them; their checksums go to `checksums` when it is given.
    pub(crate) fn look(
        &self,
        range: BlockRange,
        into: &mut [u8],
        checksums: Option<&mut [u32]>,
        waiting: Waiting,
    ) -> Look {
        let blocks = range.blocks_in_stripe();
        if !self.side.are_present(blocks.clone()) {
            return Look::Missing;
        }
        let at = range.address() % STRIPE_BYTES;
        if waiting == Waiting::Never && !self.is_in_memory {
            // Fewer bytes than asked for, or any error, also that the file system cannot do this: the disk has to be asked.
            let got = preadv2(&self.data, &mut [IoSliceMut::new(into)], at, ReadWriteFlags::NOWAIT);
            if got != Ok(into.len()) {
                return Look::WouldWait;
            }
        } else if let Err(error) = self.data.read_exact_at(into, at) {
            return Look::Fault(error);
        }
        let (mut sums, mut damaged) = (checksums, Vec::new());
        let addresses = (range.address()..).step_by(BLOCK_BYTES as usize);
        let contents = into.chunks_exact(BLOCK_BYTES as usize);
        for (at, ((block, address), bytes)) in blocks.zip(addresses).zip(contents).enumerate() {
            let sum = block_checksum(&self.space, address, bytes);
            if sum != self.side.checksum(block) {
                damaged.push(block);
            }
            if let Some(sums) = sums.as_deref_mut() {
                sums[at] = sum;
            }
        }
        // Cleared while we read: then it is a plain miss.
        if !self.side.are_present(range.blocks_in_stripe()) {
            return Look::Missing;
        }
        if damaged.is_empty() {
            Look::Hit
        } else {
            Look::Damaged(damaged)
        }
    }

    /// Whether the kernel has all of a range in memory, as far as it can say so.
    pub(crate) fn is_in_memory(&self, range: BlockRange) -> bool {
        let at = range.address() % STRIPE_BYTES;
        self.is_in_memory || is_resident(&self.data, at, range.bytes()).unwrap_or(true)
    }

    /// Has the kernel read a range and nothing around it. An error is met again by who reads it then.
    pub(crate) fn come_to_memory(&self, range: BlockRange, into: &mut [u8]) {
        // On a file of its own: others are to be read ahead of.
        let alone = self.files().and_then(|[data, _]| {
            fadvise(&data, 0, None, Advice::Random)?;
            data.read_exact_at(into, range.address() % STRIPE_BYTES)
        });
        let _ = alone;
    }

    /// Has the kernel forget a range, which it has on the disk.
    pub(crate) fn leave_memory(&self, range: BlockRange) {
        // Advice.
        let bytes = NonZeroU64::new(range.bytes());
        let _ = fadvise(&self.data, range.address() % STRIPE_BYTES, bytes, Advice::DontNeed);
    }

    /// The cell of a block; empty when it is not present.
    pub(crate) fn cell(&self, block: u32) -> Range<u32> {
        self.side.cell(block)
    }

    /// The cells that have present blocks of a range, as blocks of the stripe.
    pub(crate) fn cells(&self, blocks: Range<u32>) -> impl Iterator<Item = Range<u32>> {
        self.side.cells(blocks)
    }

    /// Data and side file, opened anew for reading only, and so that no reading writes when it was (see open(2), O_NOATIME).
    pub(crate) fn files(&self) -> io::Result<[File; 2]> {
        let no_access_time = OFlags::NOATIME.bits() as i32;
        // By what is open and not by name: the files may be gone from their folder.
        let anew = |file: &File| {
            OpenOptions::new()
                .read(true)
                .custom_flags(no_access_time)
                .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        };
        Ok([anew(&self.data)?, anew(self.side.file())?])
    }

    /// The present parts of `range`, as addresses.
    pub(crate) fn present(&self, range: BlockRange) -> Vec<Range<u64>> {
        let mut present: Vec<Range<u64>> = Vec::new();
        for (block, address) in range
            .blocks_in_stripe()
            .zip((range.address()..).step_by(BLOCK_BYTES as usize))
        {
            if !self.side.is_present(block) {
                continue;
            }
            match present.last_mut() {
                Some(last) if last.end == address => last.end += BLOCK_BYTES,
                _ => present.push(address..address + BLOCK_BYTES),
            }
        }
        present
    }

    /// Writes whole blocks, which become a cell; returns how many are new.
    pub(super) fn store(&self, range: BlockRange, bytes: &[u8], checksums: &[u32]) -> io::Result<u64> {
        let mut owed = self.owed();
        let blocks = range.blocks_in_stripe();
        let before = std::mem::take(&mut *owed);
        *owed = before.iter().flat_map(|hole| without(hole, &blocks)).collect();
        let stored = self
            .data
            .write_all_at(bytes, range.address() % STRIPE_BYTES)
            .and_then(|()| self.side.set(blocks.clone(), checksums));
        if stored.is_err() {
            owed.push(blocks);
        }
        stored
    }

    /// How many blocks are present.
    pub(super) fn present_blocks(&self) -> u64 {
        self.side.present_blocks()
    }

    /// Makes the cell of a block missing; returns the blocks of it that were present.
    pub(super) fn evict(&self, block: u32) -> Range<u32> {
        let mut owed = self.owed();
        let cell = self.side.cell(block);
        if !cell.is_empty() {
            self.side.clear(cell.clone());
            owed.push(cell.clone());
        }
        cell
    }

    /// Owes the disk all that is not present: an earlier process may have ended between an eviction and its hole, or between the
    /// data of a block and its presence.
    pub(super) fn owe_what_is_missing(&self) {
        let mut owed = self.owed();
        let mut at = 0;
        while at < BLOCKS {
            let is_present = self.side.is_present(at);
            let end = (at..BLOCKS)
                .find(|block| self.side.is_present(*block) != is_present)
                .unwrap_or(BLOCKS);
            if !is_present {
                owed.push(at..end);
            }
            at = end;
        }
    }

    /// Gives the disk what evicted blocks took up; false when somebody still sends some of this stripe (see [`super::presence`]).
    pub(super) fn punch(&self) -> io::Result<bool> {
        let mut owed = self.owed();
        if !self.side.presence().nobody_sends() {
            return Ok(owed.is_empty());
        }
        while let Some(hole) = owed.last() {
            let (at, bytes) = (u64::from(hole.start) * BLOCK_BYTES, hole.len() as u64 * BLOCK_BYTES);
            fallocate(
                &self.data,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                at,
                bytes,
            )?;
            owed.pop();
        }
        Ok(true)
    }

    fn owed(&self) -> MutexGuard<'_, Vec<Range<u32>>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is in a folder is in memory, and is lost with it. One that is not there is not.
pub fn is_in_memory(folder: &Path) -> bool {
    File::open(folder)
        .and_then(|folder| Ok(fstatfs(folder)?))
        .is_ok_and(|of| of.f_type == TMPFS_MAGIC)
}

/// The parts of `run` before and behind `taken`.
fn without(run: &Range<u32>, taken: &Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let parts = [run.start..run.end.min(taken.start), run.start.max(taken.end)..run.end];
    parts.into_iter().filter(|part| !part.is_empty())
}
