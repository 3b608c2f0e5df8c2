//! The side file of a stripe: which blocks are there, and their checksums ([`penstock_protocol::side`]).
//!
//! Kept in memory while the stripe is open and written through. A side file that makes no sense is begun anew, which makes
//! its blocks missing.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::{BLOCKS, CHECKSUMS_AT, FILE_BYTES, PRESENCE_AT, header};

const WORDS: usize = BLOCKS as usize / 64;

pub(super) struct Side {
    file: File,
    presence: Vec<AtomicU64>,
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
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[PRESENCE_AT as usize + at * 8 + i]));
        let sum = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[CHECKSUMS_AT as usize + at * 4 + i]));
        let presence = (0..WORDS).map(|at| AtomicU64::new(word(at))).collect();
        let checksums = (0..BLOCKS as usize).map(|at| AtomicU32::new(sum(at))).collect();
        Ok(Self {
            file,
            presence,
            checksums,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn is_present(&self, block: u32) -> bool {
        self.presence[block as usize / 64].load(Ordering::Acquire) & (1 << (block % 64)) != 0
    }

    pub(super) fn are_present(&self, mut blocks: Range<u32>) -> bool {
        blocks.all(|block| self.is_present(block))
    }

    pub(super) fn present_blocks(&self) -> u64 {
        self.presence
            .iter()
            .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
            .sum()
    }

    pub(super) fn checksum(&self, block: u32) -> u32 {
        self.checksums[block as usize].load(Ordering::Relaxed)
    }

    /// Writes checksums, then presence; the data must be written already. Returns how many blocks are new. The caller
    /// makes sure that nobody else writes to the stripe.
    pub(super) fn set(&self, blocks: Range<u32>, checksums: &[u32]) -> io::Result<u64> {
        for (block, sum) in blocks.clone().zip(checksums) {
            self.checksums[block as usize].store(*sum, Ordering::Relaxed);
        }
        let bytes: Vec<u8> = checksums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.file
            .write_all_at(&bytes, CHECKSUMS_AT + u64::from(blocks.start) * 4)?;
        let mut new = 0;
        for block in blocks.clone() {
            let before = self.presence[block as usize / 64].fetch_or(1 << (block % 64), Ordering::AcqRel);
            new += u64::from(before & (1 << (block % 64)) == 0);
        }
        self.write_presence(blocks)?;
        Ok(new)
    }

    /// Clears blocks, in increasing order, with one write; returns how many were present until now.
    pub(super) fn clear(&self, blocks: &[u32]) -> u64 {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
            return 0;
        };
        let mut cleared = 0;
        for block in blocks {
            let before = self.presence[*block as usize / 64].fetch_and(!(1 << (block % 64)), Ordering::AcqRel);
            cleared += u64::from(before & (1 << (block % 64)) != 0);
        }
        if let Err(error) = self.write_presence(*first..last + 1) {
            tracing::warn!(%error, "write a side file; the blocks are checked again after a restart");
        }
        cleared
    }

    fn write_presence(&self, blocks: Range<u32>) -> io::Result<()> {
        let words = blocks.start as usize / 64..(blocks.end as usize).div_ceil(64);
        let bytes: Vec<u8> = self.presence[words.clone()]
            .iter()
            .flat_map(|word| word.load(Ordering::Acquire).to_le_bytes())
            .collect();
        self.file.write_all_at(&bytes, PRESENCE_AT + words.start as u64 * 8)
    }
}
