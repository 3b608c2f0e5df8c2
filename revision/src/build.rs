//! Builds a revision from what the sources list and from the revision before.
//!
//! An object version keeps its address as long as source, key, version and length stay the same; new ones are appended
//! behind the space's end; what is gone leaves dead bytes. When more is dead than alive (and at least
//! [`DEAD_BYTES_MIN`]), the revision begins a new space.

use std::collections::HashMap;

use penstock_protocol::geometry::{DEVICE_BYTES, round_up_to_block};
use penstock_protocol::ids::SpaceId;

use crate::erofs::writer::{self, ImageNode, NodeKind};
use crate::erofs::{self};
use crate::extents::DamagedExtents;
use crate::object::{Extent, Listed, ObjectVersion, SourceListing, Version};
use crate::package::{self, Package, Parts, Summary};
use crate::space::Space;
use crate::tree::{Kind, Tree, tree};

/// Below this much that is dead a new space is not worth fetching everything again.
pub const DEAD_BYTES_MIN: u64 = 1 << 30;

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
    let tree = tree(sources, |bytes| bytes <= DEVICE_BYTES);
    let kept = parent.map(|parent| Kept::of(parent)).transpose()?.unwrap_or_default();
    let mut placed = place(
        &tree,
        sources,
        &kept,
        parent.map_or(0, |parent| parent.summary().space_bytes),
    );
    let mut space = parent.map_or(new_space, Package::space);
    let live: u64 = placed
        .extents
        .iter()
        .map(|extent| round_up_to_block(extent.bytes))
        .sum();
    let dead = placed.end - live;
    let begins_anew = parent.is_some() && dead > live && dead > DEAD_BYTES_MIN;
    if begins_anew {
        space = new_space;
        placed = place(&tree, sources, &Kept::default(), 0);
    }
    let image = image(&tree, sources, &placed, options)?;
    if parent.is_some_and(|parent| !begins_anew && parent.has_same_tree(&image, placed.end)) {
        return Ok(Outcome::Unchanged);
    }
    let summary = Summary {
        files: placed.files,
        directories: tree.nodes.len() as u64 - placed.files,
        bytes: placed.bytes,
        space_bytes: placed.end,
        dead_bytes: placed.end
            - placed
                .extents
                .iter()
                .map(|extent| round_up_to_block(extent.bytes))
                .sum::<u64>(),
        awkward: tree.awkward,
    };
    placed.extents.sort_unstable_by_key(|extent| extent.address);
    let identities = sources.iter().map(|source| source.identity.clone()).collect();
    let parent = parent.filter(|_| !begins_anew).map(Package::id);
    Ok(Outcome::New(package::write(Parts {
        space,
        parent,
        summary,
        sources: identities,
        image,
        extents: placed.extents,
    })?))
}

/// Addresses of the parent: (identity of the source, key, version, length) to address.
#[derive(Default)]
struct Kept {
    sources: Vec<String>,
    addresses: HashMap<(u16, String), (Version, u64, u64)>,
}

impl Kept {
    fn of(parent: &Package) -> Result<Self, DamagedExtents> {
        let mut addresses = HashMap::with_capacity(parent.summary().files as usize);
        for extent in parent.all_extents() {
            let Extent {
                address,
                bytes,
                object: ObjectVersion { source, key, version },
            } = extent?;
            addresses.insert((source, key), (version, bytes, address));
        }
        Ok(Self {
            sources: parent.sources().to_vec(),
            addresses,
        })
    }

    fn source(&self, identity: &str) -> Option<u16> {
        self.sources
            .iter()
            .position(|source| source == identity)
            .map(|at| at as u16)
    }
}

/// Where every object lies.
struct Placed {
    /// By number of the node; unused for folders and empty files.
    addresses: Vec<u64>,
    extents: Vec<Extent>,
    end: u64,
    files: u64,
    bytes: u64,
}

fn place(tree: &Tree, sources: &[SourceListing], kept: &Kept, end: u64) -> Placed {
    let old_numbers: Vec<Option<u16>> = sources.iter().map(|source| kept.source(&source.identity)).collect();
    let mut space = Space::ending_at(end);
    let mut placed = Placed {
        addresses: vec![0; tree.nodes.len()],
        extents: Vec::new(),
        end,
        files: 0,
        bytes: 0,
    };
    for (number, node) in tree.nodes.iter().enumerate() {
        let Kind::File { source, object } = node.kind else {
            continue;
        };
        let Listed {
            key, bytes, version, ..
        } = &sources[source as usize].objects[object as usize];
        placed.files += 1;
        placed.bytes += bytes;
        if *bytes == 0 {
            continue;
        }
        let known = old_numbers[source as usize].and_then(|old| kept.addresses.get(&(old, key.clone())));
        let address = match known {
            // Without a version nothing proves that it is the same object, so it gets a new address.
            Some((old, length, address)) if old == version && length == bytes && *version != Version::None => *address,
            _ => match space.append(*bytes) {
                Some(address) => address,
                None => continue,
            },
        };
        placed.addresses[number] = address;
        let object = ObjectVersion {
            source,
            key: key.clone(),
            version: version.clone(),
        };
        placed.extents.push(Extent {
            address,
            bytes: *bytes,
            object,
        });
    }
    placed.end = space.end();
    placed
}

fn image(
    tree: &Tree,
    sources: &[SourceListing],
    placed: &Placed,
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
                Kind::File { source, object } => {
                    let bytes = sources[*source as usize].objects[*object as usize].bytes;
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
            Kind::File { source, object } => sources[*source as usize].objects[*object as usize].modified_unix_nanos,
            Kind::Directory { children } => children.iter().map(|child| times[*child as usize]).max().unwrap_or(0),
        };
    }
    times
}
