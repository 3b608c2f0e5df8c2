//! Builds a revision from what the sources list and from the revision before.
//!
//! An object version keeps its address as long as source, key, version and length stay the same; new ones are appended
//! behind the space's end; what is gone leaves dead bytes. When more is dead than alive (and at least
//! [`DEAD_BYTES_MIN`]), the revision begins a new space. Without a version nothing proves that an object is the same, so it
//! gets a new address in each revision. An object that two sources of one identity list is there once, under both paths.

use std::collections::HashMap;
use std::io;

use penstock_protocol::geometry::round_up_to_block;
use penstock_protocol::ids::SpaceId;

use crate::entry::{Entry, Object};
use crate::erofs;
use crate::erofs::writer::{self, WriteError, Written};
use crate::extents::{DamagedExtents, put, put_bytes, put_version, take, take_bytes, take_version};
use crate::gathering::{Gathering, Source};
pub use crate::limits::DEAD_BYTES_MIN;
use crate::names::{Names, Steps, mount_of};
use crate::object::{Extent, ObjectVersion, SourceListing, Version};
use crate::package::{self, Package, Parts, Summary};
use crate::scratch::{Log, Scratch, torn};
use crate::sorter::{Merged, Sorted, Sorter};
use crate::space::Space;
use crate::tree::BadSourcePath;
use crate::unversioned::{self, Unversioned};

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
    Image(#[from] WriteError),
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
    /// What is kept outside of memory cannot be kept.
    #[error("keep what a build has beside its memory: {0}; make room on the disk, or look into its state")]
    Scratch(#[source] io::Error),
    /// Addresses end before all objects have one.
    #[error("the objects need a space of more than 8 PiB; make several Datasets of them")]
    SpaceFull,
}

/// The revision of `sources`, which are in memory, as is all that is made of them. `new_space` is the id to use when a new
/// space begins: random, never used before.
///
/// # Errors
/// See [`BuildError`]. Keys that a file system cannot hold are no error; they follow the rules of [`crate::tree`].
pub fn build(
    new_space: SpaceId,
    parent: Option<&Package>,
    sources: &[SourceListing],
    options: &BuildOptions,
) -> Result<Outcome, BuildError> {
    let mut gathering = Gathering::new(Scratch::memory());
    let begun = sources
        .iter()
        .map(|source| gathering.begin_source(source.identity.clone(), &source.path));
    let begun = begun.collect::<Result<Vec<_>, _>>()?;
    for (number, source) in begun.into_iter().zip(sources) {
        gathering.add(number, &source.objects)?;
    }
    gathering.build(new_space, parent, options)
}

impl Gathering {
    /// The revision of what was gathered. `new_space` is the id to use when a new space begins: random, never used before.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(
        mut self,
        new_space: SpaceId,
        parent: Option<&Package>,
        options: &BuildOptions,
    ) -> Result<Outcome, BuildError> {
        let Names { entries, awkward } = self.names().map_err(BuildError::Scratch)?;
        let (sources, scratch) = (&self.sources, &self.scratch);
        let kept = parent
            .map(|parent| kept(&entries, sources, parent, scratch))
            .transpose()?;
        let end = parent.map_or(0, |parent| parent.summary().space_bytes);
        let place = |kept, end| place(&entries, sources, kept, end, scratch).map_err(BuildError::Scratch);
        let mut placed = place(kept.as_ref(), end)?;
        // A space that is full of dead bytes is no reason to fail.
        let begins_anew = parent.is_some() && placed.as_ref().is_none_or(Placed::is_mostly_dead);
        if begins_anew {
            placed = place(None, 0)?;
        }
        drop(kept);
        let placed = placed.ok_or(BuildError::SpaceFull)?;
        let parent = parent.filter(|_| !begins_anew);
        let steps = Steps {
            entries: &entries,
            addresses: &placed.addresses,
        };
        let Written {
            image,
            digest,
            directories,
        } = writer::write_to(&steps, &erofs::device_bytes(placed.end), options, scratch)?;
        let summary = Summary {
            files: placed.files,
            directories,
            bytes: placed.bytes,
            space_bytes: placed.end,
            dead_bytes: placed.end - placed.live,
            awkward,
            unversioned: placed.unversioned,
        };
        if parent.is_some_and(|parent| parent.is_same(&digest, &summary)) {
            return Ok(Outcome::Unchanged);
        }
        let Placed { addresses, extents, .. } = placed;
        drop((entries, addresses));
        let identities = identities(sources);
        let sorted = extents.sorted()?;
        let mut merged = sorted.merged()?;
        Ok(Outcome::New(package::write(Parts {
            space: parent.map_or(new_space, Package::space),
            parent: parent.map(Package::id),
            summary,
            sources: identities.iter().map(|identity| (*identity).to_owned()).collect(),
            image,
            image_digest: digest,
            extents: std::iter::from_fn(|| next_extent(&mut merged).transpose()),
            scratch: scratch.clone(),
        })?))
    }
}

/// An object version as a number: half of the BLAKE3 of source, key, version and length. Nobody can find two that are equal.
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

/// Orders records that begin with what they are sorted by.
fn plain(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.cmp(b)
}

/// Two numbers behind one another, which is how records of proofs and addresses look.
fn pair<const A: usize, const B: usize>(record: &[u8]) -> io::Result<([u8; A], [u8; B])> {
    let (first, rest) = record.split_first_chunk().ok_or_else(torn)?;
    Ok((*first, *rest.first_chunk().ok_or_else(torn)?))
}

/// Visits the files in the order of the tree, those that have bytes with their number. Ends early when `visit` says false, and
/// says so.
fn each_file(
    entries: &Log,
    mut visit: impl FnMut(Option<u32>, &Entry<'_>, &Object<'_>) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut with_bytes = 0;
    let mut records = entries.records();
    while let Some(record) = records.next()? {
        let entry = Entry::read(record)?;
        let Some(object) = entry.object.filter(|_| !entry.is_folder) else {
            continue;
        };
        let number = (object.bytes > 0).then_some(with_bytes);
        if !visit(number, &entry, &object)? {
            return Ok(false);
        }
        with_bytes += u32::from(number.is_some());
    }
    Ok(true)
}

fn proof(sources: &[Source], entry: &Entry<'_>, object: &Object<'_>) -> io::Result<Option<Proof>> {
    let Source { identity, mount } = sources.get(usize::from(object.source)).ok_or_else(torn)?;
    let key = object.key_at(entry, mount);
    Ok(Proof::of(identity, &key, &object.version()?, object.bytes))
}

/// Number of the object and address, for those of which the parent gave one. All of these are before the end of its space: what is
/// appended would get the same.
fn kept(entries: &Log, sources: &[Source], parent: &Package, scratch: &Scratch) -> Result<Sorted, BuildError> {
    let mut known = Sorter::new(scratch, plain);
    for extent in parent.all_extents() {
        let Extent {
            address,
            bytes,
            object: ObjectVersion { source, key, version },
        } = extent?;
        if address + round_up_to_block(bytes) > parent.summary().space_bytes {
            return Err(DamagedExtents.into());
        }
        let identity = parent.sources().get(usize::from(source)).ok_or(DamagedExtents)?;
        if let Some(Proof(proof)) = Proof::of(identity, &key, &version, bytes) {
            let record = [&proof[..], &address.to_be_bytes()].concat();
            known.push(&record).map_err(BuildError::Scratch)?;
        }
    }
    kept_of(entries, sources, known, scratch).map_err(BuildError::Scratch)
}

fn kept_of(entries: &Log, sources: &[Source], known: Sorter, scratch: &Scratch) -> io::Result<Sorted> {
    let mut wanted = Sorter::new(scratch, plain);
    each_file(entries, |number, entry, object| {
        let Some(number) = number else { return Ok(true) };
        if let Some(Proof(proof)) = proof(sources, entry, object)? {
            wanted.push(&[&proof[..], &number.to_be_bytes()].concat())?;
        }
        Ok(true)
    })?;
    let (known, wanted) = (known.sorted()?, wanted.sorted()?);
    let (mut known, mut wanted) = (known.merged()?, wanted.merged()?);
    let mut kept = Sorter::new(scratch, plain);
    let mut next_known = || known.next()?.map(pair::<16, 8>).transpose();
    let (mut here, mut next) = (None, next_known()?);
    while let Some(record) = wanted.next()? {
        let (proof, number) = pair::<16, 4>(record)?;
        // Of one that is there twice the last counts.
        while let Some(known) = next.filter(|(known, _)| *known <= proof) {
            here = Some(known);
            next = next_known()?;
        }
        if let Some((_, address)) = here.filter(|(known, _)| *known == proof) {
            kept.push(&[&number[..], &address].concat())?;
        }
    }
    kept.sorted()
}

/// Where every object lies.
struct Placed {
    /// Of the objects that have bytes.
    addresses: Log,
    /// As [`next_extent`] reads them.
    extents: Sorter,
    end: u64,
    /// Bytes of the extents, in whole blocks.
    live: u64,
    files: u64,
    bytes: u64,
    unversioned: Vec<Unversioned>,
}

impl Placed {
    fn is_mostly_dead(&self) -> bool {
        let dead = self.end - self.live;
        dead > self.live && dead > DEAD_BYTES_MIN
    }
}

/// `None` when the space is too small.
fn place(
    entries: &Log,
    sources: &[Source],
    kept: Option<&Sorted>,
    end: u64,
    scratch: &Scratch,
) -> io::Result<Option<Placed>> {
    let mut space = Space::ending_at(end);
    let mut placed = Placed {
        addresses: Log::new(scratch),
        extents: Sorter::new(scratch, plain),
        end,
        live: 0,
        files: 0,
        bytes: 0,
        unversioned: Vec::new(),
    };
    let identities = identities(sources);
    let numbers: Vec<u16> = sources
        .iter()
        .map(|source| {
            let number = identities.iter().position(|identity| *identity == source.identity);
            number.unwrap_or_default() as u16
        })
        .collect();
    // Only with an identity that stands twice an object can come twice.
    let mut once = (identities.len() < sources.len()).then(HashMap::new);
    let mut kept = kept.map(Sorted::merged).transpose()?;
    let mut next_kept = || match &mut kept {
        Some(kept) => kept.next()?.map(pair::<4, 8>).transpose(),
        None => Ok(None),
    };
    let mut next = next_kept()?;
    let mut record = Vec::new();
    let is_enough = each_file(entries, |number, entry, object| {
        placed.files += 1;
        placed.bytes = placed.bytes.saturating_add(object.bytes);
        let Some(number) = number else { return Ok(true) };
        let mut address = None;
        if let Some((_, known)) = next.filter(|(known, _)| u32::from_be_bytes(*known) == number) {
            address = Some(u64::from_be_bytes(known));
            next = next_kept()?;
        }
        let proof = match &once {
            Some(_) => proof(sources, entry, object)?,
            None => None,
        };
        let twin = once.as_ref().zip(proof).and_then(|(once, proof)| once.get(&proof));
        if let Some(address) = twin {
            placed.addresses.append(&u64::to_le_bytes(*address))?;
            return Ok(true);
        }
        let Some(address) = address.or_else(|| space.append(object.bytes)) else {
            return Ok(false);
        };
        if let Some((once, proof)) = once.as_mut().zip(proof) {
            once.insert(proof, address);
        }
        placed.addresses.append(&address.to_le_bytes())?;
        placed.live += round_up_to_block(object.bytes);
        record.clear();
        record.extend_from_slice(&address.to_be_bytes());
        let (source, version) = (usize::from(object.source), object.version()?);
        let key = object.key_at(entry, mount_of(sources, object.source)?);
        unversioned::count(&mut placed.unversioned, &sources[source].identity, &version, &key);
        put(&mut record, object.bytes);
        put(&mut record, numbers[source].into());
        put_version(&mut record, &version);
        put_bytes(&mut record, key.as_bytes());
        placed.extents.push(&record)?;
        Ok(true)
    })?;
    if !is_enough {
        return Ok(None);
    }
    placed.end = space.end();
    Ok(Some(placed))
}

fn next_extent(records: &mut Merged<'_>) -> io::Result<Option<Extent>> {
    let Some(record) = records.next()? else {
        return Ok(None);
    };
    let read = || {
        let (address, mut rest) = record.split_first_chunk()?;
        let bytes = take(&mut rest).ok()?;
        let source = u16::try_from(take(&mut rest).ok()?).ok()?;
        let version = take_version(&mut rest).ok()?;
        let key = String::from_utf8(take_bytes(&mut rest).ok()?.to_vec()).ok()?;
        Some(Extent {
            address: u64::from_be_bytes(*address),
            bytes,
            object: ObjectVersion { source, key, version },
        })
    };
    read().map(Some).ok_or_else(torn)
}

/// Identities of the sources, each once.
fn identities(sources: &[Source]) -> Vec<&str> {
    let mut identities: Vec<&str> = Vec::with_capacity(sources.len());
    for source in sources {
        if !identities.contains(&source.identity.as_str()) {
            identities.push(&source.identity);
        }
    }
    identities
}
