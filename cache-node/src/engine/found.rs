//! Where the files of a path are in a space. It must not know what of them is stored.

use std::ops::Range;

use penstock_protocol::geometry::{BlockRange, round_up_to_block};
use penstock_protocol::ids::RevisionId;
use penstock_revision::erofs::reader::{Damaged, Image, Inode, NodeId};
use penstock_revision::{Package, PackageError, Scratch};

use crate::limits::NAMES_TOLD_MAX;

/// Why something cannot be inspected; each is a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// There is no such Dataset.
    #[error("this cache node was not told of a Dataset {0:?}: `penstock cache ls` names those that it was told of")]
    UnknownDataset(String),
    /// There is, but no package of it.
    #[error("no revision of {0} is on this cache node yet: it looks for one, ask again in some seconds")]
    NotHere(String),
    /// The revision has no such path.
    #[error("revision {revision:.12} of {dataset} has no {path:?}; {there}")]
    UnknownPath {
        /// The Dataset.
        dataset: String,
        /// Its newest revision that is here.
        revision: String,
        /// What was asked for.
        path: String,
        /// What there is instead.
        there: String,
    },
    /// The disk does not take its names.
    #[error(
        "a look into {dataset} takes {needed_bytes} bytes of the disk of this cache node meanwhile, and it does not give them ({why}): \
         make room beside what the tier may hold"
    )]
    NoRoom {
        /// The Dataset.
        dataset: String,
        /// Bytes of its names.
        needed_bytes: u64,
        /// What the disk says.
        why: String,
    },
    /// A file has to be named.
    #[error("{0:?} is a folder: name a file in it, or see `penstock cache stat` for all that is below")]
    Folder(String),
    /// The package is not what it should be.
    #[error(
        "the package of revision {0} is damaged ({1}): this cache node looks for another copy, ask again in some seconds"
    )]
    DamagedPackage(RevisionId, String),
}

/// What is at a path, in the whole tree of its revision.
pub(super) struct There {
    pub(super) image: Image,
    /// Without slashes around it.
    pub(super) path: String,
    pub(super) node: NodeId,
    pub(super) inode: Inode,
}

impl There {
    /// The names of many are in `scratch` as long as this is there.
    pub(super) fn at(dataset: &str, package: &Package, path: &str, scratch: &Scratch) -> Result<Self, InspectError> {
        let image = package.unpack(scratch).map_err(|error| match error {
            PackageError::Unwritten(why) => InspectError::NoRoom {
                dataset: dataset.to_owned(),
                needed_bytes: package.image_bytes(),
                why,
            },
            error => damaged(package, &error),
        })?;
        let named: Vec<&str> = path
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".")
            .collect();
        let path = named.join("/");
        let Some(node) = image.lookup(&path).map_err(|error| damaged(package, &error))? else {
            return Err(InspectError::UnknownPath {
                dataset: dataset.to_owned(),
                revision: package.id().to_string(),
                there: there(&image, &named).map_err(|error| damaged(package, &error))?,
                path,
            });
        };
        let inode = image.inode(node).map_err(|error| damaged(package, &error))?;
        Ok(Self {
            image,
            path,
            node,
            inode,
        })
    }
}

pub(super) fn damaged(package: &Package, error: &dyn std::fmt::Display) -> InspectError {
    InspectError::DamagedPackage(package.id(), error.to_string())
}

/// The files of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_folder: bool,
    pub(super) files: u64,
    /// Sum of their lengths.
    pub(super) bytes: u64,
    /// Their blocks: addresses, sorted, none twice.
    runs: Vec<Range<u64>>,
}

impl Found {
    /// A file, or all that is below a folder. Takes a second for a million files; the names of many are in `scratch` meanwhile.
    pub(super) fn at(dataset: &str, package: &Package, path: &str, scratch: &Scratch) -> Result<Self, InspectError> {
        let there = There::at(dataset, package, path, scratch)?;
        Self::of(&there).map_err(|error| damaged(package, &error))
    }

    fn of(there: &There) -> Result<Self, Damaged> {
        let There {
            image,
            path: _,
            node,
            inode,
        } = there;
        let mut found = Self {
            is_folder: inode.is_directory(),
            files: 0,
            bytes: 0,
            runs: Vec::new(),
        };
        if found.is_folder {
            image.walk_below(*node, |_, _, inode| {
                if !inode.is_directory() {
                    found.add(inode);
                }
            })?;
        } else {
            found.add(inode);
        }
        found.runs.sort_unstable_by_key(|run| run.start);
        found.runs.dedup_by(|next, run| {
            let follows = next.start <= run.end;
            if follows {
                run.end = run.end.max(next.end);
            }
            follows
        });
        Ok(found)
    }

    fn add(&mut self, file: &Inode) {
        self.files += 1;
        self.bytes += file.bytes;
        let Some(start) = file.address() else { return };
        let end = start + round_up_to_block(file.bytes);
        match self.runs.last_mut() {
            // Most files lie in the order of their names.
            Some(run) if run.end == start => run.end = end,
            _ => self.runs.push(start..end),
        }
    }

    /// Bytes of their blocks.
    pub(super) fn block_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// Address of a file that was named itself; `None` if it is empty.
    pub(super) fn address(&self) -> Option<u64> {
        self.runs.first().map(|run| run.start)
    }

    /// Their blocks by stripe, in the order of the addresses.
    pub(super) fn stripes(&self) -> Vec<Vec<BlockRange>> {
        let runs = self.runs.iter();
        let ranges: Vec<BlockRange> = runs
            .flat_map(|run| BlockRange::covering(run.start, run.end - run.start))
            .collect();
        let of_stripes = ranges.chunk_by(|one, next| one.stripe() == next.stripe());
        of_stripes.map(<[BlockRange]>::to_vec).collect()
    }
}

/// What there is where a path ends.
fn there(image: &Image, named: &[&str]) -> Result<String, Damaged> {
    let (mut node, mut at) = (image.root(), Vec::new());
    for name in named {
        if !image.inode(node)?.is_directory() {
            return Ok(format!("{:?} is a file", at.join("/")));
        }
        let Some(next) = image.find(node, name)? else { break };
        node = next;
        at.push(*name);
    }
    let names = names(image, node)?;
    Ok(if at.is_empty() {
        format!("it has {names}")
    } else {
        format!("{:?} has {names}", at.join("/"))
    })
}

/// The first names of a folder.
fn names(image: &Image, folder: NodeId) -> Result<String, Damaged> {
    let (mut shown, mut count) = (Vec::new(), 0usize);
    image.each_entry(folder, |entry| {
        count += 1;
        if count <= NAMES_TOLD_MAX {
            shown.push(format!("{:?}", entry.name));
        }
    })?;
    Ok(match count.saturating_sub(NAMES_TOLD_MAX) {
        _ if shown.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use penstock_protocol::geometry::STRIPE_BYTES;
    use penstock_protocol::ids::SpaceId;
    use penstock_revision::{BuildOptions, Listed, Outcome, SourceListing, Version, build};

    use super::*;

    fn package() -> Package {
        let objects = [
            ("a/deep/x", 5000),
            ("a/y", 0),
            ("a/z", 9000),
            ("ab", 100),
            ("large", STRIPE_BYTES + 1),
        ];
        let objects = objects.map(|(key, bytes)| Listed {
            key: key.into(),
            bytes,
            modified_unix_nanos: 0,
            version: Version::ETag("1".into()),
        });
        let listing = SourceListing {
            identity: "s3://bucket/".into(),
            path: String::new(),
            objects: objects.into(),
        };
        match build(SpaceId([1; 16]), None, &[listing], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => panic!("there was nothing before"),
        }
    }

    #[test]
    fn a_folder_has_what_is_below_it_and_nothing_that_only_begins_like_it() {
        for (path, expected) in [
            ("a", (true, 3, 14_000, 8192 + 12_288)),
            ("/a/deep/", (true, 1, 5000, 8192)),
            ("a/y", (false, 1, 0, 0)),
            ("ab", (false, 1, 100, 4096)),
            (
                "",
                (
                    true,
                    5,
                    14_100 + STRIPE_BYTES + 1,
                    8192 + 12_288 + 4096 + STRIPE_BYTES + 4096,
                ),
            ),
        ] {
            let found = Found::at("n/d", &package(), path, &Scratch::memory()).unwrap();
            let seen = (found.is_folder, found.files, found.bytes, found.block_bytes());
            assert_eq!(seen, expected, "{path}");
            let pieces = found.stripes();
            let bytes: u64 = pieces.iter().flatten().map(|piece| piece.bytes()).sum();
            assert_eq!(bytes, found.block_bytes(), "{path}");
            assert!(
                pieces.is_sorted_by(|one, next| one[0].stripe() < next[0].stripe()),
                "{path}"
            );
        }
        let large = Found::at("n/d", &package(), "large", &Scratch::memory()).unwrap();
        assert!(large.stripes().len() >= 2 && large.address().is_some());
    }

    #[test]
    fn who_looks_while_the_disk_is_full_is_told_how_much_it_takes() {
        let full = Scratch::folder_beyond("/proc/no-folder", 1);
        let refused = Found::at("n/d", &package(), "a", &full).unwrap_err();
        assert!(matches!(refused, InspectError::NoRoom { .. }), "{refused}");
        assert!(refused.to_string().contains("takes 4096 bytes"), "{refused}");
    }

    #[test]
    fn who_asks_for_what_is_not_there_is_told_what_is() {
        for (path, said) in [
            ("b", "revision ID of n/d has no \"b\"; it has \"a\", \"ab\", \"large\""),
            (
                "a/b/c",
                "revision ID of n/d has no \"a/b/c\"; \"a\" has \"deep\", \"y\", \"z\"",
            ),
            ("ab/c", "revision ID of n/d has no \"ab/c\"; \"ab\" is a file"),
        ] {
            let package = package();
            let error = Found::at("n/d", &package, path, &Scratch::memory())
                .unwrap_err()
                .to_string();
            let id = format!("{:.12}", package.id().to_string());
            assert_eq!(error.replace(&id, "ID"), said);
        }
    }
}
