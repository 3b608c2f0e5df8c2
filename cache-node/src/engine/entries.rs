//! The tree of a Dataset as pods see it: names, lengths and times at a path of its newest revision. It must not know what of it is
//! stored.

use penstock_protocol::ids::RevisionId;
use penstock_revision::erofs::cursor::FolderCursor;
use penstock_revision::erofs::reader::{Damaged, Inode};

use super::found::{There, damaged};
use super::{Engine, InspectError};
use crate::limits::ENTRIES_AT_ONCE_MAX;

/// A file or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// From the root of the tree.
    pub path: String,
    /// Or it is a file.
    pub is_folder: bool,
    /// Length; 0 for folders.
    pub bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_unix_nanos: i64,
}

impl Engine {
    /// What is in a folder, with everything below if it `is_recursive`, or the file itself. `tell` hears some at a time, a folder
    /// before what is in it, and says whether to go on. The revision, if all was told. Of each folder on the way one block is in memory until
    /// this ends, however many names it has.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn entries(
        &self,
        dataset: &str,
        path: &str,
        is_recursive: bool,
        mut tell: impl FnMut(RevisionId, Vec<TreeEntry>) -> bool,
    ) -> Result<Option<RevisionId>, InspectError> {
        let announced = self.newest(dataset)?;
        let there = There::at(dataset, &announced.package, path, &self.0.scratch);
        let is_told = there.and_then(|there| {
            let is_told = told(there, is_recursive, |entries| tell(announced.id, entries));
            is_told.map_err(|error| damaged(&announced.package, &error))
        });
        let is_told = is_told.inspect_err(|_| self.seek_again(&announced))?;
        Ok(is_told.then_some(announced.id))
    }
}

/// Whether all was told.
fn told(there: There, is_recursive: bool, mut tell: impl FnMut(Vec<TreeEntry>) -> bool) -> Result<bool, Damaged> {
    let There {
        image,
        path,
        node,
        inode,
    } = there;
    if !inode.is_directory() {
        return Ok(tell(vec![entry(path, &inode)]));
    }
    let mut some = Vec::new();
    // Each folder on the way with the place in it, the deepest last.
    let mut open = vec![(path, FolderCursor::begin(&image, node, &inode)?)];
    while let Some((folder, cursor)) = open.last_mut() {
        let Some(found) = cursor.next(&image)? else {
            open.pop();
            continue;
        };
        let at = match folder.as_str() {
            _ if matches!(found.name, "." | "..") => continue,
            "" => found.name.to_owned(),
            folder => format!("{folder}/{}", found.name),
        };
        let node = found.node;
        let inode = image.inode(node)?;
        some.push(entry(at.clone(), &inode));
        if some.len() == ENTRIES_AT_ONCE_MAX && !tell(std::mem::take(&mut some)) {
            return Ok(false);
        }
        if is_recursive && inode.is_directory() {
            open.push((at, FolderCursor::begin(&image, node, &inode)?));
        }
    }
    Ok(some.is_empty() || tell(some))
}

fn entry(path: String, inode: &Inode) -> TreeEntry {
    let is_folder = inode.is_directory();
    TreeEntry {
        path,
        is_folder,
        bytes: if is_folder { 0 } else { inode.bytes },
        modified_unix_nanos: inode.modified_unix_nanos,
    }
}

#[cfg(test)]
mod tests {
    use penstock_protocol::geometry::BLOCK_BYTES;
    use penstock_protocol::ids::SpaceId;
    use penstock_revision::erofs::reader::Image;
    use penstock_revision::{BuildOptions, Listed, Outcome, Package, Scratch, SourceListing, Version, build};

    use super::*;

    fn package(keys: impl IntoIterator<Item = String>) -> Package {
        let objects = keys.into_iter().map(|key| Listed {
            bytes: key.len() as u64,
            key,
            modified_unix_nanos: 7_000_000_000,
            version: Version::ETag("1".into()),
        });
        let listing = SourceListing {
            identity: "s3://bucket/".into(),
            path: String::new(),
            objects: objects.collect(),
        };
        match build(SpaceId([1; 16]), None, &[listing], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => panic!("there was nothing before"),
        }
    }

    /// What is told of a path, as `path/` or `path:length`.
    fn shown(package: &Package, path: &str, is_recursive: bool) -> Vec<String> {
        let mut shown = Vec::new();
        let there = There::at("n/d", package, path, &Scratch::memory()).unwrap();
        let is_told = told(there, is_recursive, |entries| {
            shown.extend(entries.into_iter().map(|entry| match entry.is_folder {
                true => format!("{}/", entry.path),
                false => format!("{}:{}", entry.path, entry.bytes),
            }));
            true
        });
        assert!(is_told.unwrap());
        shown
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_a_file_is_told_itself() {
        let package = package(["a/deep/x", "a/y", "a.txt", "ab"].map(str::to_owned));
        for (path, is_recursive, expected) in [
            ("", false, &["a/", "a.txt:5", "ab:2"][..]),
            ("", true, &["a/", "a/deep/", "a/deep/x:8", "a/y:3", "a.txt:5", "ab:2"]),
            ("/a/", false, &["a/deep/", "a/y:3"]),
            ("a", true, &["a/deep/", "a/deep/x:8", "a/y:3"]),
            ("a/y", true, &["a/y:3"]),
        ] {
            assert_eq!(shown(&package, path, is_recursive), expected, "{path} {is_recursive}");
        }
        let there = There::at("n/d", &package, "a.txt", &Scratch::memory()).unwrap();
        let mut times = Vec::new();
        told(there, false, |entries| {
            times.extend(entries.into_iter().map(|entry| entry.modified_unix_nanos));
            true
        })
        .unwrap();
        assert_eq!(times, [7_000_000_000]);
    }

    #[test]
    fn many_are_told_in_parts_until_nobody_listens() {
        let count = 2 * ENTRIES_AT_ONCE_MAX + 1;
        let package = package((0..count).map(|number| format!("{number:05}")));
        let parts = |parts_max: usize| {
            let mut parts = Vec::new();
            let there = There::at("n/d", &package, "", &Scratch::memory()).unwrap();
            let is_told = told(there, false, |entries| {
                parts.push(entries.len());
                parts.len() < parts_max
            });
            (is_told.unwrap(), parts)
        };
        assert_eq!(parts(9), (true, vec![ENTRIES_AT_ONCE_MAX, ENTRIES_AT_ONCE_MAX, 1]));
        assert_eq!(parts(1), (false, vec![ENTRIES_AT_ONCE_MAX]));
        assert_eq!(parts(3), (false, vec![ENTRIES_AT_ONCE_MAX, ENTRIES_AT_ONCE_MAX, 1]));
    }

    #[test]
    fn what_is_told_of_a_large_folder_was_read_and_what_comes_later_was_not() {
        let count = 4 * ENTRIES_AT_ONCE_MAX;
        let name = |number: usize| format!("n{number:05}");
        let mut image = package((0..count).map(name)).image().unwrap();
        // A block of the folder that makes no sense, behind two parts of it.
        let at = position(&image, name(3 * ENTRIES_AT_ONCE_MAX).as_bytes());
        let block = at / BLOCK_BYTES as usize * BLOCK_BYTES as usize;
        image[block + 8..block + 10].fill(0xff);
        let image = Image::open(image.into()).unwrap();
        let node = image.root();
        let there = There {
            inode: image.inode(node).unwrap(),
            image,
            path: String::new(),
            node,
        };
        let mut names = Vec::new();
        told(there, true, |entries| {
            names.extend(entries.into_iter().map(|entry| entry.path));
            true
        })
        .unwrap_err();
        let parts = 2 * ENTRIES_AT_ONCE_MAX;
        assert_eq!(names.len(), parts);
        assert!(names.into_iter().eq((0..parts).map(name)));
    }

    fn position(bytes: &[u8], wanted: &[u8]) -> usize {
        let mut windows = bytes.windows(wanted.len());
        windows.position(|window| window == wanted).unwrap()
    }
}
