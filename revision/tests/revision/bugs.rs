//! Faults found in the sources, one test each.

use std::time::Instant;

use penstock_protocol::geometry::{BlockRange, DEVICE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_revision::erofs::reader::Image;
use penstock_revision::erofs::writer::{self, Step};
use penstock_revision::{BuildError, BuildOptions, Listed, Outcome, Package, SourceListing, Version, build};

use crate::hostile::seal;
use crate::model::{File, IDENTITY, built, listed};
use crate::mounted::Mounted;
use crate::tools;

fn source(path: &str, keys: &[(&str, u64)]) -> SourceListing {
    let file = |bytes| File {
        bytes,
        modified_unix_nanos: 5,
    };
    SourceListing {
        identity: IDENTITY.into(),
        path: path.into(),
        objects: keys.iter().map(|(key, bytes)| listed(key, file(*bytes))).collect(),
    }
}

fn image(package: &Package) -> Image {
    Image::open(package.image().unwrap().into()).unwrap()
}

/// The package with another summary and sources.
fn with_facts(package: &Package, change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = package.whole().unwrap().to_vec();
    let length = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize;
    let mut facts = serde_json::from_slice(&bytes[128..128 + length]).unwrap();
    change(&mut facts);
    let facts = serde_json::to_vec(&facts).unwrap();
    let mut out = bytes[..56].to_vec();
    out.extend_from_slice(&(facts.len() as u64).to_le_bytes());
    out.extend_from_slice(&bytes[64..128]);
    out.extend_from_slice(&facts);
    out.extend_from_slice(&bytes[128 + length..]);
    out
}

#[test]
fn b1_a_hostile_end_of_the_space_does_not_panic() {
    let package = built(None, &[source("", &[("a", 1)])]);
    for end in [u64::MAX, u64::MAX - 4095, 1 << 62] {
        let bytes = with_facts(&package, |facts| facts["summary"]["space_bytes"] = end.into());
        if let Ok(package) = Package::parse(bytes.into()) {
            assert!(package.device_bytes().len() < 100_000);
        }
    }
}

#[test]
fn b2_a_hostile_number_of_files_in_the_parent_does_not_panic() {
    let package = built(None, &[source("", &[("a", 1)])]);
    let bytes = with_facts(&package, |facts| facts["summary"]["files"] = (1u64 << 60).into());
    if let Ok(parent) = Package::parse(bytes.into()) {
        let _ = build(
            SpaceId([3; 16]),
            Some(&parent),
            &[source("", &[("b", 1)])],
            &BuildOptions::default(),
        );
    }
}

#[test]
fn b3_a_hostile_image_of_folders_that_share_folders_is_refused_at_once() {
    // A chain of folders x, each with a twin y; then every y is made the same folder as its x.
    let chain = std::iter::repeat_n(Step::Into("x"), 39);
    let twins = std::iter::repeat_n([Step::Out, Step::Into("y"), Step::Out], 39).flatten();
    let steps: Vec<Step<'_>> = chain.chain(twins).collect();
    let mut bytes = writer::write(&steps, &[4096], &BuildOptions::default()).unwrap();
    let opened = Image::open(bytes.clone().into()).unwrap();
    assert!(opened.check().is_ok());
    // In each folder the entry y gets the node of x.
    let mut at = opened.root();
    loop {
        let entries = opened.entries(at).unwrap();
        let [x, y] = entries.as_slice() else { break };
        let (from, to) = (y.node.0.to_le_bytes(), x.node.0.to_le_bytes());
        let inode = at.0 as usize * 32;
        let slot = (0..4)
            .map(|slot| inode + 64 + slot * 12)
            .find(|slot| bytes[*slot..slot + 8] == from)
            .unwrap();
        bytes[slot..slot + 8].copy_from_slice(&to);
        at = x.node;
    }
    bytes[1024 + 16..1024 + 24].copy_from_slice(&(1u64 << 27).to_le_bytes());
    seal(&mut bytes);
    let started = Instant::now();
    assert!(Image::open(bytes.into()).and_then(|image| image.check()).is_err());
    assert!(started.elapsed().as_millis() < 500, "{:?}", started.elapsed());
}

#[test]
fn b4_a_renamed_file_does_not_take_the_name_of_a_folder() {
    let package = built(None, &[source("", &[("a", 1), ("a/b", 1), ("a~object/c", 1)])]);
    assert_eq!(image(&package).check().map(|counts| counts.files), Ok(3));
}

#[test]
fn b5_the_same_bucket_at_two_paths_can_be_refreshed() {
    let sources = [
        source("one", &[("x", 5000), ("y", 5000)]),
        source("two", &[("x", 5000), ("y", 5000)]),
    ];
    let parent = built(None, &sources);
    let more = [
        source("one", &[("x", 5000), ("y", 5000), ("z", 1)]),
        source("two", &[("x", 5000), ("y", 5000)]),
    ];
    let next = built(Some(&parent), &more);
    assert!(next.all_extents().all(|extent| extent.is_ok()));
    assert!(matches!(
        build(SpaceId([9; 16]), Some(&parent), &sources, &BuildOptions::default()),
        Ok(Outcome::Unchanged)
    ));
}

#[test]
fn b6_long_keys_and_entity_tags_can_be_looked_up_again() {
    let mut objects: Vec<Listed> = (0..300u64)
        .map(|i| {
            listed(
                &format!("{}/{i}", blake3::hash(&i.to_le_bytes()).to_hex().repeat(3)),
                File {
                    bytes: 9,
                    modified_unix_nanos: 0,
                },
            )
        })
        .collect();
    for object in &mut objects {
        object.version = Version::ETag(blake3::hash(object.key.as_bytes()).to_hex().repeat(100) + "!");
    }
    let package = built(
        None,
        &[SourceListing {
            identity: IDENTITY.into(),
            path: String::new(),
            objects,
        }],
    );
    assert!(package.extents(BlockRange::new(0, 4096).unwrap()).is_ok());
    assert_eq!(
        package.all_extents().filter(Result::is_ok).count() as u64,
        package.summary().files
    );
}

#[test]
fn b7_the_order_of_a_listing_means_nothing() {
    let one = built(None, &[source("", &[("a//b", 1), ("a/%2F/b", 2)])]);
    let other = built(None, &[source("", &[("a/%2F/b", 2), ("a//b", 1)])]);
    assert_eq!(one.id(), other.id());
}

#[test]
fn b8_an_awkward_key_is_counted_once() {
    let package = built(None, &[source("", &[("a//b", 1), ("a/%2F/b", 2), ("a//b/c", 1)])]);
    // a//b and a//b/c are changed; a/%2F/b has the name by nature but must give way to the folder.
    assert_eq!(package.summary().awkward.count, 3);
}

#[test]
fn b9_an_image_of_a_very_long_key_passes_its_own_check() {
    let deep = "d/".repeat(3000) + "e";
    let package = built(None, &[source("", &[(&deep, 1)])]);
    assert!(image(&package).check().is_ok(), "{:?}", image(&package).check());
}

#[test]
fn b10_markers_of_the_root_and_of_a_nameless_folder() {
    let package = built(None, &[source("", &[("", 0), ("x", 1)])]);
    assert_eq!(package.summary().files, 1, "the marker of the prefix itself is no file");
    let package = built(None, &[source("", &[("/", 0), ("x", 1)])]);
    assert_eq!(
        (package.summary().directories, package.summary().awkward.count),
        (2, 1),
        "nothing is dropped silently"
    );
}

#[test]
fn b11_too_many_devices_are_refused_not_written_wrongly() {
    if let Ok(bytes) = writer::write(&[], &[DEVICE_BYTES; 20_000], &BuildOptions::default()) {
        assert!(Image::open(bytes.into()).unwrap().check().is_ok());
    }
}

#[test]
fn b12_a_source_cannot_stand_outside_of_the_tree() {
    for path in ["../x", "a/./b"] {
        if let Ok(Outcome::New(package)) = build(
            SpaceId([1; 16]),
            None,
            &[source(path, &[("a", 1)])],
            &BuildOptions::default(),
        ) {
            assert!(image(&package).check().is_ok(), "{path}");
        }
    }
}

#[test]
fn b13_a_look_up_in_a_wide_folder_does_not_read_it_whole() {
    let keys: Vec<String> = (0..100_000).map(|i| format!("{i:06}")).collect();
    let keys: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    let image = image(&built(None, &[source("", &keys)]));
    let started = Instant::now();
    for (key, _) in keys.iter().step_by(100) {
        assert!(image.lookup(key).unwrap().is_some());
    }
    assert!(
        started.elapsed().as_millis() < 500,
        "1000 look-ups took {:?}",
        started.elapsed()
    );
}

#[test]
fn b14_the_last_address_can_be_asked_for() {
    let package = built(None, &[source("", &[("a", 1)])]);
    if let Ok(range) = BlockRange::new(u64::MAX - 4095, 4096) {
        let _ = package.extents(range);
    }
}

#[test]
fn b15_a_key_that_is_listed_twice_is_one_file() {
    let package = built(None, &[source("", &[("a", 1), ("a", 2)])]);
    assert_eq!((package.summary().files, package.summary().awkward.count), (1, 1));
}

#[test]
fn b16_an_object_larger_than_a_device_is_held() {
    let package = built(None, &[source("", &[("huge", DEVICE_BYTES + 5)])]);
    assert_eq!(package.summary().files, 1);
}

#[test]
fn b17_many_files_whose_names_begin_alike_take_no_squared_time() {
    let keys: Vec<String> = (1..1500)
        .map(|length| "a".repeat(length % 250 + 1) + &"/b".repeat(length / 250))
        .collect();
    let keys: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    let started = Instant::now();
    let _ = built(None, &[source("", &keys)]);
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
}

#[test]
fn b18_a_parent_whose_extents_end_behind_its_space_is_refused() {
    let listed = |keys: &[(&str, u64)]| {
        let mut source = source("", keys);
        for object in &mut source.objects {
            object.version = Version::ETag(object.key.clone());
        }
        source
    };
    let parent = built(None, &[listed(&[("a", 4096), ("b", 4096)])]);
    for space_bytes in [0, 4096] {
        let hostile = with_facts(&parent, |facts| facts["summary"]["space_bytes"] = space_bytes.into());
        let hostile = Package::parse(hostile.into()).unwrap();
        // "c" would get the address of "b".
        let sources = [listed(&[("a", 4096), ("b", 4096), ("c", 4096)])];
        let outcome = build(SpaceId([3; 16]), Some(&hostile), &sources, &BuildOptions::default());
        assert!(
            matches!(outcome, Err(BuildError::Parent(_))),
            "{space_bytes}: {outcome:?}"
        );
    }
}

#[test]
fn b19_an_image_that_ends_with_an_inode_is_accepted() {
    // Longer names, in steps of a slot, until the last inode ends where a block does.
    for step in 0..128usize {
        let length = |file: usize| 10 + (step * 32).saturating_sub(file * 240).min(240);
        let keys: Vec<String> = (0..17)
            .map(|file| format!("{file:02}{}", "x".repeat(length(file) - 2)))
            .collect();
        let keys: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 0)).collect();
        tools::assert_accepted(&Mounted::new(&built(None, &[source("", &keys)])));
    }
}
