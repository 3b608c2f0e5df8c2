//! The sizes at which formats break: many entries, long files, a space of several devices, deep paths.

use penstock_protocol::geometry::{DEVICE_BYTES, PAGE_BYTES, STRIPE_BYTES};
use penstock_revision::SourceListing;

use crate::kernel::{assert_can_be_resumed, assert_kernel_shows, assert_reader_shows};
use crate::model::{File, IDENTITY, Model, built, listed};
use crate::mounted::Mounted;
use crate::tools;

fn model(files: impl IntoIterator<Item = (String, u64)>) -> Model {
    let file = |(number, (path, bytes)): (usize, (String, u64))| {
        let modified_unix_nanos = 1_700_000_000_123_456_789 + number as i64 * 1_000_000_007;
        (
            path,
            File {
                bytes,
                modified_unix_nanos,
            },
        )
    };
    Model {
        files: files.into_iter().enumerate().map(file).collect(),
    }
}

fn assert_shown(model: &Model) -> Mounted {
    let package = model.package();
    let mounted = Mounted::new(&package);
    assert_kernel_shows(&mounted, &package, model);
    assert_reader_shows(&package, model);
    tools::assert_accepted(&mounted);
    mounted
}

#[test]
fn a_directory_of_100_000_entries_is_whole_in_order_and_can_be_resumed() {
    let mounted = assert_shown(&model(
        (0..100_000).map(|i| (format!("wide/file-{i:06}-{}", "x".repeat(i % 60)), i as u64 % 3)),
    ));
    assert_can_be_resumed(&mounted.root().join("wide"));
}

#[test]
fn directories_of_every_length_around_a_block_are_whole_and_can_be_resumed() {
    // `.` and `..` take 27 bytes, each entry 12 and its name.
    let files = (3900..4110).flat_map(|bytes| {
        let rest = bytes - 27;
        let names = (rest / 200 - 1, 188, rest % 200 + 188);
        let full = (0..names.0).map(move |i| format!("{i:0width$}", width = names.1));
        // Names have at most 255 bytes: what is longer becomes two entries of the same length together.
        let last = match names.2 {
            bytes @ ..256 => vec!["z".repeat(bytes)],
            bytes => vec!["y".repeat(150), "z".repeat(bytes - 12 - 150)],
        };
        full.chain(last).map(move |name| (format!("{bytes}/{name}"), 1))
    });
    let model = model(files);
    let mounted = assert_shown(&model);
    for folder in model.folders().keys().filter(|folder| !folder.is_empty()).step_by(20) {
        assert_can_be_resumed(&mounted.root().join(folder));
    }
}

#[test]
fn a_space_over_16_tib_spans_devices_and_every_file_is_found() {
    let mut files: Vec<(String, u64)> = (0..7).map(|i| (format!("big-{i}"), 3 << 40 | i)).collect();
    files.extend((0..200).map(|i| (format!("small/{i:03}"), i * 9973)));
    files.push(("a whole device".into(), DEVICE_BYTES));
    files.push(("more than a device".into(), DEVICE_BYTES + 5));
    files.push(("over 4 GiB".into(), (4 << 30) + 1));
    let model = model(files);
    let package = model.package();
    assert!(package.device_bytes().len() >= 4, "{:?}", package.device_bytes());
    assert_eq!(
        package.device_bytes().iter().sum::<u64>(),
        package.summary().space_bytes
    );
    for extent in package.all_extents().map(Result::unwrap) {
        let last = extent.address + extent.bytes - 1;
        if extent.bytes <= DEVICE_BYTES {
            assert_eq!(
                extent.address / DEVICE_BYTES,
                last / DEVICE_BYTES,
                "{extent:?} lies in one device"
            );
        } else {
            assert_eq!(extent.address % DEVICE_BYTES, 0, "{extent:?} begins with a device");
        }
        if extent.bytes <= PAGE_BYTES {
            assert_eq!(
                extent.address / STRIPE_BYTES,
                last / STRIPE_BYTES,
                "{extent:?} lies in one stripe"
            );
        }
    }
    assert_shown(&model);
}

#[test]
fn the_deepest_path_that_a_key_of_s3_can_have_is_reached() {
    let deep = "d/".repeat(511) + "e";
    assert_shown(&model([(deep, 7), ("d/d/x".into(), 0)]));
}

#[test]
fn a_dataset_without_objects_is_an_empty_directory() {
    let source = SourceListing {
        identity: IDENTITY.into(),
        path: String::new(),
        objects: Vec::new(),
    };
    let package = built(None, &[source]);
    assert_eq!(package.device_bytes(), [4096]);
    let mounted = Mounted::new(&package);
    assert_kernel_shows(&mounted, &package, &Model::default());
    tools::assert_accepted(&mounted);
}

#[test]
fn awkward_keys_are_all_reachable_through_the_kernel() {
    let long = "x".repeat(1000);
    let keys = [
        "a", "a/b", "a//b", "/a", "n\0l", "c/", "d//", &long, "a~object", "%2F/a",
    ];
    let objects: Vec<_> = (1..)
        .zip(keys)
        .map(|(bytes, key)| {
            listed(
                key,
                File {
                    bytes,
                    modified_unix_nanos: 5,
                },
            )
        })
        .collect();
    let source = SourceListing {
        identity: IDENTITY.into(),
        path: "at/a path".into(),
        objects,
    };
    let package = built(None, &[source]);
    let mounted = Mounted::new(&package);
    tools::assert_accepted(&mounted);
    let image = package.image().unwrap();
    let image = penstock_revision::erofs::reader::Image::open(image.into()).unwrap();
    let mut lengths = Vec::new();
    image
        .walk(|path, _, inode| {
            let stat = std::fs::symlink_metadata(mounted.root().join(path)).unwrap();
            assert_eq!(stat.is_dir(), inode.is_directory(), "{path:?}");
            if stat.is_file() {
                assert!(path.starts_with("at/a path/"), "{path:?}");
                lengths.push(stat.len());
            }
        })
        .unwrap();
    lengths.sort_unstable();
    assert!(
        lengths.into_iter().eq(1..=keys.len() as u64),
        "each object is there once"
    );
    assert_eq!(package.summary().files, keys.len() as u64);
}
