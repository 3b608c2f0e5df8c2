//! What does not fit in memory goes to files, and makes no difference.

use std::os::unix::fs::FileExt;

use penstock_protocol::ids::SpaceId;
use penstock_revision::erofs::reader::Inode;
use penstock_revision::{
    BuildError, BuildOptions, Gathering, Listed, Outcome, Package, PackageError, Scratch, SourceListing, Version,
};
use proptest::prelude::*;

/// Parts of keys that become folders, that clash with one another, and that no file system can hold.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => "[a-c]",
        1 => prop::sample::select(vec![
            "", ".", "..", "...", "-", "a!", "a~object", "%2F", "%2E", "n\0l", "n%00l", "é",
        ]).prop_map(str::to_owned),
        1 => (250usize..310).prop_map(|bytes| "x".repeat(bytes)),
    ]
}

fn object() -> impl Strategy<Value = Listed> {
    let parts = prop_oneof![
        30 => prop::collection::vec(part(), 1..5),
        1 => Just(vec!["y".repeat(300); 20]),
    ];
    let key = (parts, 0..5).prop_map(|(parts, end)| parts.join("/") + if end == 0 { "/" } else { "" });
    let bytes = prop::sample::select(vec![0u64, 0, 1, 5000, 3 << 20, 70 << 20, 1 << 33, 9 << 40, 1 << 49]);
    let version = prop_oneof![
        1 => Just(Version::None),
        3 => "[0-9a-f]{0,4}".prop_map(Version::ETag),
        1 => "[0-9]".prop_map(Version::Id),
    ];
    (key, bytes, -2i64..3, version).prop_map(|(key, bytes, time, version)| Listed {
        key,
        bytes,
        modified_unix_nanos: time * 1_500_000_000,
        version,
    })
}

fn source() -> impl Strategy<Value = SourceListing> {
    let identity = prop::sample::select(vec!["one", "two"]);
    let path = prop::sample::select(vec!["", "", "a", "a/b", "m//n"]);
    let objects = prop::collection::vec(object(), 0..80);
    (identity, path, objects).prop_map(|(identity, path, objects)| SourceListing {
        identity: identity.to_owned(),
        path: path.to_owned(),
        objects,
    })
}

/// Gathers the pages of all sources in turn, as they come when all are listed at the same time.
fn built(
    scratch: &Scratch,
    sources: &[SourceListing],
    page: usize,
    parent: Option<&Package>,
) -> Result<Outcome, BuildError> {
    let mut gathering = Gathering::new(scratch.clone());
    let mut pages = Vec::new();
    for source in sources {
        let number = gathering.begin_source(source.identity.clone(), &source.path)?;
        pages.push((number, source.objects.chunks(page)));
    }
    loop {
        let mut is_end = true;
        for (number, pages) in &mut pages {
            if let Some(page) = pages.next() {
                gathering.add(*number, page)?;
                is_end = false;
            }
        }
        if is_end {
            return gathering.build(SpaceId([1; 16]), parent, &BuildOptions::default());
        }
    }
}

fn package(outcome: Result<Outcome, BuildError>) -> Option<Package> {
    match outcome.unwrap() {
        Outcome::New(package) => Some(package),
        Outcome::Unchanged => None,
    }
}

type Name = (String, Inode);

/// All names with what they stand for, and those below each of the folders, as somebody finds them who looks into a package.
fn names(package: &Package, scratch: &Scratch) -> (Vec<Name>, Vec<Vec<Name>>) {
    let image = package.unpack(scratch).unwrap();
    let (mut all, mut folders) = (Vec::new(), vec![image.root()]);
    let counts = image.walk(|path, node, inode| {
        all.push((path.to_owned(), inode.clone()));
        folders.extend(inode.is_directory().then_some(node));
    });
    assert_eq!(counts.unwrap().directories, folders.len() as u64);
    let below = folders.into_iter().map(|folder| {
        let mut below = Vec::new();
        image
            .walk_below(folder, |path, _, inode| below.push((path.to_owned(), inode.clone())))
            .unwrap();
        let mut entries = image.entries(folder).unwrap().into_iter();
        let direct = below.iter().filter(|(path, _)| !path.contains('/'));
        assert!(
            direct
                .map(|(path, _)| path)
                .eq(entries.by_ref().map(|entry| entry.name).collect::<Vec<_>>().iter())
        );
        below
    });
    let below: Vec<Vec<Name>> = below.collect();
    assert_eq!(all, below[0]);
    (all, below)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn files_in_the_place_of_memory_change_no_byte_of_a_revision_and_of_its_refresh(
        sources in prop::collection::vec(source(), 1..4),
        more in prop::collection::vec(object(), 0..20),
        kept in 0usize..80,
        page in 1usize..30,
        memory_bytes in 1usize..5000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (memory, files) = (Scratch::memory(), Scratch::folder_beyond(folder.path(), memory_bytes));
        let first = package(built(&memory, &sources, 1000, None)).unwrap();
        let spilled = package(built(&files, &sources, page, None)).unwrap();
        prop_assert_eq!(first.bytes(), spilled.bytes());
        prop_assert_eq!(names(&first, &memory), names(&first, &files));
        let mut next = sources;
        next[0].objects.truncate(kept);
        next[0].objects.extend(more);
        let refreshed = package(built(&memory, &next, 1000, Some(&first)));
        let spilled = package(built(&files, &next, page, Some(&first)));
        prop_assert_eq!(refreshed.as_ref().map(Package::bytes), spilled.as_ref().map(Package::bytes));
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file has a name");
    }
}

fn many(files: usize) -> Package {
    let objects = (0..files).map(|number| Listed {
        key: format!("{}/{number:08}", number % 10),
        bytes: 1,
        modified_unix_nanos: 0,
        version: Version::None,
    });
    let source = SourceListing {
        identity: "one".into(),
        path: String::new(),
        objects: objects.collect(),
    };
    package(built(&Scratch::memory(), &[source], files, None)).unwrap()
}

#[test]
fn a_package_whose_file_rots_is_not_looked_into_and_says_that_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = Scratch::folder_beyond(folder.path(), 1000);
    let package = many(3000);
    let mut file = tempfile::tempfile().unwrap();
    package.copy_to(&mut file).unwrap();
    let in_file = Package::in_file(file.try_clone().unwrap(), &package.id()).unwrap();
    assert!(in_file.unpack(&scratch).unwrap().check().is_ok());
    // The image is behind all else.
    let last = package.bytes() - 1;
    let byte = package.read(last..last + 1).unwrap()[0];
    file.write_all_at(&[byte ^ 1], last).unwrap();
    let refused = in_file.unpack(&scratch).unwrap_err();
    assert!(matches!(refused, PackageError::Unreadable(_)), "{refused}");
    assert!(in_file.has_failed());
}

#[test]
fn a_disk_that_takes_no_image_says_so_and_the_package_is_well() {
    let package = many(3000);
    let refused = package
        .unpack(&Scratch::folder_beyond("/proc/no-folder", 1000))
        .unwrap_err();
    assert!(matches!(refused, PackageError::Unwritten(_)), "{refused}");
    assert!(!package.has_failed());
    let mut gathering = Gathering::new(Scratch::folder_beyond("/proc/no-folder", 100_000));
    gathering.begin_source("one".into(), "").unwrap();
    let failed = gathering.carry(&package, |_, _| true).unwrap_err();
    assert!(failed.to_string().contains("make room"), "{failed}");
}

#[test]
fn a_folder_that_takes_no_files_ends_the_build_with_a_sentence() {
    let scratch = Scratch::folder_beyond("/proc/no-folder", 1);
    let sources = [SourceListing {
        identity: "one".into(),
        path: String::new(),
        objects: vec![Listed {
            key: "a".into(),
            bytes: 1,
            modified_unix_nanos: 0,
            version: Version::None,
        }],
    }];
    let failed = built(&scratch, &sources, 1, None).unwrap_err();
    assert!(matches!(failed, BuildError::Scratch(_)), "{failed:?}");
    assert!(failed.to_string().contains("make room"), "{failed}");
}
