//! What stays of a revision while only a part of its sources is listed anew: its objects, as they were listed.
//!
//! Key, length and version of an object are in the table of extents, its time is in the image. Of an empty object and of the marker of
//! an empty folder there is the path alone, which says the key unless a rule of [`crate::tree`] has changed it. A marker of a folder that
//! has something in it has left no trace: whoever takes the last object out of a folder has to list that folder.
//!
//! A package does not tell everything: not which keys were left out, and not the key of an empty object whose name was changed. Then
//! nothing is taken over.

use std::io;

use crate::build::BuildError;
use crate::erofs::reader::{Image, Inode};
use crate::extents::DamagedExtents;
use crate::gathering::{Gathering, Source, SourceNumber, covered};
use crate::object::{Extent, Listed, ObjectVersion, Version};
use crate::package::{Package, PackageError};
use crate::scratch::torn;
use crate::sorter::{Sorted, Sorter};
use crate::tree::{self, Named, is_below};

/// Before this an image holds times less exactly than they were listed.
const MODIFIED_UNIX_NANOS_MIN: i64 = i64::MIN + 2_000_000_000;

/// Why nothing is taken over: the parent does not tell all that was listed.
struct Untold;

/// Either that, or what ends the build.
enum Failed {
    Untold,
    Build(BuildError),
}

impl From<Untold> for Failed {
    fn from(_: Untold) -> Self {
        Self::Untold
    }
}

impl From<DamagedExtents> for Failed {
    fn from(_: DamagedExtents) -> Self {
        Self::Untold
    }
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Build(BuildError::Scratch(error))
    }
}

impl Gathering {
    /// Adds what `parent` has of the sources, each object of which `stays` says so by source and key. All sources have begun, and they
    /// are those of `parent`, at the same paths. False when the parent does not tell all that was listed of them: then some may have
    /// been added, and all has to be listed, by another gathering.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn carry(
        &mut self,
        parent: &Package,
        mut stays: impl FnMut(SourceNumber, &str) -> bool,
    ) -> Result<bool, BuildError> {
        let mut take = |gathering: &mut Self, source: SourceNumber, listed: &Listed| -> Result<(), BuildError> {
            if stays(source, &listed.key) {
                gathering.add(source, std::slice::from_ref(listed))?;
            }
            Ok(())
        };
        match carry(self, parent, &mut take) {
            Ok(()) => Ok(true),
            Err(Failed::Untold) => Ok(false),
            Err(Failed::Build(error)) => Err(error),
        }
    }

    /// Whether an object stands in the tree at the path that its key looks like, whatever else is there.
    pub fn is_plain(&self, source: SourceNumber, listed: &Listed) -> bool {
        let SourceNumber(source) = source;
        let named = tree::named(&self.sources[usize::from(source)].mount, listed);
        matches!(named, Ok(Some(Named { path, changed: false, .. })) if covered(&self.sources, source, &path).is_none())
    }
}

type Take<'a> = dyn FnMut(&mut Gathering, SourceNumber, &Listed) -> Result<(), BuildError> + 'a;

fn carry(gathering: &mut Gathering, parent: &Package, take: &mut Take<'_>) -> Result<(), Failed> {
    let awkward = &parent.summary().awkward;
    if awkward.left_out > 0 || !are_those_of(&gathering.sources, parent) {
        return Err(Failed::Untold);
    }
    let image = match parent.unpack(&gathering.scratch) {
        Ok(image) => image,
        Err(PackageError::Unwritten(why)) => return Err(io::Error::other(why).into()),
        Err(_) => return Err(Failed::Untold),
    };
    let files = of_image(gathering, &image, take)?;
    if of_extents(gathering, parent, &files, take)? == awkward.count {
        Ok(())
    } else {
        // The others are empty, so nobody knows their keys.
        Err(Failed::Untold)
    }
}

/// Whether these are the parent's sources, each with an identity and a place of its own, so that a path tells whose object it is.
fn are_those_of(sources: &[Source], parent: &Package) -> bool {
    let is_own = |(at, source): (usize, &Source)| {
        let mut before = sources[..at].iter();
        before.all(|other| other.identity != source.identity && other.mount != source.mount)
    };
    let identities = sources.iter().map(|source| &source.identity);
    identities.eq(parent.sources()) && sources.iter().enumerate().all(is_own)
}

/// Takes what has no bytes; the files that have some, by their addresses.
fn of_image(gathering: &mut Gathering, image: &Image, take: &mut Take<'_>) -> Result<Sorted, Failed> {
    let mut files = Sorter::new(&gathering.scratch, |a, b| a.cmp(b));
    // The folder before, while it is not known whether it has something in it.
    let mut folder: Option<String> = None;
    let mut failed: Result<(), Failed> = Ok(());
    let mut record = Vec::new();
    let mut see = |gathering: &mut Gathering, path: &str, inode: &Inode| -> Result<(), Failed> {
        let path = path.replace('/', "\0");
        if let Some(empty) = folder.take_if(|folder| !is_below(&path, folder)) {
            marker(gathering, &empty, take)?;
        }
        folder = None;
        if inode.is_directory() {
            folder = Some(path);
        } else if inode.modified_unix_nanos < MODIFIED_UNIX_NANOS_MIN {
            return Err(Failed::Untold);
        } else if let Some(address) = inode.address() {
            record.clear();
            record.extend_from_slice(&address.to_be_bytes());
            record.extend_from_slice(&inode.bytes.to_le_bytes());
            record.extend_from_slice(&inode.modified_unix_nanos.to_le_bytes());
            record.extend_from_slice(path.as_bytes());
            files.push(&record)?;
        } else {
            empty_file(gathering, &path, inode.modified_unix_nanos, take)?;
        }
        Ok(())
    };
    let walked = image.walk(|path, _, inode| {
        if failed.is_ok() {
            failed = see(gathering, path, inode);
        }
    });
    failed?;
    walked.map_err(|_| Untold)?;
    if let Some(empty) = folder {
        marker(gathering, &empty, take)?;
    }
    Ok(files.sorted()?)
}

/// A folder with nothing in it is there because of its marker, or because a source stands there.
fn marker(gathering: &mut Gathering, path: &str, take: &mut Take<'_>) -> Result<(), Failed> {
    let (source, key) = owner(&gathering.sources, path)?;
    if key.is_empty() {
        return Ok(());
    }
    let listed = without_bytes(format!("{key}/"), 0);
    Ok(take(gathering, source, &listed)?)
}

fn empty_file(
    gathering: &mut Gathering,
    path: &str,
    modified_unix_nanos: i64,
    take: &mut Take<'_>,
) -> Result<(), Failed> {
    let (source, key) = owner(&gathering.sources, path)?;
    let listed = without_bytes(key, modified_unix_nanos);
    Ok(take(gathering, source, &listed)?)
}

fn without_bytes(key: String, modified_unix_nanos: i64) -> Listed {
    Listed {
        key,
        bytes: 0,
        modified_unix_nanos,
        // Nothing is ever read of it, so its version is nowhere.
        version: Version::None,
    }
}

/// Whose object stands at a path, and the key that the path looks like.
fn owner(sources: &[Source], path: &str) -> Result<(SourceNumber, String), Untold> {
    let stands = |mount: &str| mount.is_empty() || path == mount || is_below(path, mount);
    let sources = sources.iter().zip(0u16..);
    let (Source { mount, .. }, number) = sources
        .filter(|(source, _)| stands(&source.mount))
        .max_by_key(|(source, _)| source.mount.len())
        .ok_or(Untold)?;
    let below = match mount.as_str() {
        "" => path,
        mount => path.get(mount.len() + 1..).unwrap_or_default(),
    };
    Ok((SourceNumber(number), below.replace('\0', "/")))
}

/// Takes what has bytes; how many of them have another path than their keys look like.
fn of_extents(gathering: &mut Gathering, parent: &Package, files: &Sorted, take: &mut Take<'_>) -> Result<u64, Failed> {
    let mut files = files.merged()?;
    let mut changed_count = 0;
    for extent in parent.all_extents() {
        let Extent {
            address,
            bytes,
            object: ObjectVersion { source, key, version },
        } = extent?;
        let file = files.next()?.ok_or(Untold)?;
        let file = File::read(file).ok_or_else(torn)?;
        if (file.address, file.bytes) != (address, bytes) {
            return Err(Failed::Untold);
        }
        let listed = Listed {
            key,
            bytes,
            modified_unix_nanos: file.modified_unix_nanos,
            version,
        };
        let mount = &gathering.sources.get(usize::from(source)).ok_or(Untold)?.mount;
        let Ok(Some(Named {
            path,
            is_folder: false,
            changed,
        })) = tree::named(mount, &listed)
        else {
            return Err(Failed::Untold);
        };
        if changed || path != file.path {
            changed_count += 1;
            // Otherwise a folder with a changed name may hide that somebody has put a marker there.
            if folder_of(file.path) != folder_of(&looks_like(mount, &listed.key)) {
                return Err(Failed::Untold);
            }
        }
        take(gathering, SourceNumber(source), &listed)?;
    }
    match files.next()? {
        None => Ok(changed_count),
        Some(_) => Err(Failed::Untold),
    }
}

/// The path that a key looks like, whether or not a tree can have it.
fn looks_like(mount: &str, key: &str) -> String {
    let below = key.replace('/', "\0");
    match mount {
        "" => below,
        mount => format!("{mount}\0{below}"),
    }
}

fn folder_of(path: &str) -> &str {
    path.rfind('\0').map_or("", |end| &path[..end])
}

/// A file of the image, as it is sorted.
struct File<'a> {
    address: u64,
    bytes: u64,
    modified_unix_nanos: i64,
    path: &'a str,
}

impl<'a> File<'a> {
    fn read(record: &'a [u8]) -> Option<Self> {
        let (address, rest) = record.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let (modified_unix_nanos, path) = rest.split_first_chunk()?;
        Some(Self {
            address: u64::from_be_bytes(*address),
            bytes: u64::from_le_bytes(*bytes),
            modified_unix_nanos: i64::from_le_bytes(*modified_unix_nanos),
            path: std::str::from_utf8(path).ok()?,
        })
    }
}
