//! The side file of a stripe: which blocks are there, in which cells, and their checksums ([`penstock_protocol::side`]).
//!
//! Kept in memory while the stripe is open and written through. A side file that makes no sense is begun anew, which makes
//! its blocks missing.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock_protocol::geometry::{BLOCK_BYTES, PAGE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::{BEGINS_AT, BLOCKS, CHECKSUMS_AT, FILE_BYTES, PRESENCE_AT, header};

use super::presence::{Bits, Presence};

const WORDS: usize = BLOCKS as usize / 64;
const BLOCKS_OF_PAGE: u32 = (PAGE_BYTES / BLOCK_BYTES) as u32;

pub(super) struct Side {
    file: File,
    presence: Presence,
    begins: Bits,
    checksums: Vec<AtomicU32>,
}

impl Side {
    pub(super) fn open(file: File, space: SpaceId, stripe: u64) -> io::Result<Self> {
        let header = header(&space, stripe);
        let mut bytes = vec![0; FILE_BYTES as usize];
        let complete = file.metadata()?.len() == FILE_BYTES && file.read_exact_at(&mut bytes, 0).is_ok();
        if !complete || bytes[..header.len()] != header {
            file.set_len(0)?;
            file.set_len(FILE_BYTES)?;
            file.write_all_at(&header, 0)?;
            bytes.fill(0);
        }
        let presence = Presence::new(read_bits(&bytes, PRESENCE_AT));
        let begins = read_bits(&bytes, BEGINS_AT);
        let (sums, _) = bytes[CHECKSUMS_AT as usize..].as_chunks();
        let checksums = sums
            .iter()
            .map(|sum| AtomicU32::new(u32::from_le_bytes(*sum)))
            .collect();
        Ok(Self {
            file,
            presence,
            begins,
            checksums,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    pub(super) fn is_present(&self, block: u32) -> bool {
        self.presence.blocks().has(block)
    }

    pub(super) fn are_present(&self, blocks: Range<u32>) -> bool {
        self.presence.are_present(blocks)
    }

    pub(super) fn present_blocks(&self) -> u64 {
        self.presence.blocks().count()
    }

    /// The cell of a block; empty when it is not present.
    pub(super) fn cell(&self, block: u32) -> Range<u32> {
        if !self.is_present(block) {
            return block..block;
        }
        let page = block / BLOCKS_OF_PAGE * BLOCKS_OF_PAGE..(block / BLOCKS_OF_PAGE + 1) * BLOCKS_OF_PAGE;
        let (begins, absent) = (|at| self.begins.word(at), |at| !self.presence.blocks().word(at));
        let first = last_bit(begins, page.start..block + 1).max(last_bit(absent, page.start..block).map(|gap| gap + 1));
        let behind = block + 1..page.end;
        let ends = [first_bit(begins, behind.clone()), first_bit(absent, behind)];
        let end = ends.into_iter().flatten().min();
        first.unwrap_or(page.start)..end.unwrap_or(page.end)
    }

    /// The cells that have a block of a run, in order.
    pub(super) fn cells(&self, blocks: Range<u32>) -> impl Iterator<Item = Range<u32>> {
        let mut at = blocks.start;
        std::iter::from_fn(move || {
            while at < blocks.end {
                let cell = self.cell(at);
                at = cell.end.max(at + 1);
                if !cell.is_empty() {
                    return Some(cell);
                }
            }
            None
        })
    }

    pub(super) fn checksum(&self, block: u32) -> u32 {
        self.checksums[block as usize].load(Ordering::Relaxed)
    }

    /// Writes checksums, where the cell begins, then presence; the data must be written already. The blocks become one cell in
    /// each page. Returns how many are new. The caller makes sure that nobody else writes to the stripe.
    pub(super) fn set(&self, blocks: Range<u32>, checksums: &[u32]) -> io::Result<u64> {
        for (block, sum) in blocks.clone().zip(checksums) {
            self.checksums[block as usize].store(*sum, Ordering::Relaxed);
        }
        let bytes: Vec<u8> = checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.file
            .write_all_at(&bytes, CHECKSUMS_AT + u64::from(blocks.start) * 4)?;
        self.begins.set(blocks.start);
        for block in blocks.start + 1..blocks.end {
            self.begins.clear(block);
        }
        // Whatever is behind it was stored apart.
        if !blocks.end.is_multiple_of(BLOCKS_OF_PAGE) {
            self.begins.set(blocks.end);
        }
        let begun = blocks.start..(blocks.end + 1).min(BLOCKS);
        write_bits(&self.file, &self.begins, BEGINS_AT, begun)?;
        let presence = self.presence.blocks();
        let new = blocks.clone().map(|block| u64::from(presence.set(block))).sum();
        let written = write_bits(&self.file, presence, PRESENCE_AT, blocks.clone());
        if written.is_err() {
            blocks.for_each(|block| {
                presence.clear(block);
            });
        }
        written.map(|()| new)
    }

    /// Clears a run of blocks; returns how many were present until now.
    pub(super) fn clear(&self, blocks: Range<u32>) -> u64 {
        let presence = self.presence.blocks();
        let cleared = blocks.clone().map(|block| u64::from(presence.clear(block))).sum();
        if let Err(error) = write_bits(&self.file, presence, PRESENCE_AT, blocks) {
            tracing::warn!(%error, "write a side file; the blocks are checked again after a restart");
        }
        cleared
    }
}

fn read_bits(file: &[u8], offset: u64) -> Bits {
    let (words, _) = file[offset as usize..].as_chunks();
    Bits::new(words.iter().take(WORDS).map(|word| u64::from_le_bytes(*word)))
}

/// The words that have these blocks, to their place in a file.
fn write_bits(file: &File, bits: &Bits, offset: u64, blocks: Range<u32>) -> io::Result<()> {
    let words = blocks.start as usize / 64..(blocks.end as usize).div_ceil(64);
    let bytes: Vec<u8> = words.clone().flat_map(|at| bits.word(at).to_le_bytes()).collect();
    file.write_all_at(&bytes, offset + words.start as u64 * 8)
}

/// The last of the bits of a run that is set.
fn last_bit(word: impl Fn(usize) -> u64, run: Range<u32>) -> Option<u32> {
    words(run)
        .rev()
        .find_map(|(at, mask)| (word(at) & mask).checked_ilog2().map(|bit| at as u32 * 64 + bit))
}

/// The first of the bits of a run that is set.
fn first_bit(word: impl Fn(usize) -> u64, run: Range<u32>) -> Option<u32> {
    words(run).find_map(|(at, mask)| {
        let bits = word(at) & mask;
        (bits != 0).then(|| at as u32 * 64 + bits.trailing_zeros())
    })
}

/// The words that have the bits of a run, with a mask of these.
fn words(run: Range<u32>) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    (run.start / 64..run.end.div_ceil(64)).filter_map(move |at| {
        let within = run.start.max(at * 64)..run.end.min(at * 64 + 64);
        let count = within.end.checked_sub(within.start).filter(|count| *count > 0)?;
        Some((at as usize, u64::MAX >> (64 - count) << (within.start % 64)))
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn a_cell_ends_where_another_begins_or_nothing_is_there() {
        let mut random = StdRng::seed_from_u64(7);
        for density in [0.01, 0.5, 0.99] {
            let side = Side::open(tempfile::tempfile().unwrap(), SpaceId([1; 16]), 0).unwrap();
            let blocks = 4 * BLOCKS_OF_PAGE;
            for block in 0..blocks {
                if random.random_bool(0.95) {
                    side.presence.blocks().set(block);
                }
                if random.random_bool(1.0 - density) {
                    side.begins.set(block);
                }
            }
            let ends_before = |block: u32| {
                block.is_multiple_of(BLOCKS_OF_PAGE) || side.begins.has(block) || !side.is_present(block - 1)
            };
            for block in (0..blocks).filter(|block| side.is_present(*block)) {
                let first = (0..=block).rev().find(|at| ends_before(*at)).unwrap();
                let end = (block + 1..=blocks).find(|at| *at == blocks || ends_before(*at) || !side.is_present(*at));
                assert_eq!(side.cell(block), first..end.unwrap());
            }
        }
    }
}
