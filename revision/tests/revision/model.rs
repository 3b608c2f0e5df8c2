//! Trees in the simplest form: paths and what stands there. Knows neither images nor kernels.

use std::collections::{BTreeMap, BTreeSet};

use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, Outcome, Package, SourceListing, Version, build};
use proptest::prelude::*;

pub const IDENTITY: &str = "s3://bucket/prefix/";

/// What `stat` must say of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: u64,
    pub modified_unix_nanos: i64,
}

/// Files by path, and the folders that follow from them.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub files: BTreeMap<String, File>,
}

impl Model {
    /// Folders by path ("" is the root) with the names in them, bytewise.
    pub fn folders(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut folders = BTreeMap::from([(String::new(), BTreeSet::new())]);
        for path in self.files.keys() {
            let mut path = path.as_str();
            loop {
                let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
                let names: &mut BTreeSet<String> = folders.entry(folder.to_owned()).or_default();
                if !names.insert(name.to_owned()) || folder.is_empty() {
                    break;
                }
                path = folder;
            }
        }
        folders
    }

    /// A folder is as new as the newest file below it.
    pub fn folder_modified(&self, folder: &str) -> i64 {
        let below =
            |path: &str| folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let times = self.files.iter().filter(|(path, _)| below(path));
        times.map(|(_, file)| file.modified_unix_nanos).max().unwrap_or(0)
    }

    pub fn listing(&self) -> SourceListing {
        let objects = self.files.iter().map(|(key, file)| listed(key, *file)).collect();
        SourceListing {
            identity: IDENTITY.into(),
            path: String::new(),
            objects,
        }
    }

    pub fn package(&self) -> Package {
        built(None, &[self.listing()])
    }
}

pub fn listed(key: &str, file: File) -> Listed {
    Listed {
        key: key.into(),
        bytes: file.bytes,
        modified_unix_nanos: file.modified_unix_nanos,
        version: Version::ETag(format!("{:032x}", key.len() as u64 ^ file.bytes)),
    }
}

/// A new revision; panics when nothing changed.
pub fn built(parent: Option<&Package>, sources: &[SourceListing]) -> Package {
    let space = SpaceId([if parent.is_some() { 2 } else { 1 }; 16]);
    match build(space, parent, sources, &BuildOptions::default()).expect("a revision is built") {
        Outcome::New(package) => package,
        Outcome::Unchanged => panic!("the revision differs from its parent"),
    }
}

fn name() -> impl Strategy<Value = String> {
    let fits =
        |name: &String| (1..=255).contains(&name.len()) && name != "." && name != ".." && !name.contains(['/', '\0']);
    let name = prop_oneof![
        6 => "[a-c]{1,2}",
        2 => "[ -.0-~]{1,12}",
        2 => "\\PC{1,20}",
        1 => "[a-z]{255}",
        1 => "\u{e4}{127}z",
    ];
    name.prop_filter("no file system holds it", fits)
}

fn file() -> impl Strategy<Value = File> {
    let bytes = prop_oneof![
        2 => Just(0u64),
        4 => 1u64..5000,
        4 => 1u64..3 << 20,
        1 => 4u64 << 30..6 << 30,
        1 => 1u64 << 40..1 << 43,
    ];
    (bytes, -2_000_000_000_000_000_000i64..i64::MAX).prop_map(|(bytes, modified_unix_nanos)| File {
        bytes,
        modified_unix_nanos,
    })
}

/// Trees whose keys are paths as they are: nothing awkward. Deep ones and wide ones among them.
pub fn model() -> impl Strategy<Value = Model> {
    let shape = prop_oneof![
        6 => (1..6usize, 0..60usize),
        1 => (1..3usize, 200..600usize),
        1 => (60..120usize, 0..6usize),
    ];
    (shape, prop::collection::vec(name(), 3..40)).prop_flat_map(|((depth, count), names)| {
        let path = prop::collection::vec(prop::sample::select(names), 1..=depth);
        let path = path.prop_filter("longer than a path may be", |parts| {
            parts.iter().map(|part| part.len() + 1).sum::<usize>() < 3000
        });
        let free = name().prop_filter("short", |name| name.len() < 200);
        prop::collection::vec((path, free, file()), count).prop_map(|files| Model {
            files: without_clashes(files),
        })
    })
}

fn without_clashes(files: Vec<(Vec<String>, String, File)>) -> BTreeMap<String, File> {
    let mut kept: BTreeMap<String, File> = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for (mut parts, name, file) in files {
        parts.push(name);
        let path = parts.join("/");
        let above: Vec<String> = (1..parts.len()).map(|upto| parts[..upto].join("/")).collect();
        if folders.contains(&path) || above.iter().any(|folder| kept.contains_key(folder)) {
            continue;
        }
        folders.extend(above);
        kept.insert(path, file);
    }
    kept
}
