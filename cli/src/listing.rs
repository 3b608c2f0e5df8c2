//! What a revision shows at a path, as values: for `ls` and `stat`. Reads the image as the kernel would, and must not
//! know where it came from or how it is printed.

use anyhow::{Context, Result, bail};
use penstock_protocol::geometry::BlockRange;
use penstock_revision::erofs::reader::{Image, Inode, NodeId};
use penstock_revision::{ObjectVersion, Package};
use serde::Serialize;

/// A file or a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Path in the dataset.
    pub path: String,
    /// `file` or `directory`.
    pub kind: Kind,
    /// Length; 0 for folders.
    pub bytes: u64,
    /// Time of the last change.
    pub modified: String,
    /// Permission bits, as in `chmod`.
    #[serde(skip)]
    pub permissions: u16,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Directory,
}

/// A revision that can be looked at.
pub struct Tree {
    package: Package,
    image: Image,
}

impl Tree {
    /// The tree of a package.
    ///
    /// # Errors
    /// When the package is damaged.
    pub fn of(package: Package) -> Result<Self> {
        let image = Image::open(package.image()?.into())?;
        Ok(Self { package, image })
    }

    /// The entry at `path`; "" is the root.
    ///
    /// # Errors
    /// When there is none.
    pub fn entry(&self, path: &str) -> Result<Entry> {
        let (path, _, inode) = self.find(path)?;
        Ok(entry(path, &inode))
    }

    /// What is in the folder `path`, by name, or the file itself.
    ///
    /// # Errors
    /// When there is no such path.
    pub fn entries(&self, path: &str, recursive: bool) -> Result<Vec<Entry>> {
        let (path, node, inode) = self.find(path)?;
        if !inode.is_directory() {
            return Ok(vec![entry(path, &inode)]);
        }
        let mut found = Vec::new();
        let mut folders = vec![(path, node)];
        while let Some((path, node)) = folders.pop() {
            // Folders are taken from the end: what is in one comes right behind it.
            let mut below = Vec::new();
            for child in self.image.entries(node)? {
                if child.name == "." || child.name == ".." {
                    continue;
                }
                let child_path = join(&path, &child.name);
                found.push(entry(child_path.clone(), &self.image.inode(child.node)?));
                if recursive && child.is_directory {
                    below.push((child_path, child.node));
                }
            }
            folders.extend(below.into_iter().rev());
        }
        if recursive {
            found.sort_by(|a, b| a.path.cmp(&b.path));
        }
        Ok(found)
    }

    /// Where the bytes of the file `path` lie in the space: address and length. `None` for an empty file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn place(&self, path: &str) -> Result<Option<(u64, u64)>> {
        let (path, _, inode) = self.find(path)?;
        if inode.is_directory() {
            bail!("{path:?} is a folder: name a file in it, or list it with `penstock ls`");
        }
        Ok(inode.address().map(|address| (address, inode.bytes)))
    }

    /// The object behind the file `path`, with the identity of its source. `None` for folders and empty files.
    ///
    /// # Errors
    /// When there is no such path or the package is damaged.
    pub fn object(&self, path: &str) -> Result<Option<(String, ObjectVersion)>> {
        let (_, _, inode) = self.find(path)?;
        let Some(address) = inode.address() else {
            return Ok(None);
        };
        let Some(first) = BlockRange::covering(address, 1).next() else {
            return Ok(None);
        };
        let extent = self.package.extents(first)?.into_iter().find(|e| e.address == address);
        let extent = extent.with_context(|| format!("the revision has no object at address {address}"))?;
        let source = self.package.sources().get(usize::from(extent.object.source));
        Ok(Some((source.cloned().unwrap_or_default(), extent.object)))
    }

    fn find(&self, path: &str) -> Result<(String, NodeId, Inode)> {
        let path: Vec<_> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        let path = path.join("/");
        let Some(node) = self.image.lookup(&path)? else {
            bail!("the dataset has no {path:?}: see `penstock ls` for what it has");
        };
        let inode = self.image.inode(node)?;
        Ok((path, node, inode))
    }
}

fn entry(path: String, inode: &Inode) -> Entry {
    let is_directory = inode.is_directory();
    Entry {
        path,
        kind: if is_directory { Kind::Directory } else { Kind::File },
        bytes: if is_directory { 0 } else { inode.bytes },
        modified: crate::text::time(inode.modified_unix_nanos),
        permissions: inode.mode & 0o7777,
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use penstock_protocol::ids::SpaceId;
    use penstock_revision::{BuildOptions, Listed, Outcome, SourceListing, Version, build};

    use super::*;

    fn tree() -> Tree {
        let objects = [("b/deep/x", 5000), ("a.txt", 3), ("b/y", 0)].map(|(key, bytes)| Listed {
            key: key.into(),
            bytes,
            modified_unix_nanos: 0,
            version: Version::ETag("v1".into()),
        });
        let listing = SourceListing {
            identity: "s3://bucket/".into(),
            path: String::new(),
            objects: objects.into(),
        };
        match build(SpaceId([1; 16]), None, &[listing], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => Tree::of(package).unwrap(),
            Outcome::Unchanged => panic!("there was nothing before"),
        }
    }

    fn paths(entries: Vec<Entry>) -> Vec<String> {
        entries.into_iter().map(|entry| entry.path).collect()
    }

    #[test]
    fn a_folder_shows_what_is_in_it() {
        let tree = tree();
        assert_eq!(paths(tree.entries("", false).unwrap()), ["a.txt", "b"]);
        assert_eq!(paths(tree.entries("/b/", false).unwrap()), ["b/deep", "b/y"]);
        assert_eq!(
            paths(tree.entries("", true).unwrap()),
            ["a.txt", "b", "b/deep", "b/deep/x", "b/y"]
        );
        assert_eq!(paths(tree.entries("a.txt", true).unwrap()), ["a.txt"]);
    }

    #[test]
    fn a_file_knows_its_object() {
        let tree = tree();
        let (source, object) = tree.object("b/deep/x").unwrap().unwrap();
        assert_eq!((source.as_str(), object.key.as_str()), ("s3://bucket/", "b/deep/x"));
        assert_eq!(tree.place("b/deep/x").unwrap().map(|(_, bytes)| bytes), Some(5000));
        assert_eq!(tree.place("b/y").unwrap(), None);
    }

    #[test]
    fn a_wrong_path_is_said() {
        let tree = tree();
        for (outcome, sentence) in [
            (tree.entry("nothing").map(|_| ()), "has no \"nothing\""),
            (tree.place("b").map(|_| ()), "is a folder"),
            (tree.entry("a.txt/x").map(|_| ()), "has no"),
        ] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
