//! Where the bytes of a space come from.

use async_trait::async_trait;
use penstock_protocol::geometry::BlockRange;

/// What a look without waiting found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// All bytes are in the buffer, and their checksums matched.
    Hit,
    /// Not all of it is at hand. The buffer's content means nothing.
    Miss,
}

/// Why bytes cannot be had; the reader of the file gets EIO.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// The origin no longer has the object in the version of this revision, and it is not cached.
    #[error("{0}")]
    Drifted(String),
    /// Neither a cache node nor the origin answered until the deadline.
    #[error("{0}")]
    Unavailable(String),
}

/// Reads blocks of one revision's space.
#[async_trait]
pub trait SpaceReader: Send + Sync + 'static {
    /// Reads without waiting for a network. `into` has the length of `range`. Called on the threads that serve the kernel.
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead;

    /// Reads, fetching what is missing. `into` has the length of `range`; the bytes were checked against their checksums.
    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure>;
}

/// A plain file as a space, without checksums: the reference that shows what FUSE alone costs.
pub struct PlainFile(pub std::fs::File);

#[async_trait]
impl SpaceReader for PlainFile {
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        use std::os::unix::fs::FileExt;
        match self.0.read_exact_at(into, range.address()) {
            Ok(()) => TryRead::Hit,
            Err(_) => TryRead::Miss,
        }
    }

    async fn read(&self, range: BlockRange, _: &mut [u8]) -> Result<(), ReadFailure> {
        Err(ReadFailure::Unavailable(format!(
            "the file ends before {}",
            range.end()
        )))
    }
}
