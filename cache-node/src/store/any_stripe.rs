//! A stripe whose files anybody wrote, for whoever tries it with any bytes (`fuzz/`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::BLOCKS;

use super::stripe::{Look, Stripe, Waiting};

/// The stripe.
pub struct AnyStripe(Stripe);

impl AnyStripe {
    /// Opens the files of a stripe in a folder.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(folder: &Path, space: SpaceId, number: u64) -> io::Result<Self> {
        Stripe::open(folder, space, number).map(Self)
    }

    /// Its files, read-only: data and side file.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn files(&self) -> io::Result<[File; 2]> {
        self.0.files()
    }

    /// Whether all of a range is there and matches; its bytes are in `into` then.
    pub fn read(&self, range: BlockRange, into: &mut [u8]) -> bool {
        matches!(self.0.look(range, into, None, Waiting::Allowed), Look::Hit)
    }

    /// All cells, as blocks of the stripe.
    pub fn cells(&self) -> impl Iterator<Item = Range<u32>> {
        self.0.cells(0..BLOCKS)
    }

    /// Stores whole blocks with their checksums; returns how many are new.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn store(&self, range: BlockRange, bytes: &[u8], checksums: &[u32]) -> io::Result<u64> {
        self.0.store(range, bytes, checksums)
    }

    /// Makes the cell of a block missing; returns its blocks.
    pub fn evict(&self, block: u32) -> Range<u32> {
        self.0.evict(block)
    }

    /// Gives the disk what evicted blocks took up.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn punch(&self) -> io::Result<bool> {
        self.0.punch()
    }
}
