//! A folder of another Dataset as an origin: names come out of that Dataset's newest package, bytes out of its cache nodes, which
//! ask the real origin for what they lack. Nothing is cached twice, and no keys are needed.
//!
//! A version of an object here is its place in the other Dataset's space: an address there never means two objects.

mod packages;

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use penstock_cache_client::{CacheClient, ClientError};
use penstock_origin::{Body, Origin, OriginError, Pages};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::erofs::reader::Inode;
use penstock_revision::{Listed, ObjectVersion, Package, PackageError, Scratch, Version};
use penstock_tls::Identity;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;

use crate::download::{DownloadFailure, download};
use crate::limits::{
    LISTED_PAGE_OBJECTS, OTHER_DATASET_PATIENCE, OTHER_PLACES_MISSED_MAX, OTHER_READ_BYTES, UNIT_BYTES_MAX,
};
pub use packages::OtherPackages;

/// The version of a file without bytes, which has no place.
const EMPTY: &str = "empty";

/// The folder; clones share what was looked into.
#[derive(Clone)]
pub struct OtherDataset(Arc<Inner>);

struct Inner {
    uid: String,
    /// Namespace and name.
    name: String,
    path: String,
    client: CacheClient,
    /// Those that it serves, the newest first.
    revisions: Vec<RevisionId>,
    packages: OtherPackages,
    /// Places that none of these revisions has: nobody looks through all of them twice.
    missed: Mutex<HashSet<Place>>,
}

impl OtherDataset {
    /// The folder; asks nobody yet. With an identity it speaks TLS.
    pub fn new(told: wire::OtherDataset, packages: OtherPackages, identity: Option<Arc<Identity>>) -> Self {
        let wire::OtherDataset {
            uid,
            namespace,
            name,
            path,
            cache_nodes,
            revisions,
        } = told;
        let revisions = revisions.iter();
        Self(Arc::new(Inner {
            uid,
            name: format!("{namespace}/{name}"),
            path,
            client: CacheClient::with_identity(cache_nodes, OTHER_DATASET_PATIENCE, identity),
            revisions: revisions
                .filter_map(|id| RevisionId::try_from(id.as_slice()).ok())
                .collect(),
            packages,
            missed: Mutex::default(),
        }))
    }
}

impl Inner {
    /// Sends all files in pages; the last may be an error. As one, the names of a large Dataset would be in memory twice.
    async fn send_files(self: Arc<Self>, pages: mpsc::Sender<Result<Vec<Listed>, OriginError>>) {
        if let Err(error) = self.try_send_files(&pages).await {
            // Whoever listed has given up.
            let _ = pages.send(Err(error)).await;
        }
    }

    async fn try_send_files(&self, pages: &mpsc::Sender<Result<Vec<Listed>, OriginError>>) -> Result<(), OriginError> {
        let Some(newest) = self.revisions.first() else {
            return Err(OriginError::NotFound(format!(
                "the Dataset {} has no revision yet; it is waited for",
                self.name
            )));
        };
        let package = self.package(newest).await?;
        let (path, pages, scratch) = (self.path.clone(), pages.clone(), self.packages.scratch().clone());
        let found = spawn_blocking(move || {
            files(&package, &path, &scratch, |page| {
                // When nobody listens any more, the rest is walked in vain.
                let _ = pages.blocking_send(Ok(page));
            })
        });
        let found = found.await;
        let found = found.map_err(|error| OriginError::Other(format!("look into {}: {error}", self.name)))?;
        let found = found.map_err(|error| match error {
            PackageError::Unwritten(_) => OriginError::Other(format!(
                "look into the Dataset {}: {error}; make room on the disk of the cache node",
                self.name
            )),
            error => self.damaged(&error.to_string()),
        });
        match found? {
            true => Ok(()),
            false => Err(OriginError::NotFound(format!(
                "the Dataset {} has no folder {:?}; correct the path of the source",
                self.name, self.path
            ))),
        }
    }

    /// A package of the other Dataset.
    async fn package(&self, revision: &RevisionId) -> Result<Package, OriginError> {
        let (client, name, revision) = (self.client.clone(), self.name.clone(), *revision);
        let scratch = self.packages.scratch().clone();
        let download = async move {
            let downloaded = download(&client, revision, &scratch).await;
            downloaded.map_err(|failure| match failure {
                DownloadFailure::Unanswered(error) => unanswered(&name, &error),
                DownloadFailure::Disk(_) => {
                    OriginError::Other(format!("{failure}; make room on the disk of the cache node"))
                }
                DownloadFailure::Damaged(_) | DownloadFailure::Ended(_) => damaged(&name, &failure.to_string()),
            })
        };
        self.packages.get(revision, download).await
    }

    /// A revision that is served and has an object at this place. Without looking, an address that is not served any more would
    /// read as zeros. What is here is looked through first: who reads an older revision goes on with it.
    async fn revision_with(&self, place: Place, bytes: u64, key: &str) -> Result<RevisionId, OriginError> {
        let held = self.packages.held(&self.revisions);
        for package in &held {
            if self.has(package, place, bytes)? {
                self.packages.used(&package.id());
                return Ok(package.id());
            }
        }
        let is_missed = lock(&self.missed).contains(&place);
        if !is_missed {
            let others = self
                .revisions
                .iter()
                .filter(|id| !held.iter().any(|package| package.id() == **id));
            for revision in others {
                if self.has(&self.package(revision).await?, place, bytes)? {
                    return Ok(*revision);
                }
            }
            let mut missed = lock(&self.missed);
            if missed.len() < OTHER_PLACES_MISSED_MAX {
                missed.insert(place);
            }
        }
        Err(OriginError::Drifted(format!(
            "no revision that the Dataset {} still serves has {key} as it was",
            self.name
        )))
    }

    fn has(&self, package: &Package, place: Place, bytes: u64) -> Result<bool, OriginError> {
        let first = BlockRange::covering(place.address, 1).next();
        let Some(first) = first.filter(|_| package.space() == place.space) else {
            return Ok(false);
        };
        let extents = package.extents(first);
        let extents = extents.map_err(|error| self.damaged(&error.to_string()))?;
        let mut extents = extents.iter();
        Ok(extents.any(|extent| extent.address == place.address && extent.bytes == bytes))
    }

    async fn piece(&self, revision: &RevisionId, space: &SpaceId, piece: BlockRange) -> Result<Bytes, OriginError> {
        let mut bytes = vec![0; piece.bytes() as usize];
        let read = self.client.read(revision, space, piece, &mut bytes).await;
        read.map_err(|error| unanswered(&self.name, &error))?;
        Ok(bytes.into())
    }

    fn damaged(&self, error: &str) -> OriginError {
        damaged(&self.name, error)
    }
}

fn unanswered(name: &str, error: &ClientError) -> OriginError {
    match error {
        ClientError::Drifted(said) => OriginError::Drifted(said.clone()),
        ClientError::Unavailable { last, .. } => OriginError::Unreachable(format!(
            "no cache node of the Dataset {name} could help ({last}); look at its conditions"
        )),
    }
}

fn damaged(name: &str, error: &str) -> OriginError {
    OriginError::Other(format!("a package of the Dataset {name} is damaged: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Origin for OtherDataset {
    fn identity(&self) -> String {
        // What stands behind the last @ is not for people.
        format!("{}@{}", self.place(), self.0.uid)
    }

    fn place(&self) -> String {
        format!("dataset://{}/{}", self.0.name, self.0.path)
    }

    fn is_a_cache(&self) -> bool {
        true
    }

    fn list(&self) -> Pages<'_> {
        let (pages, listed) = mpsc::channel(1);
        tokio::spawn(self.0.clone().send_files(pages));
        ReceiverStream::new(listed).boxed()
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let key = &object.key;
        let place = match &object.version {
            Version::Id(id) => id.parse().ok(),
            Version::None | Version::ETag(_) | Version::Modified(_) => None,
        };
        let place: Place = place.ok_or_else(|| self.0.damaged(&format!("{key} has no place in its space")))?;
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let revision = self.0.revision_with(place, bytes, key).await?;
        let wanted = place.address + range.start..place.address + range.end;
        let mut pieces = pieces(&wanted);
        let whole = self.0.clone();
        let read = move |piece: BlockRange| {
            let (whole, wanted) = (whole.clone(), wanted.clone());
            async move {
                let bytes = whole.piece(&revision, &place.space, piece).await?;
                let from = wanted.start.saturating_sub(piece.address()) as usize;
                let to = (wanted.end.min(piece.end()) - piece.address()) as usize;
                Ok(bytes.slice(from..to))
            }
        };
        // The first one is the answer; whoever waits for it does not count the others.
        let Some(first) = pieces.next() else {
            return Ok(stream::empty().boxed());
        };
        let first = read(first).await?;
        let others = stream::iter(pieces).then(read);
        Ok(stream::once(async { Ok(first) }).chain(others).boxed())
    }
}

/// Whole blocks that cover addresses, in pieces of one request each.
fn pieces(wanted: &Range<u64>) -> impl Iterator<Item = BlockRange> + Send + use<> {
    BlockRange::covering(wanted.start, wanted.end - wanted.start).flat_map(|of_stripe| {
        let starts = (of_stripe.address()..of_stripe.end()).step_by(OTHER_READ_BYTES as usize);
        starts.filter_map(move |start| BlockRange::new(start, OTHER_READ_BYTES.min(of_stripe.end() - start)).ok())
    })
}

/// Where an object lies in the other Dataset's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    space: SpaceId,
    address: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}", self.space, self.address)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (space, address) = text.split_once(':').ok_or(())?;
        Ok(Self {
            space: space.parse().map_err(|_| ())?,
            address: u64::from_str_radix(address, 16).map_err(|_| ())?,
        })
    }
}

/// Gives away the files below a folder of a package, and its folders without any, in pages; false when there is no such folder.
fn files(
    package: &Package,
    folder: &str,
    scratch: &Scratch,
    mut give: impl FnMut(Vec<Listed>),
) -> Result<bool, PackageError> {
    let image = package.unpack(scratch)?;
    let Some(folder) = image.lookup(folder)? else {
        return Ok(false);
    };
    if !image.inode(folder)?.is_directory() {
        return Ok(false);
    }
    let mut page = Vec::new();
    // A folder of which nothing was seen yet.
    let mut unfilled: Option<Listed> = None;
    image.walk_below(folder, |key, _, inode| {
        page.extend(unfilled.take().filter(|marker| !key.starts_with(&marker.key)));
        if inode.is_directory() {
            unfilled = Some(listed(format!("{key}/"), inode, package.space()));
        } else {
            page.push(listed(key.to_owned(), inode, package.space()));
        }
        if page.len() >= LISTED_PAGE_OBJECTS {
            give(std::mem::take(&mut page));
        }
    })?;
    page.extend(unfilled);
    if !page.is_empty() {
        give(page);
    }
    Ok(true)
}

fn listed(key: String, inode: &Inode, space: SpaceId) -> Listed {
    let place = inode.address().map(|address| Place { space, address }.to_string());
    Listed {
        key,
        bytes: if inode.is_directory() { 0 } else { inode.bytes },
        modified_unix_nanos: inode.modified_unix_nanos,
        version: Version::Id(place.unwrap_or_else(|| EMPTY.to_owned())),
    }
}

const _: () = assert!(OTHER_READ_BYTES <= UNIT_BYTES_MAX);

#[cfg(test)]
mod tests {
    use penstock_protocol::geometry::STRIPE_BYTES;
    use penstock_revision::{BuildOptions, Outcome, SourceListing, build};

    use super::*;

    fn package(keys: &[(&str, u64)]) -> Package {
        let listed = |(key, bytes): &(&str, u64)| Listed {
            key: (*key).to_owned(),
            bytes: *bytes,
            modified_unix_nanos: 7,
            version: Version::ETag("1".into()),
        };
        let listing = SourceListing {
            identity: "s3://bucket/".into(),
            path: String::new(),
            objects: keys.iter().map(listed).collect(),
        };
        match build(SpaceId([1; 16]), None, &[listing], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => panic!("there was nothing before"),
        }
    }

    fn all_files(package: &Package, folder: &str) -> Option<Vec<Listed>> {
        let mut found = Vec::new();
        files(package, folder, &Scratch::memory(), |page| found.extend(page))
            .unwrap()
            .then_some(found)
    }

    #[test]
    fn a_folder_has_its_files_and_its_empty_folders_under_their_own_names() {
        let package = package(&[
            ("a/deep/x", 5000),
            ("a/empty/", 0),
            ("a/y", 0),
            ("ab/z", 10),
            ("top", 1),
            ("z/last/", 0),
        ]);
        for (folder, expected) in [
            ("a", Some(vec!["deep/x 5000", "empty/ 0", "y 0"])),
            ("a/deep", Some(vec!["x 5000"])),
            ("a/empty", Some(vec![])),
            (
                "",
                Some(vec![
                    "a/deep/x 5000",
                    "a/empty/ 0",
                    "a/y 0",
                    "ab/z 10",
                    "top 1",
                    "z/last/ 0",
                ]),
            ),
            ("top", None),
            ("nothing", None),
        ] {
            let found = all_files(&package, folder).map(|found| {
                let mut names: Vec<_> = found.iter().map(|one| format!("{} {}", one.key, one.bytes)).collect();
                names.sort();
                names
            });
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, expected, "{folder}");
        }
        let found = all_files(&package, "a/deep").unwrap();
        let Version::Id(id) = &found[0].version else {
            panic!("{:?}", found[0])
        };
        assert_eq!(id.parse::<Place>().unwrap().space, SpaceId([1; 16]));
    }

    #[test]
    fn a_range_is_read_in_whole_blocks_of_one_stripe_each() {
        for wanted in [
            0..1,
            4095..4097,
            100..3 * OTHER_READ_BYTES + 5,
            STRIPE_BYTES - 10..STRIPE_BYTES + 10,
        ] {
            let pieces: Vec<BlockRange> = pieces(&wanted).collect();
            assert!(pieces[0].address() <= wanted.start && pieces.last().unwrap().end() >= wanted.end);
            assert!(
                pieces.is_sorted_by(|one, next| one.end() == next.address()),
                "{pieces:?}"
            );
            let fits = |piece: &BlockRange| {
                piece.bytes() <= OTHER_READ_BYTES && (piece.end() - 1) / STRIPE_BYTES == piece.stripe()
            };
            assert!(pieces.iter().all(fits), "{pieces:?}");
        }
    }
}
