//! A revision package: everything that cache nodes and mounts need to know of a revision, in one immutable file whose
//! BLAKE3 digest is the revision's id.
//!
//! ```text
//! header (HEADER_BYTES) │ summary and sources (JSON) │ index of chunks │ chunks of extents (zstd) │ EROFS image (zstd)
//! ```
//!
//! Header, little-endian: magic "PSTKREV1", space (16), parent (32, zeros = none), then as u64: bytes of the JSON, bytes of
//! the index, bytes of the chunks, bytes of the compressed image, bytes of the image; BLAKE3 of the image (32).

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, round_up_to_block};
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::erofs;
use crate::extents::{self, DamagedExtents, INDEX_ENTRY_BYTES};
use crate::limits::{
    DECODED_CHUNKS_MAX, FACTS_BYTES_MAX, IMAGE_BYTES_ALWAYS, IMAGE_BYTES_MAX, IMAGE_RATIO_MAX, SPACE_BYTES_MAX,
};
use crate::object::Extent;
use crate::scratch::{Log, Plane, Scratch};
use crate::tree::Awkward;

const MAGIC: &[u8; 8] = b"PSTKREV1";
const HEADER_BYTES: usize = 8 + 16 + 32 + 5 * 8 + 32;
/// Level 1 of zstd: an image of 1 M files compresses in under a second, and higher levels gained little.
const ZSTD_LEVEL: i32 = 1;

/// What a person wants to know of a revision.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Files.
    pub files: u64,
    /// Folders, the root included.
    pub directories: u64,
    /// Sum of the lengths of the files.
    pub bytes: u64,
    /// Where the space ends.
    pub space_bytes: u64,
    /// Bytes of the space that belong to no object of this revision.
    pub dead_bytes: u64,
    /// Keys that no file system can hold as they are.
    pub awkward: Awkward,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Facts {
    summary: Summary,
    sources: Vec<String>,
}

/// Why bytes are no package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// Not a package, or of a version that this code does not read.
    #[error("not a revision package of version 1")]
    Magic,
    /// Not the one that was asked for.
    #[error("its digest is {0}")]
    Digest(RevisionId),
    /// A length or a part makes no sense.
    #[error("the package is damaged: {0}")]
    Damaged(&'static str),
}

/// A parsed package; cheap to clone.
#[derive(Clone, Debug)]
pub struct Package(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Bytes,
    id: RevisionId,
    space: SpaceId,
    parent: Option<RevisionId>,
    facts_summary: Summary,
    sources: Vec<String>,
    /// First address and offset of each chunk.
    index: Vec<(u64, usize)>,
    chunks: Bytes,
    image: Bytes,
    image_bytes: u64,
    image_digest: [u8; 32],
    decoded: Mutex<HashMap<usize, Arc<Vec<Extent>>>>,
}

pub(crate) struct Parts<E> {
    pub(crate) space: SpaceId,
    pub(crate) parent: Option<RevisionId>,
    pub(crate) summary: Summary,
    pub(crate) sources: Vec<String>,
    pub(crate) image: Plane,
    /// BLAKE3 of the image.
    pub(crate) image_digest: [u8; 32],
    /// Sorted by address.
    pub(crate) extents: E,
    pub(crate) scratch: Scratch,
}

pub(crate) fn write(parts: Parts<impl Iterator<Item = io::Result<Extent>>>) -> io::Result<Package> {
    let Parts {
        space,
        parent,
        summary,
        sources,
        mut image,
        image_digest,
        extents,
        scratch,
    } = parts;
    let facts = serde_json::to_vec(&Facts { summary, sources }).map_err(io::Error::other)?;
    let mut chunks = Log::new(&scratch);
    let mut chunk_bytes = 0;
    let index = extents::encode(extents, |chunk| {
        chunk_bytes += chunk.len();
        chunks.append(chunk)
    })?;
    let mut out = Vec::with_capacity(HEADER_BYTES + facts.len() + index.len() + chunk_bytes);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(space.as_bytes());
    out.extend_from_slice(&parent.map_or([0; 32], |parent| parent.0));
    let lengths_at = out.len();
    out.extend_from_slice(&[0; 5 * 8]);
    out.extend_from_slice(&image_digest);
    out.extend_from_slice(&facts);
    out.extend_from_slice(&index);
    let mut chunk = chunks.records();
    while let Some(chunk) = chunk.next()? {
        out.extend_from_slice(chunk);
    }
    drop(chunks);
    let before = out.len();
    let image_bytes = image.bytes();
    compress(&mut image, &mut out)?;
    let compressed = out.len() - before;
    let lengths = [
        facts.len() as u64,
        index.len() as u64,
        chunk_bytes as u64,
        compressed as u64,
        image_bytes,
    ];
    for (length, place) in lengths.iter().zip(out[lengths_at..].chunks_exact_mut(8)) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    out.shrink_to_fit();
    Package::parse(out.into()).map_err(io::Error::other)
}

/// The frame says how long the image is. Its bytes do not depend on the pieces in which the image is read.
fn compress(image: &mut Plane, out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = zstd::stream::Encoder::new(out, ZSTD_LEVEL)?;
    encoder.set_pledged_src_size(Some(image.bytes()))?;
    image.read(|piece| encoder.write_all(piece))?;
    encoder.finish()?;
    Ok(())
}

impl Package {
    /// The package with this id in `bytes`, which come from somebody else: nothing is looked at before its digest.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn verified(bytes: Bytes, id: &RevisionId) -> Result<Self, PackageError> {
        let found = RevisionId(*blake3::hash(&bytes).as_bytes());
        if found != *id {
            return Err(PackageError::Digest(found));
        }
        Self::parse_as(bytes, found)
    }

    /// The package in `bytes`. Its id is the digest of these bytes.
    ///
    /// # Errors
    /// When the bytes are anything else. Never panics; reserves no memory that the bytes do not justify.
    pub fn parse(bytes: Bytes) -> Result<Self, PackageError> {
        let id = RevisionId(*blake3::hash(&bytes).as_bytes());
        Self::parse_as(bytes, id)
    }

    fn parse_as(bytes: Bytes, id: RevisionId) -> Result<Self, PackageError> {
        let header = bytes.get(..HEADER_BYTES).ok_or(PackageError::Magic)?;
        if &header[..8] != MAGIC {
            return Err(PackageError::Magic);
        }
        let space = SpaceId(std::array::from_fn(|i| header[8 + i]));
        let parent = RevisionId(std::array::from_fn(|i| header[24 + i]));
        let length = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[56 + at * 8 + i]));
        let image_digest = std::array::from_fn(|i| header[HEADER_BYTES - 32 + i]);
        let mut rest = bytes.slice(HEADER_BYTES..);
        let mut part = |at: usize| {
            let length = usize::try_from(length(at)).ok().filter(|length| *length <= rest.len());
            length
                .map(|length| rest.split_to(length))
                .ok_or(PackageError::Damaged("a part is longer than the whole"))
        };
        let (facts, index, chunks, image) = (part(0)?, part(1)?, part(2)?, part(3)?);
        let image_bytes_max = IMAGE_BYTES_ALWAYS
            .max(image.len() as u64 * IMAGE_RATIO_MAX)
            .min(IMAGE_BYTES_MAX);
        if facts.len() > FACTS_BYTES_MAX {
            return Err(PackageError::Damaged("its summary is too long"));
        }
        if !rest.is_empty() || length(4) > image_bytes_max {
            return Err(PackageError::Damaged("its length differs from the header's"));
        }
        let Facts { summary, sources } =
            serde_json::from_slice(&facts).map_err(|_| PackageError::Damaged("the summary makes no sense"))?;
        if summary.space_bytes > SPACE_BYTES_MAX || !summary.space_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(PackageError::Damaged("the end of the space makes no sense"));
        }
        let inner = Inner {
            id,
            space,
            parent: (parent.0 != [0; 32]).then_some(parent),
            facts_summary: summary,
            sources,
            index: parse_index(&index, chunks.len())?,
            chunks,
            image,
            image_bytes: length(4),
            image_digest,
            decoded: Mutex::default(),
            bytes,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The revision's id: BLAKE3 of the package.
    pub fn id(&self) -> RevisionId {
        self.0.id
    }

    /// The space that the addresses belong to.
    pub fn space(&self) -> SpaceId {
        self.0.space
    }

    /// The revision whose addresses this one goes on with.
    pub fn parent(&self) -> Option<RevisionId> {
        self.0.parent
    }

    /// The package as bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// What a person wants to know.
    pub fn summary(&self) -> &Summary {
        &self.0.facts_summary
    }

    /// Identities of the sources that [`crate::ObjectVersion::source`] counts in.
    pub fn sources(&self) -> &[String] {
        &self.0.sources
    }

    /// Lengths in bytes of the devices that the image is mounted over.
    pub fn device_bytes(&self) -> Vec<u64> {
        erofs::device_bytes(self.summary().space_bytes)
    }

    /// Length of [`Package::image`].
    pub fn image_bytes(&self) -> u64 {
        self.0.image_bytes
    }

    /// The EROFS image, ready to be mounted.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn image(&self) -> Result<Vec<u8>, PackageError> {
        let damaged = PackageError::Damaged("the image does not have its digest");
        let capacity = usize::try_from(self.0.image_bytes).map_err(|_| damaged.clone())?;
        let image = zstd::bulk::decompress(&self.0.image, capacity).map_err(|_| damaged.clone())?;
        if image.len() != capacity || *blake3::hash(&image).as_bytes() != self.0.image_digest {
            return Err(damaged);
        }
        Ok(image)
    }

    /// The extents that have bytes in `range`, in the order of their addresses.
    ///
    /// # Errors
    /// When the table is damaged.
    pub fn extents(&self, range: BlockRange) -> Result<Vec<Extent>, DamagedExtents> {
        let first = self
            .0
            .index
            .partition_point(|(address, _)| *address <= range.address())
            .saturating_sub(1);
        let mut found = Vec::new();
        for chunk in first..self.0.index.len() {
            if self.0.index[chunk].0 >= range.end() {
                break;
            }
            let extents = self.chunk(chunk)?;
            let from = extents.partition_point(|extent| end(extent) <= range.address());
            found.extend(
                extents[from..]
                    .iter()
                    .take_while(|extent| extent.address < range.end())
                    .cloned(),
            );
        }
        Ok(found)
    }

    /// All extents in the order of their addresses.
    pub fn all_extents(&self) -> impl Iterator<Item = Result<Extent, DamagedExtents>> {
        (0..self.0.index.len()).flat_map(|chunk| match self.decode(chunk) {
            Ok(extents) => extents.into_iter().map(Ok).collect(),
            Err(damaged) => vec![Err(damaged)],
        })
    }

    /// Whether this revision has exactly this image and summary.
    pub(crate) fn is_same(&self, image_digest: &[u8; 32], summary: &Summary) -> bool {
        self.summary() == summary && self.0.image_digest == *image_digest
    }

    fn chunk(&self, chunk: usize) -> Result<Arc<Vec<Extent>>, DamagedExtents> {
        let lock = || self.0.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(extents) = lock().get(&chunk) {
            return Ok(extents.clone());
        }
        let extents = Arc::new(self.decode(chunk)?);
        let mut decoded = lock();
        if decoded.len() >= DECODED_CHUNKS_MAX {
            // Any one: an epoch in random order comes to all of them equally often.
            let gone = decoded.keys().next().copied();
            gone.and_then(|gone| decoded.remove(&gone));
        }
        decoded.insert(chunk, extents.clone());
        Ok(extents)
    }

    fn decode(&self, chunk: usize) -> Result<Vec<Extent>, DamagedExtents> {
        let (first, start) = self.0.index[chunk];
        let behind = (self.summary().space_bytes, self.0.chunks.len());
        let (until, end) = self.0.index.get(chunk + 1).copied().unwrap_or(behind);
        let compressed = self.0.chunks.get(start..end).ok_or(DamagedExtents)?;
        extents::decode_chunk(compressed, first..until)
    }
}

fn end(extent: &Extent) -> u64 {
    extent.address + round_up_to_block(extent.bytes)
}

fn parse_index(index: &[u8], chunk_bytes: usize) -> Result<Vec<(u64, usize)>, PackageError> {
    let damaged = PackageError::Damaged("the index of extents makes no sense");
    let entries = index.chunks_exact(INDEX_ENTRY_BYTES);
    if !entries.remainder().is_empty() {
        return Err(damaged);
    }
    let number = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    let index = entries
        .map(|entry| {
            Some((
                number(&entry[..8]),
                usize::try_from(number(&entry[8..]))
                    .ok()
                    .filter(|at| *at < chunk_bytes)?,
            ))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or(damaged.clone())?;
    let ordered = index.is_sorted_by(|(a, at), (b, next)| a < b && at < next);
    let starts_right = index.first().is_none_or(|(_, start)| *start == 0);
    if ordered && starts_right {
        Ok(index)
    } else {
        Err(damaged)
    }
}
