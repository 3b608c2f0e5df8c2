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
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, round_up_to_block};
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::contents::{Contents, Digest, Draft, Part};
use crate::erofs;
use crate::erofs::reader::{Damaged, Image};
use crate::extents::{self, DamagedExtents, INDEX_ENTRY_BYTES};
use crate::limits::{
    DECODED_CHUNKS_MAX, FACTS_BYTES_MAX, IMAGE_BYTES_ALWAYS, IMAGE_BYTES_MAX, IMAGE_RATIO_MAX, SPACE_BYTES_MAX,
};
use crate::object::Extent;
use crate::scratch::{Log, Plane, Scratch};
use crate::tree::Awkward;
use crate::unversioned::Unversioned;

const MAGIC: &[u8; 8] = b"PSTKREV1";
const LENGTHS_AT: usize = 8 + 16 + 32;
const HEADER_BYTES: usize = LENGTHS_AT + 5 * 8 + 32;
/// Level 1 of zstd: an image of 1 M files compresses in under a second, and higher levels gained little.
const ZSTD_LEVEL: i32 = 1;
/// Bytes of an image that are in memory while it is written.
const IMAGE_PIECE_BYTES: usize = 1 << 20;

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
    /// Files of which nothing shows that they change, by source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unversioned: Vec<Unversioned>,
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
    /// The file that it is in cannot be read.
    #[error("the file of the package cannot be read: {0}")]
    Unreadable(String),
    /// The disk does not take what is unpacked.
    #[error("the disk does not take the image of the package: {0}")]
    Unwritten(String),
    /// The image makes no sense.
    #[error(transparent)]
    Image(#[from] Damaged),
}

impl From<io::Error> for PackageError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// A parsed package; cheap to clone.
#[derive(Clone, Debug)]
pub struct Package(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    contents: Contents,
    id: RevisionId,
    space: SpaceId,
    parent: Option<RevisionId>,
    facts_summary: Summary,
    sources: Vec<String>,
    /// First address and offset of each chunk.
    index: Vec<(u64, u64)>,
    /// Where they are.
    chunks: Range<u64>,
    /// Where the compressed image is.
    image: Range<u64>,
    image_bytes: u64,
    image_digest: Digest,
    decoded: Mutex<HashMap<usize, Arc<Vec<Extent>>>>,
}

pub(crate) struct Parts<E> {
    pub(crate) space: SpaceId,
    pub(crate) parent: Option<RevisionId>,
    pub(crate) summary: Summary,
    pub(crate) sources: Vec<String>,
    pub(crate) image: Plane,
    /// BLAKE3 of the image.
    pub(crate) image_digest: Digest,
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
    let mut out = Draft::new(&scratch, HEADER_BYTES + facts.len() + index.len() + chunk_bytes)?;
    out.write_all(MAGIC)?;
    out.write_all(space.as_bytes())?;
    out.write_all(&parent.map_or([0; 32], |parent| parent.0))?;
    out.write_all(&[0; 5 * 8])?;
    out.write_all(&image_digest)?;
    out.write_all(&facts)?;
    out.write_all(&index)?;
    let mut chunk = chunks.records();
    while let Some(chunk) = chunk.next()? {
        out.write_all(chunk)?;
    }
    drop(chunks);
    let image_bytes = image.bytes();
    let compressed = compress(&mut image, &mut out)?;
    drop(image);
    let lengths = [
        facts.len() as u64,
        index.len() as u64,
        chunk_bytes as u64,
        compressed,
        image_bytes,
    ];
    let lengths: Vec<u8> = lengths.into_iter().flat_map(u64::to_le_bytes).collect();
    let (contents, digest) = out.finish(LENGTHS_AT, &lengths)?;
    Package::of(contents, RevisionId(digest)).map_err(io::Error::other)
}

/// The frame says how long the image is. Its bytes do not depend on the pieces in which the image is read. Returns how many there are.
fn compress(image: &mut Plane, out: &mut impl Write) -> io::Result<u64> {
    let mut encoder = zstd::stream::Encoder::new(Counting { out, bytes: 0 }, ZSTD_LEVEL)?;
    encoder.set_pledged_src_size(Some(image.bytes()))?;
    image.read(|piece| encoder.write_all(piece))?;
    Ok(encoder.finish()?.bytes)
}

/// Counts what is written.
struct Counting<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Package {
    /// The package with this id in `bytes`, which come from somebody else: nothing is looked at before its digest.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn verified(bytes: Bytes, id: &RevisionId) -> Result<Self, PackageError> {
        let found = RevisionId(*blake3::hash(&bytes).as_bytes());
        Self::of_id(Contents::Memory(bytes), found, id)
    }

    /// The package with this id in a file, of which little more is kept in memory than a checksum for each 16 KiB: what is read of it
    /// later is compared with these.
    ///
    /// # Errors
    /// When it is anything else, or cannot be read.
    pub fn in_file(file: File, id: &RevisionId) -> Result<Self, PackageError> {
        let (contents, digest) = Contents::of_file(file)?;
        Self::of_id(contents, RevisionId(digest), id)
    }

    /// The package in `bytes`. Its id is the digest of these bytes.
    ///
    /// # Errors
    /// When the bytes are anything else. Never panics; reserves no memory that the bytes do not justify.
    pub fn parse(bytes: Bytes) -> Result<Self, PackageError> {
        let id = RevisionId(*blake3::hash(&bytes).as_bytes());
        Self::of(Contents::Memory(bytes), id)
    }

    pub(crate) fn of_id(contents: Contents, found: RevisionId, wanted: &RevisionId) -> Result<Self, PackageError> {
        if found != *wanted {
            return Err(PackageError::Digest(found));
        }
        Self::of(contents, found)
    }

    fn of(contents: Contents, id: RevisionId) -> Result<Self, PackageError> {
        let header = contents.read(0..HEADER_BYTES as u64)?;
        if header.len() < HEADER_BYTES || &header[..8] != MAGIC {
            return Err(PackageError::Magic);
        }
        let space = SpaceId(std::array::from_fn(|i| header[8 + i]));
        let parent = RevisionId(std::array::from_fn(|i| header[24 + i]));
        let length = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[LENGTHS_AT + at * 8 + i]));
        let image_digest = std::array::from_fn(|i| header[HEADER_BYTES - 32 + i]);
        let mut rest = HEADER_BYTES as u64..contents.bytes();
        let mut part = |at: usize| {
            let start = rest.start;
            let end = start.checked_add(length(at)).filter(|end| *end <= rest.end);
            rest.start = end.ok_or(PackageError::Damaged("a part is longer than the whole"))?;
            Ok::<_, PackageError>(start..rest.start)
        };
        let (facts, index, chunks, image) = (part(0)?, part(1)?, part(2)?, part(3)?);
        let image_bytes_max = IMAGE_BYTES_ALWAYS
            .max((image.end - image.start).saturating_mul(IMAGE_RATIO_MAX))
            .min(IMAGE_BYTES_MAX);
        if facts.end - facts.start > FACTS_BYTES_MAX as u64 {
            return Err(PackageError::Damaged("its summary is too long"));
        }
        if !rest.is_empty() || length(4) > image_bytes_max {
            return Err(PackageError::Damaged("its length differs from the header's"));
        }
        let Facts { summary, sources } = serde_json::from_slice(&contents.read(facts)?)
            .map_err(|_| PackageError::Damaged("the summary makes no sense"))?;
        if summary.space_bytes > SPACE_BYTES_MAX || !summary.space_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(PackageError::Damaged("the end of the space makes no sense"));
        }
        let inner = Inner {
            id,
            space,
            parent: (parent.0 != [0; 32]).then_some(parent),
            facts_summary: summary,
            sources,
            index: parse_index(&contents.read(index)?, chunks.end - chunks.start)?,
            chunks,
            image,
            image_bytes: length(4),
            image_digest,
            decoded: Mutex::default(),
            contents,
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

    /// How long the package is.
    pub fn bytes(&self) -> u64 {
        self.0.contents.bytes()
    }

    /// Whether a part of its file could not be read, so that it has to come from somewhere else.
    pub fn has_failed(&self) -> bool {
        self.0.contents.has_failed()
    }

    /// What of the package is in `range`.
    ///
    /// # Errors
    /// When it is in a file that cannot be read, or is not what was written.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.0.contents.read(range)
    }

    /// All of it in memory.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn whole(&self) -> io::Result<Bytes> {
        self.read(0..self.bytes())
    }

    /// Writes the package.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn copy_to(&self, out: &mut impl Write) -> io::Result<()> {
        io::copy(&mut self.part(0..self.bytes()), out).map(drop)
    }

    fn part(&self, range: Range<u64>) -> impl Read {
        Part {
            contents: &self.0.contents,
            left: range,
        }
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
        // What the parser admitted.
        let mut image = Vec::with_capacity(usize::try_from(self.0.image_bytes).unwrap_or(0));
        self.image_to(&mut image)?;
        Ok(image)
    }

    /// Writes the EROFS image, a piece at a time. What was written is worth nothing until this returns.
    ///
    /// # Errors
    /// When the bytes are damaged, or cannot be written.
    pub fn image_to(&self, out: &mut impl Write) -> Result<(), PackageError> {
        let mut hasher = blake3::Hasher::new();
        self.decompress(|piece| {
            hasher.update(piece);
            Ok(out.write_all(piece)?)
        })?;
        self.is_image(hasher.finalize().as_bytes())
    }

    /// The EROFS image to be looked into: one that does not fit in memory is in a file meanwhile.
    ///
    /// # Errors
    /// When the bytes are damaged, or the disk does not take them.
    pub fn unpack(&self, scratch: &Scratch) -> Result<Image, PackageError> {
        let unwritten = |error: io::Error| PackageError::Unwritten(error.to_string());
        // What the parser admitted.
        let bytes = usize::try_from(self.0.image_bytes).unwrap_or(0);
        let mut draft = Draft::new(scratch, bytes).map_err(unwritten)?;
        self.decompress(|piece| draft.write_all(piece).map_err(unwritten))?;
        let (contents, digest) = draft.finish(0, &[]).map_err(unwritten)?;
        self.is_image(&digest)?;
        Ok(Image::in_contents(contents)?)
    }

    fn is_image(&self, digest: &Digest) -> Result<(), PackageError> {
        if *digest == self.0.image_digest {
            return Ok(());
        }
        Err(PackageError::Damaged("the image does not have its digest"))
    }

    fn decompress(&self, mut take: impl FnMut(&[u8]) -> Result<(), PackageError>) -> Result<(), PackageError> {
        let decoder = zstd::stream::Decoder::new(self.part(self.0.image.clone()))?;
        // More would be cut off, and less is not what the digest says.
        let mut decoder = decoder.single_frame().take(self.0.image_bytes);
        let mut piece = vec![0; IMAGE_PIECE_BYTES];
        loop {
            let length = match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            take(&piece[..length])?;
        }
        Ok(())
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
    pub(crate) fn is_same(&self, image_digest: &Digest, summary: &Summary) -> bool {
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
        let chunks = &self.0.chunks;
        let behind = (self.summary().space_bytes, chunks.end - chunks.start);
        let (until, end) = self.0.index.get(chunk + 1).copied().unwrap_or(behind);
        // The parser has seen that they are in order and in the chunks.
        let compressed = self.0.contents.read(chunks.start + start..chunks.start + end);
        let compressed = compressed.map_err(|_| DamagedExtents)?;
        extents::decode_chunk(&compressed, first..until)
    }
}

fn end(extent: &Extent) -> u64 {
    extent.address + round_up_to_block(extent.bytes)
}

fn parse_index(index: &[u8], chunk_bytes: u64) -> Result<Vec<(u64, u64)>, PackageError> {
    let damaged = PackageError::Damaged("the index of extents makes no sense");
    let entries = index.chunks_exact(INDEX_ENTRY_BYTES);
    if !entries.remainder().is_empty() {
        return Err(damaged);
    }
    let number = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    let index = entries
        .map(|entry| {
            let at = Some(number(&entry[8..])).filter(|at| *at < chunk_bytes)?;
            Some((number(&entry[..8]), at))
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
