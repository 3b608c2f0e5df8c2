//! The kernel and the reader show exactly the tree that was listed.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use penstock_revision::erofs::reader::Image;
use penstock_revision::{BuildOptions, Extent, Package};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, open, seek};

use crate::model::{Model, model};
use crate::mounted::Mounted;
use crate::tools;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn kernel_tools_and_reader_show_the_tree_that_was_listed(model in model()) {
        let package = model.package();
        let mounted = Mounted::new(&package);
        assert_kernel_shows(&mounted, &package, &model);
        assert_reader_shows(&package, &model);
        tools::assert_accepted(&mounted);
    }
}

pub fn assert_kernel_shows(mounted: &Mounted, package: &Package, model: &Model) {
    let root = mounted.root();
    let options = BuildOptions::default();
    let extents = extents_by_key(package);
    for (path, names) in model.folders() {
        let folder = root.join(&path);
        let entries: Vec<_> = std::fs::read_dir(&folder).unwrap().map(Result::unwrap).collect();
        let seen: Vec<String> = entries
            .iter()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        assert!(seen.iter().eq(&names), "{path:?} has its names in bytewise order");
        for entry in &entries {
            let full = join(&path, entry.file_name().to_str().unwrap());
            let kind = entry.file_type().unwrap();
            assert_eq!(kind.is_file(), model.files.contains_key(&full), "{full:?}");
            assert_eq!(kind.is_dir(), !model.files.contains_key(&full), "{full:?}");
        }
        let stat = std::fs::metadata(&folder).unwrap();
        let subfolders = entries
            .iter()
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .count();
        assert_eq!(stat.nlink(), 2 + subfolders as u64, "links of {path:?}");
        assert_eq!(
            stat.mode(),
            0o040_000 | u32::from(options.directory_mode),
            "mode of {path:?}"
        );
        assert_eq!(
            nanos(&stat),
            i128::from(model.folder_modified(&path)),
            "time of {path:?}"
        );
    }
    for (path, file) in &model.files {
        let full = root.join(path);
        let stat = std::fs::symlink_metadata(&full).unwrap();
        assert_eq!(stat.len(), file.bytes, "length of {path:?}");
        assert_eq!(nanos(&stat), i128::from(file.modified_unix_nanos), "time of {path:?}");
        assert_eq!(
            stat.mode(),
            0o100_000 | u32::from(options.file_mode),
            "mode of {path:?}"
        );
        assert_eq!(
            (stat.uid(), stat.gid(), stat.nlink()),
            (options.uid, options.gid, 1),
            "{path:?}"
        );
        match extents.get(path) {
            Some(extent) => mounted.assert_shows(&full, extent),
            None => assert_eq!(std::fs::read(&full).unwrap(), b"", "{path:?} is empty"),
        }
    }
}

pub fn assert_reader_shows(package: &Package, model: &Model) {
    let image = Image::open(package.image().unwrap().into()).unwrap();
    assert_eq!(image.devices(), package.device_bytes());
    let extents = extents_by_key(package);
    let folders = model.folders();
    let mut seen = BTreeMap::new();
    // A look-up reads the whole folder, so of many names only some are looked up.
    let step = model.files.len() / 1000 + 1;
    let counts = image
        .walk(|path, node, inode| {
            if seen.len() % step == 0 {
                assert_eq!(image.lookup(path), Ok(Some(node)), "{path:?}");
            }
            seen.insert(path.to_owned(), inode.clone());
        })
        .unwrap();
    let expected: Vec<&String> = model
        .files
        .keys()
        .chain(folders.keys().filter(|path| !path.is_empty()))
        .collect();
    assert_eq!(seen.len(), expected.len());
    for path in expected {
        let inode = &seen[path];
        let file = model.files.get(path);
        assert_eq!(inode.is_directory(), file.is_none(), "{path:?}");
        let modified = file.map_or_else(|| model.folder_modified(path), |file| file.modified_unix_nanos);
        assert_eq!(inode.modified_unix_nanos, modified, "time of {path:?}");
        assert_eq!(
            inode.address(),
            extents.get(path).map(|extent| extent.address),
            "address of {path:?}"
        );
        if let Some(file) = file {
            assert_eq!(inode.bytes, file.bytes, "length of {path:?}");
        }
    }
    for (path, names) in &folders {
        let node = image.lookup(path).unwrap().unwrap();
        let entries = image.entries(node).unwrap();
        assert!(entries.iter().map(|entry| &entry.name).eq(names), "{path:?}");
        assert_eq!(image.lookup(&join(path, "no such name")), Ok(None));
    }
    assert_eq!(
        (counts.files, counts.directories),
        (model.files.len() as u64, folders.len() as u64)
    );
    assert_eq!(
        (package.summary().files, package.summary().directories),
        (counts.files, counts.directories)
    );
    assert_eq!(package.summary().bytes, counts.bytes);
}

/// Reads a folder in small pieces and goes back to every place that the kernel named: what follows is always the same.
pub fn assert_can_be_resumed(folder: &Path) {
    let directory = open(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut all: Vec<(Vec<u8>, u64)> = Vec::new();
    read_names(&directory, usize::MAX, &mut all);
    assert_eq!(
        all[..2]
            .iter()
            .map(|(name, _)| name.as_slice())
            .filter(|name| name[0] == b'.')
            .count(),
        2
    );
    let step = (all.len() / 50).max(1);
    for at in (0..all.len()).step_by(step) {
        seek(&directory, SeekFrom::Start(all[at].1)).unwrap();
        let mut rest = Vec::new();
        read_names(&directory, 100, &mut rest);
        let expected = &all[at + 1..(at + 1 + rest.len()).min(all.len())];
        assert_eq!(rest, expected, "behind {:?}", String::from_utf8_lossy(&all[at].0));
        assert!(rest.len() >= 100.min(all.len() - at - 1));
    }
}

/// Names with the place behind each.
fn read_names(directory: &impl std::os::fd::AsFd, count: usize, names: &mut Vec<(Vec<u8>, u64)>) {
    let mut buffer = Vec::with_capacity(1024);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        names.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
        if names.len() >= count {
            break;
        }
    }
}

fn extents_by_key(package: &Package) -> HashMap<String, Extent> {
    package
        .all_extents()
        .map(|extent| {
            let extent = extent.unwrap();
            (extent.object.key.clone(), extent)
        })
        .collect()
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn nanos(stat: &std::fs::Metadata) -> i128 {
    i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec())
}
