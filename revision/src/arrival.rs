//! A package that comes from somebody else, a piece after the other, to a file if there may be one.

use std::io::{self, Write};

use penstock_protocol::ids::RevisionId;

use crate::contents::Draft;
use crate::package::{Package, PackageError};
use crate::scratch::Scratch;

/// What arrived of it.
pub struct Arrival(Draft);

impl Arrival {
    /// Nothing of it yet. It goes to a file, if there may be one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn new(scratch: &Scratch) -> io::Result<Self> {
        Draft::of_any_length(scratch).map(Self)
    }

    /// The package, if it is the one with this id.
    ///
    /// # Errors
    /// When it is anything else, or cannot be read.
    pub fn finish(self, id: &RevisionId) -> Result<Package, PackageError> {
        let Self(draft) = self;
        let (contents, digest) = draft.finish(0, &[])?;
        Package::of_id(contents, RevisionId(digest), id)
    }
}

impl Write for Arrival {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
