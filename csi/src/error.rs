//! One error for all services, and its one translation into a gRPC status. The kubelet shows the sentence as an event of
//! the pod, so it says what is wrong, where, and what to do.
//!
//! The code decides what the kubelet does: after UNAVAILABLE, ABORTED and RESOURCE_EXHAUSTED it keeps its state and calls
//! again; everything else is final, and it may remove the target.

use std::io;
use std::path::{Path, PathBuf};

use penstock_mount::MountError;
use tonic::{Code, Status};

use crate::keeper::KeeperError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Another call for the same target is under way.
    #[error("another call for {} is under way; it will be tried again", .0.display())]
    Busy(PathBuf),
    /// Something that the volume names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The pod may not have this volume.
    #[error("{0}")]
    Denied(String),
    /// Not yet; later it may work.
    #[error("{0}")]
    NotReady(String),
    /// Something else is mounted at the target.
    #[error("{} is mounted already, by something that is not Penstock; unmount it on the node", .0.display())]
    Occupied(PathBuf),
    /// Nothing of ours is mounted there.
    #[error("no volume of Penstock is mounted at {}", .0.display())]
    NotOurs(PathBuf),
    /// The mounter of this node.
    #[error(transparent)]
    Mounter(#[from] KeeperError),
    /// The package is not the one whose digest the Dataset names.
    #[error(
        "a cache node sent a damaged package of revision {wanted}: {why}. Nothing was mounted; it will be fetched again"
    )]
    Package {
        /// The revision.
        wanted: String,
        /// What is wrong with it.
        why: String,
    },
    /// The API server did not answer as it should.
    #[error("the Kubernetes API server could not be asked for {what}: {why}; it will be tried again")]
    Api {
        /// What was asked for.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// The kernel refused a mount.
    #[error(transparent)]
    Kernel(#[from] MountError),
    /// A file of the node.
    #[error("{operation} {}: {source}", .path.display())]
    File {
        /// What was tried, as a verb phrase.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// For `map_err`: a failed operation on a file.
    pub fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Busy(_) => Code::Aborted,
            Self::NotFound(_) | Self::NotOurs(_) => Code::NotFound,
            Self::Denied(_) => Code::PermissionDenied,
            Self::NotReady(_) | Self::Api { .. } | Self::Package { .. } => Code::Unavailable,
            Self::Occupied(_) => Code::FailedPrecondition,
            Self::Mounter(error) if error.may_pass() => Code::Unavailable,
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::ResourceExhausted,
            Self::Mounter(_) | Self::Kernel(_) | Self::File { .. } | Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_not_final_for_the_kubelet() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let broken = io::Error::from(io::ErrorKind::PermissionDenied);
        for (error, code) in [
            (Error::NotReady("later".into()), Code::Unavailable),
            (Error::Mounter(KeeperError::NoMounter), Code::Unavailable),
            (Error::Busy("/t".into()), Code::Aborted),
            (Error::file("write", Path::new("/f"))(full), Code::ResourceExhausted),
            (Error::file("write", Path::new("/f"))(broken), Code::Internal),
            (Error::NotOurs("/t".into()), Code::NotFound),
        ] {
            assert_eq!(Status::from(error).code(), code);
        }
    }
}
