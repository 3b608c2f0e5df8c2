//! The files of a stripe that anybody wrote, for whoever tries them with any bytes (`fuzz/`).

use std::fs::File;
use std::io;

use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;

use super::stripe::{Look, NearStripe};

/// The files.
pub struct NearFiles(NearStripe);

impl NearFiles {
    /// Checks that they are of this stripe: data and side file.
    ///
    /// # Errors
    /// When they are not.
    pub fn new(files: [File; 2], space: &SpaceId, stripe: u64) -> io::Result<Self> {
        NearStripe::new(files, space, stripe).map(Self)
    }

    /// Whether all of a range is there and matches; its bytes are in `into` then.
    pub fn read(&self, space: &SpaceId, range: BlockRange, into: &mut [u8]) -> bool {
        self.0.read(space, range, into) == Look::Hit
    }
}
