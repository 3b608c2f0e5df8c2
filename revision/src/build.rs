//! Builds a revision from what the sources list and from the revision before.
//!
//! An object version keeps its address as long as source, key, version and length stay the same; new ones are appended
//! behind the space's end; what is gone leaves dead bytes. When more is dead than alive (and at least
//! [`DEAD_BYTES_MIN`]), the revision begins a new space. Without a version nothing proves that an object is the same, so it
//! gets a new address in each revision. An object that two sources of one identity list is there once, under both paths.

use std::collections::HashMap;

use penstock_protocol::geometry::round_up_to_block;
use penstock_protocol::ids::SpaceId;

use crate::erofs;
use crate::erofs::writer::{self, ImageNode, NodeKind};
use crate::extents::DamagedExtents;
pub use crate::limits::DEAD_BYTES_MIN;
use crate::object::{Extent, Listed, ObjectVersion, SourceListing, Version};
use crate::package::{self, Package, Parts, Summary};
use crate::space::Space;
use crate::tree::{BadSourcePath, Kind, ObjectNumber, Tree, tree};

/// Owner and permission bits of the tree; origins have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of folders.
    pub directory_mode: u16,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            file_mode: 0o444,
            directory_mode: 0o555,
        }
    }
}

/// What a build came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A new revision.
    New(Package),
    /// Nothing differs from the parent.
    Unchanged,
}

/// Why no revision can be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The tree needs more than the format of the image has.
    #[error("write the EROFS image: {0}")]
    Image(#[from] writer::WriteError),
    /// The parent cannot be read; build without it, in a new space.
    #[error("read the parent revision: {0}")]
    Parent(#[from] DamagedExtents),
    /// Compression failed.
    #[error("write the package: {0}")]
    Package(#[from] std::io::Error),
    /// More sources than the table of extents can name.
    #[error("a Dataset has at most 65535 sources")]
    TooManySources,
    /// Nodes are counted in 32 bits.
    #[error("the sources list more than 4,294,967,295 objects and folders; make several Datasets of them")]
    TooManyObjects,
    /// A source cannot stand at its path.
    #[error("{0}; correct the path of the source")]
    SourcePath(#[from] BadSourcePath),
    /// Addresses end before all objects have one.
    #[error("the objects need a space of more than 8 PiB; make several Datasets of them")]
    SpaceFull,
}

/// The revision of `sources`. `new_space` is the id to use when a new space begins: random, never used before.
///
/// # Errors
/// See [`BuildError`]. Keys that a file system cannot hold are no error; they follow the rules of [`crate::tree`].
pub fn build(
    new_space: SpaceId,
    parent: Option<&Package>,
    sources: &[SourceListing],
    options: &BuildOptions,
) -> Result<Outcome, BuildError> {
    u16::try_from(sources.len()).map_err(|_| BuildError::TooManySources)?;
    let objects: usize = sources.iter().map(|source| source.objects.len()).sum();
    u32::try_from(objects).map_err(|_| BuildError::TooManyObjects)?;
    let tree = tree(sources)?;
    u32::try_from(tree.nodes.len()).map_err(|_| BuildError::TooManyObjects)?;
    let kept = parent.map(Kept::of).transpose()?.unwrap_or_default();
    let end = parent.map_or(0, |parent| parent.summary().space_bytes);
    let mut placed = place(&tree, sources, &kept, end);
    // A space that is full of dead bytes is no reason to fail.
    let begins_anew = parent.is_some() && placed.as_ref().is_none_or(Placed::is_mostly_dead);
    if begins_anew {
        placed = place(&tree, sources, &Kept::default(), 0);
    }
    drop(kept);
    let placed = placed.ok_or(BuildError::SpaceFull)?;
    let parent = parent.filter(|_| !begins_anew);
    let image = image(&tree, sources, &placed, options)?;
    let summary = Summary {
        files: placed.files,
        directories: tree.nodes.len() as u64 - placed.files,
        bytes: placed.bytes,
        space_bytes: placed.end,
        dead_bytes: placed.end - placed.live,
        awkward: tree.awkward,
    };
    if parent.is_some_and(|parent| parent.is_same(&image, &summary)) {
        return Ok(Outcome::Unchanged);
    }
    drop((tree.nodes, placed.addresses));
    Ok(Outcome::New(package::write(Parts {
        space: parent.map_or(new_space, Package::space),
        parent: parent.map(Package::id),
        summary,
        sources: placed
            .identities
            .iter()
            .map(|identity| (*identity).to_owned())
            .collect(),
        image,
        extents: extents(placed.extents, sources, &placed.identities),
    })?))
}

/// An object version as a number: half of the BLAKE3 of source, key, version and length. As nobody can find two that are
/// equal, a table of a million takes 50 MB instead of 300.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Proof([u8; 16]);

impl Proof {
    /// `None` when nothing proves that the object stays the same.
    fn of(identity: &str, key: &str, version: &Version, bytes: u64) -> Option<Self> {
        let modified;
        let (kind, version) = match version {
            Version::None => return None,
            Version::ETag(tag) => (0, tag.as_bytes()),
            Version::Modified(unix_nanos) => {
                modified = unix_nanos.to_le_bytes();
                (1, &modified[..])
            }
            Version::Id(id) => (2, id.as_bytes()),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind]);
        for part in [identity.as_bytes(), key.as_bytes(), version] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(&bytes.to_le_bytes());
        let digest = hasher.finalize();
        Some(Self(std::array::from_fn(|at| digest.as_bytes()[at])))
    }
}

/// Addresses that the parent gave, all of them before the end of its space: what is appended would get the same.
#[derive(Default)]
struct Kept(HashMap<Proof, u64>);

impl Kept {
    fn of(parent: &Package) -> Result<Self, DamagedExtents> {
        let mut addresses = HashMap::with_capacity(parent.extent_count_max());
        for extent in parent.all_extents() {
            let Extent {
                address,
                bytes,
                object: ObjectVersion { source, key, version },
            } = extent?;
            if address + round_up_to_block(bytes) > parent.summary().space_bytes {
                return Err(DamagedExtents);
            }
            let identity = parent.sources().get(usize::from(source)).ok_or(DamagedExtents)?;
            if let Some(proof) = Proof::of(identity, &key, &version, bytes) {
                addresses.insert(proof, address);
            }
        }
        Ok(Self(addresses))
    }
}

/// Where every object lies.
struct Placed<'a> {
    /// By number of the node; unused for folders and empty files.
    addresses: Vec<u64>,
    extents: Vec<(u64, ObjectNumber)>,
    /// Identities of the sources, each once.
    identities: Vec<&'a str>,
    end: u64,
    /// Bytes of the extents, in whole blocks.
    live: u64,
    files: u64,
    bytes: u64,
}

impl Placed<'_> {
    fn is_mostly_dead(&self) -> bool {
        let dead = self.end - self.live;
        dead > self.live && dead > DEAD_BYTES_MIN
    }
}

/// `None` when the space is too small.
fn place<'a>(tree: &Tree, sources: &'a [SourceListing], kept: &Kept, end: u64) -> Option<Placed<'a>> {
    let mut space = Space::ending_at(end);
    let mut placed = Placed {
        addresses: vec![0; tree.nodes.len()],
        extents: Vec::with_capacity(tree.nodes.len()),
        identities: identities(sources),
        end,
        live: 0,
        files: 0,
        bytes: 0,
    };
    // Only with an identity that stands twice an object can come twice.
    let mut once = (placed.identities.len() < sources.len()).then(HashMap::new);
    for (number, node) in tree.nodes.iter().enumerate() {
        let Kind::File(object) = node.kind else { continue };
        let Listed {
            key, bytes, version, ..
        } = object.of(sources);
        placed.files += 1;
        placed.bytes = placed.bytes.saturating_add(*bytes);
        if *bytes == 0 {
            continue;
        }
        let proof = Proof::of(&sources[usize::from(object.source)].identity, key, version, *bytes);
        let twin = once.as_ref().zip(proof).and_then(|(once, proof)| once.get(&proof));
        if let Some(address) = twin {
            placed.addresses[number] = *address;
            continue;
        }
        let address = match proof.and_then(|proof| kept.0.get(&proof)) {
            Some(address) => *address,
            None => space.append(*bytes)?,
        };
        if let Some((once, proof)) = once.as_mut().zip(proof) {
            once.insert(proof, address);
        }
        placed.addresses[number] = address;
        placed.extents.push((address, object));
        placed.live += round_up_to_block(*bytes);
    }
    placed.end = space.end();
    Some(placed)
}

fn identities(sources: &[SourceListing]) -> Vec<&str> {
    let mut identities: Vec<&str> = Vec::with_capacity(sources.len());
    for source in sources {
        if !identities.contains(&source.identity.as_str()) {
            identities.push(&source.identity);
        }
    }
    identities
}

/// Each made when it is asked for: their keys are in the listings too.
fn extents<'a>(
    mut extents: Vec<(u64, ObjectNumber)>,
    sources: &'a [SourceListing],
    identities: &[&str],
) -> impl Iterator<Item = Extent> + use<'a> {
    let number = |source: &SourceListing| identities.iter().position(|identity| *identity == source.identity);
    let numbers: Vec<u16> = sources
        .iter()
        .map(|source| number(source).unwrap_or_default() as u16)
        .collect();
    extents.sort_unstable_by_key(|(address, _)| *address);
    extents.into_iter().map(move |(address, object)| {
        let Listed {
            key,
            bytes,
            modified_unix_nanos: _,
            version,
        } = object.of(sources);
        Extent {
            address,
            bytes: *bytes,
            object: ObjectVersion {
                source: numbers[usize::from(object.source)],
                key: key.clone(),
                version: version.clone(),
            },
        }
    })
}

fn image(
    tree: &Tree,
    sources: &[SourceListing],
    placed: &Placed<'_>,
    options: &BuildOptions,
) -> Result<Vec<u8>, writer::WriteError> {
    let times = times(tree, sources);
    let nodes: Vec<ImageNode<'_>> = tree
        .nodes
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let (mode, kind) = match &node.kind {
                Kind::Directory { children } => (options.directory_mode, NodeKind::Directory { children }),
                Kind::File(object) => {
                    let bytes = object.of(sources).bytes;
                    (
                        options.file_mode,
                        NodeKind::File {
                            bytes,
                            address: placed.addresses[number],
                        },
                    )
                }
            };
            let modified_unix_nanos = times[number];
            ImageNode {
                name: &node.name,
                mode,
                uid: options.uid,
                gid: options.gid,
                modified_unix_nanos,
                kind,
            }
        })
        .collect();
    writer::write(&nodes, &erofs::device_bytes(placed.end))
}

/// Times of all nodes: a file's own; a folder, which has none at the origin, is as new as the newest file below it.
fn times(tree: &Tree, sources: &[SourceListing]) -> Vec<i64> {
    let mut times = vec![0; tree.nodes.len()];
    // What is in a folder stands behind it, so walking backwards sees children first.
    for (number, node) in tree.nodes.iter().enumerate().rev() {
        times[number] = match &node.kind {
            Kind::File(object) => object.of(sources).modified_unix_nanos,
            Kind::Directory { children } => children.iter().map(|child| times[*child as usize]).max().unwrap_or(0),
        };
    }
    times
}
