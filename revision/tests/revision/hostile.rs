//! Bytes that somebody damaged, by accident or on purpose, are refused or read; they never panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use penstock_protocol::checksum::crc32c;
use penstock_protocol::geometry::BlockRange;
use penstock_revision::Package;
use penstock_revision::erofs::reader::{Image, NodeId};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::model::{File, Model, model};

/// What is done to bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Word(Index, u64),
    Cut(Index),
    Copy(Index, Index, u8),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let word = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1 << 31),
        Just(u64::MAX / 2),
        any::<u64>(),
        0..100u64
    ];
    let damage = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (any::<Index>(), word).prop_map(|(at, word)| Damage::Word(at, word)),
        1 => any::<Index>().prop_map(Damage::Cut),
        2 => (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(from, to, count)| Damage::Copy(from, to, count)),
    ];
    prop::collection::vec(damage, 1..6)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match damage {
            Damage::Set(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Word(at, word) => {
                let at = at.index(length);
                let count = (length - at).min(8);
                bytes[at..at + count].copy_from_slice(&word.to_le_bytes()[..count]);
            }
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Copy(from, to, count) => {
                let (from, to) = (from.index(length), to.index(length));
                let count = usize::from(*count).min(length - from.max(to));
                bytes.copy_within(from..from + count, to);
            }
        }
    }
    bytes
}

/// Uses everything that a package offers.
fn use_package(bytes: Vec<u8>) {
    let Ok(package) = Package::parse(bytes.into()) else {
        return;
    };
    let _ = (
        package.id(),
        package.space(),
        package.parent(),
        package.summary(),
        package.sources(),
    );
    let devices = package.device_bytes();
    assert!(!devices.is_empty());
    for range in BlockRange::covering(0, 200 << 20).chain(BlockRange::new(1 << 50, 4096)) {
        if let Ok(extents) = package.extents(range) {
            assert!(extents.is_sorted_by_key(|extent| extent.address));
        }
    }
    for extent in package.all_extents().take(100_000).flatten() {
        assert!(extent.bytes > 0);
    }
    if let Ok(image) = package.image() {
        use_image(image.into());
    }
}

/// Uses everything that an image offers.
fn use_image(bytes: Bytes) {
    let slots = bytes.len() as u64 / 32;
    let Ok(image) = Image::open(bytes) else { return };
    let checked = image.check();
    let mut visited = 0;
    let walked = image.walk(|_, _, inode| {
        visited += 1;
        if let Some(address) = inode.address() {
            let end = address % (1 << 43) + inode.bytes;
            assert!(
                end <= image.devices()[(address >> 43) as usize],
                "every file lies in its device"
            );
        }
    });
    assert_eq!(checked, walked);
    if checked.is_ok() {
        assert_eq!(visited + 1, image.inode_count());
    }
    for node in (0..slots + 2).chain([u64::MAX, u64::MAX / 32, 1 << 59]) {
        let _ = image.inode(NodeId(node));
        let _ = image.entries(NodeId(node));
    }
    let _ = image.lookup("a/b/c");
}

/// What the kernel would understand and this reader would not walk, with a checksum that matches.
#[test]
fn an_image_with_a_field_that_we_do_not_write_is_refused() {
    let file = File {
        bytes: 5,
        modified_unix_nanos: 0,
    };
    let model = Model {
        files: [("a".to_owned(), file)].into(),
    };
    let image = model.package().image().unwrap();
    Image::open(image.clone().into()).unwrap().check().unwrap();
    // The superblock and the one slot of the device table; `uniaddr` of that is at 1152 + 68.
    let uuid = 1024 + 48..1024 + 64;
    for at in (1024 + 8..1152 + 128).filter(|at| !uuid.contains(at)) {
        let mut image = image.clone();
        image[at] ^= 0x40;
        let mut block = image[1024..4096].to_vec();
        block[4..8].fill(0);
        let checksum = !crc32c(&block);
        image[1028..1032].copy_from_slice(&checksum.to_le_bytes());
        let checked = Image::open(image.into()).and_then(|image| image.check());
        // More or fewer blocks of a device than the file has only make the kernel see an end.
        let is_length = (1152 + 64..1152 + 68).contains(&at);
        assert!(is_length || checked.is_err(), "byte {at} of the image");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_package_never_panics(model in model(), damages in damage()) {
        use_package(damaged(model.package().whole().unwrap().to_vec(), &damages));
    }

    #[test]
    fn a_damaged_header_never_panics(damages in damage()) {
        let file = File { bytes: 5, modified_unix_nanos: 0 };
        let model = Model { files: [("a".to_owned(), file), ("b/c".to_owned(), file)].into() };
        let bytes = model.package().whole().unwrap().to_vec();
        let (header, rest) = bytes.split_at(128 + 100);
        let header = damaged(header.to_vec(), &damages);
        use_package([&header, rest].concat());
    }

    #[test]
    fn a_damaged_image_never_panics(model in model(), damages in damage()) {
        let image = model.package().image().unwrap();
        // The first block has a checksum, which would refuse nearly everything: damage it apart from the rest.
        let (superblock, rest) = image.split_at(1024 + 128);
        use_image([superblock, &damaged(rest.to_vec(), &damages)].concat().into());
        use_image(damaged(image, &damages).into());
    }

    #[test]
    fn a_damaged_superblock_with_a_right_checksum_never_panics(damages in damage()) {
        let file = File { bytes: 5, modified_unix_nanos: 0 };
        let model = Model { files: [("a".to_owned(), file), ("b/c".to_owned(), file)].into() };
        let mut image = model.package().image().unwrap();
        let superblock = damaged(image[1028..1028 + 252].to_vec(), &damages);
        image[1028..1028 + superblock.len()].copy_from_slice(&superblock);
        seal(&mut image);
        use_image(image.into());
    }

    #[test]
    fn any_bytes_are_no_package_and_no_image(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(Package::parse(bytes.clone().into()).is_err());
        prop_assert!(Image::open(bytes.into()).is_err());
    }
}

/// Writes the checksum that fits the first block.
pub fn seal(image: &mut [u8]) {
    image[1028..1032].fill(0);
    let checksum = !crc32c(&image[1024..4096]);
    image[1028..1032].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn a_flipped_bit_anywhere_in_the_image_part_is_found() {
    let file = File {
        bytes: 5,
        modified_unix_nanos: 0,
    };
    let model = Model {
        files: (0..50).map(|i| (format!("{i}/x"), file)).collect(),
    };
    let package = model.package();
    let bytes = package.whole().unwrap().to_vec();
    // The image is the last part.
    for at in bytes.len() - 100..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let parsed = catch_unwind(AssertUnwindSafe(|| Package::parse(flipped.into()))).expect("no panic");
        if let Ok(parsed) = parsed {
            assert_ne!(parsed.id(), package.id());
            if let Ok(image) = parsed.image() {
                assert_eq!(image, package.image().unwrap(), "a bit that means nothing");
            }
        }
    }
}
