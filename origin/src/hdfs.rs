//! A folder of HDFS, read from its DataNodes as a user who is believed (simple authentication), or as a principal of Kerberos.
//!
//! A file's version is its length and the time of its last change, to the millisecond: NameNodes say nothing better to clients.
//! The blocks of a file never change, so a read gets the list of them, then makes sure that the file is still the one that was
//! listed, and again when all but the last piece has come. What can happen to a file:
//!
//! - Overwritten, deleted, renamed, appended to, truncated: length or time differ, the moment that it is closed. That is drift.
//! - Being written: it has the blocks that are complete, or what the writer made known of the last one too, and the time at which
//!   it was begun. Complete blocks are read, the last one is not, and when the file is closed its time changes, which is drift. So
//!   it is listed too short until the first refresh after that. Nothing that clients get to see says that a file is open.
//! - Another file of the same length and the same time (`setTimes`, a rename, `distcp -pt`) is not told from it.
//!
//! A DataNode's address is what the NameNode says. It is **not checked** as others are, because hdfs-native connects there by itself: a
//! NameNode of somebody's own can have a request of HDFS, with words of its choice in it, sent to any address (the threat model says
//! what to do). What comes back reaches nobody unless it is a block.

mod explain;
mod name_nodes;
mod open_files;
mod relay;
mod rpc;
mod sasl;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use hdfs_native::HdfsError;
use hdfs_native::client::{FileStatus, ListStatusIterator};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};

use self::explain::Asked;
use self::name_nodes::{Failure, Held, NameNodes, Who, guarded};
use self::open_files::OpenFiles;
use crate::kerberos::Identity;
use crate::limits::{HDFS_LISTINGS_MAX, HDFS_PAGE_FILES};
use crate::transport::{self, Wrong};
use crate::{Body, Network, Origin, OriginError, Pages};

const USER: &str = "hdfs";

/// A folder of HDFS.
pub struct HdfsOrigin(Arc<Shared>);

struct Shared {
    name_nodes: NameNodes,
    names: Vec<String>,
    /// As whom, for people.
    reader: String,
    /// Path without a slash at the end.
    folder: String,
    silence_max: Duration,
    open_files: OpenFiles,
}

/// A folder that is to be listed.
struct Folder {
    path: String,
    modified_unix_nanos: i64,
}

/// Some of what a folder holds.
#[derive(Default)]
struct Part {
    files: Vec<Listed>,
    folders: Vec<Folder>,
    /// Has more.
    rest: Option<Held<ListStatusIterator>>,
}

/// What of a listing is under way.
struct Walk<'a> {
    waiting: VecDeque<Folder>,
    running: FuturesUnordered<BoxFuture<'a, Result<Part, OriginError>>>,
}

impl HdfsOrigin {
    /// Makes the client; asks nobody yet.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(config: wire::Hdfs, network: &Network) -> Result<Self, OriginError> {
        let wire::Hdfs {
            name_nodes,
            path,
            user,
            key,
            kdcs,
        } = config;
        let invalid = |text: &str| OriginError::Invalid(format!("hdfs://{}{path}: {text}", name_nodes.join(",")));
        let folder = path.trim_end_matches('/');
        let is_path = folder.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        if !path.starts_with('/') || !is_path {
            return Err(invalid(
                "the path of a folder begins with a slash and has no part `.` or `..` and none that is empty; correct it",
            ));
        }
        let (who, reader) = match key {
            Some(_) if !user.is_empty() => {
                return Err(invalid(
                    "with credentialsSecretRef files are read as the principal of the Secret; take `user` away",
                ));
            }
            Some(key) => {
                let identity = Identity::new(&key, &kdcs, &network.reach);
                let identity = identity.map_err(|error| invalid(&error.to_string()))?;
                let reader = format!("the principal {}", identity.principal());
                (Who::Kerberos(Arc::new(identity)), reader)
            }
            None => {
                let user = if user.is_empty() { USER.to_owned() } else { user };
                let reader = format!("the user {user}");
                (Who::Simple(user), reader)
            }
        };
        let silence_max = network.silence_max;
        let nodes = NameNodes::new(&name_nodes, &who, network).map_err(|text| invalid(&text))?;
        Ok(Self(Arc::new(Shared {
            name_nodes: nodes,
            folder: folder.to_owned(),
            names: name_nodes,
            reader,
            silence_max,
            open_files: OpenFiles::default(),
        })))
    }
}

impl Shared {
    fn place(&self) -> String {
        format!("hdfs://{}{}/", self.names.join(","), self.folder)
    }

    /// The first part of a folder.
    async fn folder(&self, folder: Folder) -> Result<Part, OriginError> {
        let path = if folder.path.is_empty() { "/" } else { &folder.path };
        let found = self.name_nodes.call(|client| async move {
            let entries = client.list_status_iter(path, false);
            Ok((some(&entries).await?, entries))
        });
        let mut first = Vec::new();
        let entries = match found.await {
            Ok(found) => found.map(|(some, entries)| {
                first = some;
                entries
            }),
            // Deleted in the meantime.
            Err(Failure::Refused(HdfsError::FileNotFound(_))) if folder.path != self.folder => {
                return Ok(Part::default());
            }
            Err(failure) => return Err(self.explain(failure, Asked::Listing(&folder.path))),
        };
        if first.is_empty() && folder.path != self.folder {
            let key = folder
                .path
                .strip_prefix(&self.folder)
                .and_then(|path| path.strip_prefix('/'));
            let marker = Listed {
                key: format!("{}/", key.unwrap_or_default()),
                bytes: 0,
                modified_unix_nanos: folder.modified_unix_nanos,
                version: Version::Modified(folder.modified_unix_nanos),
            };
            return Ok(Part {
                files: vec![marker],
                ..Part::default()
            });
        }
        self.part(first, entries)
    }

    /// Another part of it. It is the same NameNode's: when that is active no more the listing ends, and begins anew another time.
    async fn rest(&self, entries: Held<ListStatusIterator>) -> Result<Part, OriginError> {
        self.name_nodes.asks_more().await;
        let more = guarded(self.silence_max, some(&entries)).await;
        let more = more.map_err(|error| self.explain(Failure::Refused(error), Asked::Listing(&self.folder)))?;
        self.part(more, entries)
    }

    fn part(&self, found: Vec<FileStatus>, entries: Held<ListStatusIterator>) -> Result<Part, OriginError> {
        let rest = (found.len() == HDFS_PAGE_FILES).then_some(entries);
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for status in found {
            let modified_unix_nanos = modified(&status);
            let key = status
                .path
                .strip_prefix(&self.folder)
                .and_then(|path| path.strip_prefix('/'));
            let Some(key) = key else {
                return Err(OriginError::NotFound(format!(
                    "{} is a file and no folder; name the folder that it is in as the path of the source",
                    self.place()
                )));
            };
            if status.isdir {
                folders.push(Folder {
                    path: status.path,
                    modified_unix_nanos,
                });
            } else {
                files.push(Listed {
                    key: key.to_owned(),
                    bytes: status.length as u64,
                    modified_unix_nanos,
                    version: Version::Modified(modified_unix_nanos),
                });
            }
        }
        Ok(Part { files, folders, rest })
    }

    /// Whether a file is still the one that was listed.
    async fn prove(&self, key: &str, bytes: u64, version: i64) -> Result<(), OriginError> {
        let path = format!("{}/{key}", self.folder);
        let status = self.name_nodes.call(|client| {
            let path = &path;
            async move { client.get_file_info(path).await }
        });
        let status = status
            .await
            .map_err(|failure| self.explain(failure, Asked::File(key)))?;
        let is_it = !status.isdir && status.length as u64 == bytes && modified(&status) == version;
        is_it
            .then_some(())
            .ok_or_else(|| transport::drifted(&self.place(), key))
    }

    /// The pieces of a range, of a file that was the one that was listed when its blocks were looked up.
    async fn pieces(
        &self,
        key: &str,
        bytes: u64,
        version: i64,
        range: &Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, HdfsError>>, OriginError> {
        let opened = match self.open_files.get(key, bytes, version) {
            Some(opened) => {
                self.prove(key, bytes, version).await?;
                opened
            }
            None => {
                let path = format!("{}/{key}", self.folder);
                let opened = self.name_nodes.call(|client| {
                    let path = &path;
                    async move { client.read(path).await }
                });
                let opened = opened
                    .await
                    .map_err(|failure| self.explain(failure, Asked::File(key)))?;
                self.prove(key, bytes, version).await?;
                self.open_files.remember(key, bytes, version, opened)
            }
        };
        if (opened.file_length() as u64) < range.end {
            return Err(OriginError::Drifted(format!(
                "{key} in {} is being written; refresh the Dataset when that is done, and restart the pods that need it",
                self.place()
            )));
        }
        let invalid = |_| OriginError::Invalid(format!("{key} is larger than this machine can read"));
        let from = usize::try_from(range.start).map_err(invalid)?;
        let length = usize::try_from(range.end - range.start).map_err(invalid)?;
        let pieces = guarded(self.silence_max, async {
            let pieces = opened.read_range_stream(from, length);
            // It may ask its NameNode.
            Ok(pieces.inspect(move |_| _ = &opened).boxed())
        });
        pieces
            .await
            .map_err(|error| self.explain(Failure::Refused(error), Asked::File(key)))
    }
}

/// The next entries of a folder.
async fn some(entries: &ListStatusIterator) -> Result<Vec<FileStatus>, HdfsError> {
    let mut found = Vec::new();
    while found.len() < HDFS_PAGE_FILES {
        match entries.next().await {
            Some(status) => found.push(status?),
            None => break,
        }
    }
    Ok(found)
}

/// When a file changed last, nanoseconds since 1970; 0 for a time that is after 2262.
fn modified(status: &FileStatus) -> i64 {
    let unix_nanos = status.modification_time.checked_mul(1_000_000);
    unix_nanos.and_then(|nanos| i64::try_from(nanos).ok()).unwrap_or(0)
}

#[async_trait]
impl Origin for HdfsOrigin {
    fn identity(&self) -> String {
        self.0.place()
    }

    fn place(&self) -> String {
        self.0.place()
    }

    fn list(&self) -> Pages<'_> {
        let shared = &*self.0;
        let top = Folder {
            path: shared.folder.clone(),
            modified_unix_nanos: 0,
        };
        let walk = Walk {
            waiting: VecDeque::from([top]),
            running: FuturesUnordered::new(),
        };
        let pages = futures::stream::try_unfold(walk, move |mut walk| async move {
            while walk.running.len() < HDFS_LISTINGS_MAX
                && let Some(folder) = walk.waiting.pop_back()
            {
                walk.running.push(shared.folder(folder).boxed());
            }
            let Some(part) = walk.running.next().await else {
                return Ok(None);
            };
            let Part { files, folders, rest } = part?;
            walk.waiting.extend(folders);
            if let Some(rest) = rest {
                walk.running.push(shared.rest(rest).boxed());
            }
            Ok(Some((files, walk)))
        });
        pages.boxed()
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let ObjectVersion {
            source: _,
            key,
            version,
        } = object;
        let shared = self.0.clone();
        let Version::Modified(version) = *version else {
            return Err(Wrong::NoVersion.explain(&shared.place(), key));
        };
        let pieces = shared.pieces(key, bytes, version, &range).await?;
        let (left, key) = (range.end - range.start, key.clone());
        let body = futures::stream::try_unfold((pieces, left), move |(mut pieces, left)| {
            let (shared, key) = (shared.clone(), key.clone());
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let piece = guarded(shared.silence_max, async { pieces.next().await.transpose() }).await;
                let broken = |error| {
                    // Whoever has the blocks may be another one by now.
                    shared.open_files.forget(&key);
                    shared.explain(Failure::Refused(error), Asked::File(&key))
                };
                let ended = || HdfsError::IOError(io::ErrorKind::UnexpectedEof.into());
                let piece = piece.and_then(|piece| piece.ok_or_else(ended)).map_err(broken)?;
                let left = left.checked_sub(piece.len() as u64);
                let left = left.ok_or_else(|| Wrong::OtherRange.explain(&shared.place(), &key))?;
                if left == 0 {
                    shared.prove(&key, bytes, version).await?;
                }
                Ok(Some((piece, (pieces, left))))
            }
        });
        Ok(body.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_told_as_what_it_is() {
        let config = wire::Hdfs {
            name_nodes: vec!["nn:8020".to_owned()],
            path: "/data".to_owned(),
            ..Default::default()
        };
        let origin = HdfsOrigin::new(config, &Network::default()).unwrap();
        let java = |class: &str, text: &str| HdfsError::RPCError(format!("org.apache.hadoop.{class}"), text.to_owned());
        let gone = || HdfsError::FileNotFound("/data/file".to_owned());
        let (file, listing) = (Asked::File("file"), Asked::Listing("/data"));
        type Kind = fn(String) -> OriginError;
        let throttled: Kind = |text| OriginError::Throttled { text, wait: None };
        for (error, asked, kind, says) in [
            (gone(), file, OriginError::Drifted as Kind, "file is gone from"),
            (gone(), listing, OriginError::NotFound, "check the path"),
            (
                java("fs.FileNotFoundException", ""),
                file,
                OriginError::Drifted,
                "is gone from",
            ),
            (
                java("security.AccessControlException", ""),
                listing,
                OriginError::Denied,
                "the user hdfs read the folder",
            ),
            (
                java("hdfs.server.namenode.SafeModeException", ""),
                file,
                OriginError::Unreachable,
                "safe mode",
            ),
            (
                java("ipc.RetriableException", "...SafeModeException: x"),
                file,
                OriginError::Unreachable,
                "safe mode",
            ),
            (
                java("ipc.RetriableException", "Server too busy"),
                file,
                throttled,
                "slow down",
            ),
            (
                java("ipc.StandbyException", ""),
                listing,
                OriginError::Unreachable,
                "broke off",
            ),
            (
                java("x.Y$Odd", "a\n secret"),
                listing,
                OriginError::Other,
                "an error (Odd)",
            ),
            (
                HdfsError::DataTransferError("secret".to_owned()),
                file,
                OriginError::Unreachable,
                "no DataNode of",
            ),
            (
                HdfsError::IOError(io::ErrorKind::TimedOut.into()),
                file,
                OriginError::Unreachable,
                "fell silent",
            ),
            (HdfsError::ChecksumError, file, OriginError::Other, "its own checksum"),
            (
                HdfsError::UnsupportedFeature("secret".to_owned()),
                file,
                OriginError::Invalid,
                "is encrypted",
            ),
        ] {
            let shown = format!("{error:?}");
            let told = origin.0.explain(Failure::Refused(error), asked);
            let text = told.to_string();
            assert_eq!(told, kind(text.clone()), "{shown}");
            assert!(text.contains(says) && !text.contains("secret"), "{shown}: {text}");
        }
    }
}
