//! What went wrong with HDFS, for people and for the engine. Pure.

use std::io;

use hdfs_native::HdfsError;

use super::Shared;
use super::name_nodes::{Failure, exception};
use crate::OriginError;
use crate::kerberos;

/// What was asked for when something went wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// A folder, by its path.
    Listing(&'a str),
    /// A file, by its key.
    File(&'a str),
}

impl Shared {
    pub(super) fn explain(&self, failure: Failure, asked: Asked<'_>) -> OriginError {
        let place = self.place();
        let error = match failure {
            Failure::Nobody(done) => {
                return OriginError::Unreachable(format!(
                    "{place} has no NameNode that is there and active ({done}); check nameNodes of the source, name resolution and the \
                     network from the cache nodes"
                ));
            }
            Failure::NotAllowed(why) => {
                return OriginError::NotAllowed(format!("{place} may not be reached: {why}"));
            }
            Failure::Kerberos(error) => return by_kerberos(&place, error),
            Failure::Refused(error) => error,
        };
        let (class, text) = match &error {
            HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text) => {
                (exception(class), text.as_str())
            }
            _ => ("", ""),
        };
        let what = match asked {
            Asked::Listing(path) => format!("the folder {path:?}"),
            Asked::File(key) => key.to_owned(),
        };
        match (&error, class, asked) {
            (HdfsError::FileNotFound(_), _, Asked::File(key)) | (_, "FileNotFoundException", Asked::File(key)) => {
                OriginError::Drifted(format!(
                    "{key} is gone from {place}; refresh the Dataset and restart the pods that need it"
                ))
            }
            (HdfsError::FileNotFound(_), ..)
            | (_, "FileNotFoundException" | "ParentNotDirectoryException" | "UnresolvedPathException", _) => {
                OriginError::NotFound(format!("{place} does not exist; check the path of the source"))
            }
            (_, "AccessControlException" | "AuthorizationException", _) => OriginError::Denied(format!(
                "{place} does not let {} read {what} ({class}); check as whom the source reads, and that it may list and read",
                self.reader
            )),
            (_, "SafeModeException", _) => self.safe_mode(),
            (_, "RetriableException", _) if text.contains("SafeMode") || text.contains("safe mode") => self.safe_mode(),
            (_, "RetriableException" | "RpcServerException", _) => OriginError::Throttled {
                text: format!("{place} asks to slow down ({class}); if it stays so, read with fewer pods"),
                wait: None,
            },
            (HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_), ..) => OriginError::Unreachable(format!(
                "no DataNode of {place} gives all blocks of {what}; check that they are alive and that cache nodes reach the \
                 addresses by which the NameNode knows them (`hdfs fsck` says which blocks are missing)"
            )),
            (HdfsError::IOError(error), ..) if error.kind() == io::ErrorKind::TimedOut => OriginError::Unreachable(
                format!("{place} fell silent while it was asked for {what}; it is tried again"),
            ),
            (HdfsError::IOError(_), ..) | (_, "StandbyException", _) => OriginError::Unreachable(format!(
                "{place} broke off while it was asked for {what}; it is tried again"
            )),
            (HdfsError::ChecksumError, ..) => OriginError::Other(format!(
                "a DataNode of {place} sent bytes of {what} that do not match its own checksum of them; it is asked again"
            )),
            (HdfsError::UnsupportedFeature(_) | HdfsError::UnsupportedErasureCodingPolicy(_), ..) => {
                OriginError::Invalid(format!(
                    "{what} in {place} is encrypted, or stored in a way that is not known here; copy it to a folder that is neither"
                ))
            }
            _ if class.is_empty() => OriginError::Other(format!(
                "{place} answered {what} with what is not understood; it is tried again"
            )),
            _ => OriginError::Other(format!(
                "{place} answered {what} with an error ({class}); it is tried again"
            )),
        }
    }

    fn safe_mode(&self) -> OriginError {
        OriginError::Unreachable(format!(
            "{} is in safe mode, as after a start; wait until enough DataNodes are there (`hdfs dfsadmin -safemode get` says so)",
            self.place()
        ))
    }
}

/// Why there is no ticket for a place.
fn by_kerberos(place: &str, error: kerberos::Error) -> OriginError {
    let text = format!("{place} cannot be read: {error}");
    match error {
        kerberos::Error::Invalid(_) | kerberos::Error::UnknownRealm(_) => OriginError::Invalid(text),
        kerberos::Error::NotAllowed { .. } => OriginError::NotAllowed(text),
        kerberos::Error::Unreachable { .. } => OriginError::Unreachable(text),
        kerberos::Error::Denied(_)
        | kerberos::Error::NoService(_)
        | kerberos::Error::Service(_)
        | kerberos::Error::Clocks => OriginError::Denied(text),
        kerberos::Error::Garbled(_) => OriginError::Other(text),
    }
}
