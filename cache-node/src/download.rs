//! A package that comes from another cache node, to a file as it arrives. It must not know for whom.

use std::io::{self, Write};

use penstock_cache_client::{CacheClient, ClientError};
use penstock_protocol::ids::RevisionId;
use penstock_revision::limits::PACKAGE_BYTES_MAX;
use penstock_revision::{Arrival, Package, PackageError, Scratch};
use tokio::task::spawn_blocking;

/// Why it is not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadFailure {
    /// Nobody gave it whole.
    #[error("{0}")]
    Unanswered(ClientError),
    /// There is no room for it.
    #[error("the disk takes no package: {0}")]
    Disk(io::Error),
    /// It is not what was asked for.
    #[error("the package arrived damaged: {0}")]
    Damaged(PackageError),
    /// A fault of this program.
    #[error("the check of a package ended early: {0}")]
    Ended(tokio::task::JoinError),
}

/// The package of a revision, from whoever the client asks.
pub(crate) async fn download(
    client: &CacheClient,
    revision: RevisionId,
    scratch: &Scratch,
) -> Result<Package, DownloadFailure> {
    let mut arrival = Arrival::new(scratch).map_err(DownloadFailure::Disk)?;
    let mut bytes = 0;
    // Into the kernel's memory, a frame at a time.
    let sink = |piece: &[u8]| {
        bytes += piece.len() as u64;
        if bytes > PACKAGE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        arrival.write_all(piece)
    };
    let downloaded = client.package(&revision, sink).await;
    downloaded.map_err(DownloadFailure::Unanswered)?;
    let finished = spawn_blocking(move || arrival.finish(&revision)).await;
    finished
        .map_err(DownloadFailure::Ended)?
        .map_err(DownloadFailure::Damaged)
}
