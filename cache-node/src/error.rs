//! Why an engine cannot begin, and why blocks cannot be read.

use std::io;
use std::path::PathBuf;

use penstock_protocol::ids::RevisionId;

use penstock_origin::OriginError;

/// Why an engine cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder of a tier cannot be used.
    #[error("open the cache folder {}: {source}; it has to be a folder that this user can write", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tiers make no sense, as a sentence.
    #[error("{0}")]
    Nonsense(String),
}

/// Why blocks cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision was not announced here.
    #[error("this cache node does not know revision {0}")]
    UnknownRevision(RevisionId),
    /// The origin no longer has the object in this version.
    #[error("{0}")]
    Drifted(String),
    /// The origin cannot be reached or refuses; it may pass.
    #[error("{0}")]
    Unavailable(String),
}

impl From<OriginError> for ReadError {
    fn from(error: OriginError) -> Self {
        match error {
            OriginError::Drifted(text) => Self::Drifted(text),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
