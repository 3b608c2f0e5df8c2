//! One path of the tree and what it is there for, as a record: in sorted runs and in the list of all names.
//!
//! A record: bytes of the path (u16, big-endian), path, rank, number of the source (u16, big-endian), and for an object its
//! length, time, version, and its key unless the path says it.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::io;

use crate::extents::{put, put_bytes, put_version, take, take_bytes, take_version};
use crate::object::{Listed, Version};
use crate::scratch::torn;

/// A path and what it is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// NUL between the parts: as NUL is the smallest byte, bytewise order is the order of a walk, and what is in a folder
    /// comes right behind the folder's own path.
    pub(crate) path: &'a str,
    pub(crate) is_folder: bool,
    /// Whether the path is not the one that the key looks like.
    pub(crate) changed: bool,
    /// What it is there for; `None` for the folder in which a source stands.
    pub(crate) object: Option<Object<'a>>,
}

/// An object that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object<'a> {
    pub(crate) source: u16,
    /// `None` when the path says it.
    pub(crate) key: Option<&'a str>,
    pub(crate) bytes: u64,
    pub(crate) modified_unix_nanos: i64,
    /// As the table of extents has it.
    version: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(crate) fn read(record: &'a [u8]) -> io::Result<Self> {
        Self::read_all(record).ok_or_else(torn)
    }

    fn read_all(record: &'a [u8]) -> Option<Self> {
        let (path, rest) = split(record)?;
        let (head, mut rest) = rest.split_first_chunk::<3>()?;
        let rank = Rank(head[0]);
        let object = if rank.has_object() {
            let bytes = take(&mut rest).ok()?;
            let (time, mut rest) = rest.split_first_chunk::<8>()?;
            let version = take_bytes(&mut rest).ok()?;
            let key = match rank.is_changed() {
                true => Some(std::str::from_utf8(take_bytes(&mut rest).ok()?).ok()?),
                false => None,
            };
            Some(Object {
                source: u16::from_be_bytes([head[1], head[2]]),
                key,
                bytes,
                modified_unix_nanos: i64::from_le_bytes(*time),
                version,
            })
        } else {
            None
        };
        Some(Self {
            path: std::str::from_utf8(path).ok()?,
            is_folder: !rank.is_file(),
            changed: rank.is_changed(),
            object,
        })
    }

    /// Writes its record in the place of what is in `out`. A changed one of an object has its key.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self {
            path,
            is_folder,
            changed,
            object,
        } = self;
        out.clear();
        // Paths are shorter than 4 KiB.
        out.extend_from_slice(&(path.len() as u16).to_be_bytes());
        out.extend_from_slice(path.as_bytes());
        out.push(Rank::of(!is_folder, *changed, object.is_some()).0);
        let Some(Object {
            source,
            key,
            bytes,
            modified_unix_nanos,
            version,
        }) = object
        else {
            out.extend_from_slice(&[0; 2]);
            return;
        };
        out.extend_from_slice(&source.to_be_bytes());
        put(out, *bytes);
        out.extend_from_slice(&modified_unix_nanos.to_le_bytes());
        put_bytes(out, version);
        if *changed {
            put_bytes(out, key.unwrap_or_default().as_bytes());
        }
    }
}

impl<'a> Object<'a> {
    /// `version` is a place for the version's bytes.
    pub(crate) fn of(source: u16, listed: &'a Listed, version: &'a mut Vec<u8>) -> Self {
        let Listed {
            key,
            bytes,
            modified_unix_nanos,
            version: listed_version,
        } = listed;
        version.clear();
        put_version(version, listed_version);
        Self {
            source,
            key: Some(key),
            bytes: *bytes,
            modified_unix_nanos: *modified_unix_nanos,
            version,
        }
    }

    pub(crate) fn version(&self) -> io::Result<Version> {
        take_version(&mut &*self.version).map_err(|_| torn())
    }

    /// The key of the object at this entry of a source that stands at `mount`.
    pub(crate) fn key_at(&self, entry: &Entry<'a>, mount: &str) -> Cow<'a, str> {
        if let Some(key) = self.key {
            return Cow::Borrowed(key);
        }
        let below = match mount {
            "" => entry.path,
            mount => entry.path.get(mount.len() + 1..).unwrap_or_default(),
        };
        if entry.is_folder {
            Cow::Owned(below.replace('\0', "/") + "/")
        } else if below.contains('\0') {
            Cow::Owned(below.replace('\0', "/"))
        } else {
            Cow::Borrowed(below)
        }
    }
}

/// Of entries with one path the lowest keeps the name: a folder, then one that has the name by nature.
#[derive(Clone, Copy)]
struct Rank(u8);

impl Rank {
    fn of(is_file: bool, changed: bool, has_object: bool) -> Self {
        Self(u8::from(is_file) << 2 | u8::from(changed) << 1 | u8::from(has_object))
    }

    fn is_file(self) -> bool {
        self.0 & 4 != 0
    }

    fn is_changed(self) -> bool {
        self.0 & 2 != 0
    }

    fn has_object(self) -> bool {
        self.0 & 1 != 0
    }
}

/// By path; of one path folders first, then the object that keeps the name: of the first source, the first key, the newest.
pub(crate) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let (Some((path_a, rest_a)), Some((path_b, rest_b))) = (split(a), split(b)) else {
        return a.cmp(b);
    };
    let heads = || rest_a[..rest_a.len().min(3)].cmp(&rest_b[..rest_b.len().min(3)]);
    path_a
        .cmp(path_b)
        .then_with(heads)
        .then_with(|| claim(a).cmp(&claim(b)))
        .then_with(|| a.cmp(b))
}

/// The lowest of those that have path, rank and source in common.
fn claim(record: &[u8]) -> Option<impl Ord> {
    let entry = Entry::read_all(record)?;
    let object = entry.object?;
    let version = match object.version().ok()? {
        Version::None | Version::Modified(_) => String::new(),
        Version::ETag(text) | Version::Id(text) => text,
    };
    let key = object.key.map(str::to_owned);
    Some((key, Reverse((object.modified_unix_nanos, object.bytes, version))))
}

fn split(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = record.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}
