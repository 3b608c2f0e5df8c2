//! A folder of another Dataset as an origin: names come out of that Dataset's newest package, bytes out of its cache nodes, which
//! ask the real origin for what they lack. Nothing is cached twice, and no keys are needed.
//!
//! A version of an object here is its place in the other Dataset's space: an address there never means two objects.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use penstock_cache_client::{CacheClient, ClientError};
use penstock_origin::{Body, Origin, OriginError, Pages};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::erofs::reader::{Damaged, Image, Inode};
use penstock_revision::limits::PACKAGE_BYTES_MAX;
use penstock_revision::{Listed, ObjectVersion, Package, Version};
use penstock_tls::Identity;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::limits::{
    LISTED_PAGE_OBJECTS, OTHER_DATASET_PATIENCE, OTHER_PACKAGES_MAX, OTHER_READ_BYTES, UNIT_BYTES_MAX,
};

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
    /// Those that were looked into, the last one at the end.
    packages: Mutex<VecDeque<Package>>,
}

impl OtherDataset {
    /// The folder; asks nobody yet. With an identity it speaks TLS.
    pub fn new(told: wire::OtherDataset, identity: Option<Arc<Identity>>) -> Self {
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
            packages: Mutex::default(),
        }))
    }
}

impl Inner {
    async fn listed(&self) -> Result<Vec<Listed>, OriginError> {
        let Some(newest) = self.revisions.first() else {
            return Err(OriginError::NotFound(format!(
                "the Dataset {} has no revision yet; it is waited for",
                self.name
            )));
        };
        let package = self.package(newest).await?;
        let path = self.path.clone();
        let found = spawn_blocking(move || files(&package, &path)).await;
        let found = found.map_err(|error| OriginError::Other(format!("look into {}: {error}", self.name)))?;
        let found = found.map_err(|Damaged(error)| self.damaged(&error))?;
        found.ok_or_else(|| {
            OriginError::NotFound(format!(
                "the Dataset {} has no folder {:?}; correct the path of the source",
                self.name, self.path
            ))
        })
    }

    /// A package of the other Dataset. One is looked for at a time: who comes second finds it.
    async fn package(&self, revision: &RevisionId) -> Result<Package, OriginError> {
        let mut packages = self.packages.lock().await;
        if let Some(at) = packages.iter().position(|package| package.id() == *revision) {
            let package = packages.remove(at).ok_or_else(|| self.damaged("it went away"))?;
            packages.push_back(package.clone());
            return Ok(package);
        }
        let mut bytes = Vec::new();
        let sink = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            let fits = bytes.len() as u64 <= PACKAGE_BYTES_MAX;
            fits.then_some(())
                .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))
        };
        let downloaded = self.client.package(revision, sink).await;
        downloaded.map_err(|error| self.unanswered(&error))?;
        let package = Package::verified(bytes.into(), revision).map_err(|error| self.damaged(&error.to_string()))?;
        if packages.len() >= OTHER_PACKAGES_MAX {
            packages.pop_front();
        }
        packages.push_back(package.clone());
        Ok(package)
    }

    /// A revision that is served and has an object at this place. Without looking, an address that is not served any more would
    /// read as zeros.
    async fn revision_with(&self, place: Place, bytes: u64, key: &str) -> Result<RevisionId, OriginError> {
        for revision in &self.revisions {
            let package = self.package(revision).await?;
            if package.space() != place.space {
                continue;
            }
            let Some(first) = BlockRange::covering(place.address, 1).next() else {
                continue;
            };
            let extents = package.extents(first);
            let extents = extents.map_err(|error| self.damaged(&error.to_string()))?;
            if extents
                .iter()
                .any(|extent| extent.address == place.address && extent.bytes == bytes)
            {
                return Ok(*revision);
            }
        }
        Err(OriginError::Drifted(format!(
            "no revision that the Dataset {} still serves has {key} as it was",
            self.name
        )))
    }

    async fn piece(&self, revision: &RevisionId, space: &SpaceId, piece: BlockRange) -> Result<Bytes, OriginError> {
        let mut bytes = vec![0; piece.bytes() as usize];
        let read = self.client.read(revision, space, piece, &mut bytes).await;
        read.map_err(|error| self.unanswered(&error))?;
        Ok(bytes.into())
    }

    fn unanswered(&self, error: &ClientError) -> OriginError {
        match error {
            ClientError::Drifted(said) => OriginError::Drifted(said.clone()),
            ClientError::Unavailable { last, .. } => OriginError::Unreachable(format!(
                "no cache node of the Dataset {} could help ({last}); look at its conditions",
                self.name
            )),
        }
    }

    fn damaged(&self, error: &str) -> OriginError {
        OriginError::Other(format!("a package of the Dataset {} is damaged: {error}", self.name))
    }
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
        let pages = stream::once(self.0.listed()).map_ok(|mut left| {
            let pages = std::iter::from_fn(move || {
                let page: Vec<_> = left.drain(..left.len().min(LISTED_PAGE_OBJECTS)).collect();
                (!page.is_empty()).then_some(Ok(page))
            });
            stream::iter(pages)
        });
        pages.try_flatten().boxed()
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The files below a folder of a package, and its folders without any; `None` when there is no such folder.
fn files(package: &Package, folder: &str) -> Result<Option<Vec<Listed>>, Damaged> {
    let image = package.image().map_err(|error| Damaged(error.to_string()))?;
    let image = Image::open(image.into())?;
    let is_folder = match image.lookup(folder)? {
        Some(node) => image.inode(node)?.is_directory(),
        None => false,
    };
    if !is_folder {
        return Ok(None);
    }
    let mut found = Vec::new();
    // A folder of which nothing was seen yet.
    let mut unfilled: Option<Listed> = None;
    image.walk(|path, _, inode| {
        let below = match folder {
            "" => Some(path),
            folder => path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(key) = below else { return };
        if let Some(marker) = unfilled.take().filter(|marker| !key.starts_with(&marker.key)) {
            found.push(marker);
        }
        if inode.is_directory() {
            unfilled = Some(listed(format!("{key}/"), inode, package.space()));
        } else {
            found.push(listed(key.to_owned(), inode, package.space()));
        }
    })?;
    found.extend(unfilled);
    Ok(Some(found))
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
            let found = files(&package, folder).unwrap().map(|found| {
                let mut names: Vec<_> = found.iter().map(|one| format!("{} {}", one.key, one.bytes)).collect();
                names.sort();
                names
            });
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, expected, "{folder}");
        }
        let found = files(&package, "a/deep").unwrap().unwrap();
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
