//! What the next revision keeps, and what decides that there is none.

use std::collections::HashMap;

use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_revision::build::DEAD_BYTES_MIN;
use penstock_revision::{BuildOptions, Outcome, Package, SourceListing, Unversioned, Version, build};
use proptest::prelude::*;

use crate::model::{File, built, listed, model};

const DAY_NANOS: i64 = 86_400_000_000_000;

fn source(identity: &str, path: &str, keys: &[(&str, u64)]) -> SourceListing {
    let file = |bytes| File {
        bytes,
        modified_unix_nanos: DAY_NANOS,
    };
    SourceListing {
        identity: identity.into(),
        path: path.into(),
        objects: keys.iter().map(|(key, bytes)| listed(key, file(*bytes))).collect(),
    }
}

fn is_unchanged(parent: &Package, sources: &[SourceListing]) -> bool {
    let outcome = build(SpaceId([9; 16]), Some(parent), sources, &BuildOptions::default()).unwrap();
    matches!(outcome, Outcome::Unchanged)
}

/// (identity of the source, key) to address.
fn addresses(package: &Package) -> HashMap<(String, String), u64> {
    let named = |extent: penstock_revision::Extent| {
        let identity = package.sources()[usize::from(extent.object.source)].clone();
        ((identity, extent.object.key), extent.address)
    };
    package.all_extents().map(|extent| named(extent.unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_same_input_gives_the_same_bytes_in_any_order(model in model()) {
        let mut listing = model.listing();
        let package = built(None, std::slice::from_ref(&listing));
        prop_assert!(is_unchanged(&package, std::slice::from_ref(&listing)));
        listing.objects.reverse();
        let again = built(None, &[listing]);
        let whole = package.whole().unwrap();
        prop_assert_eq!(&whole, &again.whole().unwrap());
        prop_assert_eq!(package.id(), again.id());
        prop_assert_eq!(package.id().0, *blake3::hash(&whole).as_bytes());
        let parsed = Package::parse(whole).unwrap();
        prop_assert_eq!(parsed.id(), package.id());
        prop_assert_eq!(parsed.summary(), package.summary());
        prop_assert!(parsed.all_extents().eq(package.all_extents()));
    }

    #[test]
    fn what_stays_keeps_its_address_and_no_address_ever_means_two_objects(
        model in model(), fates in prop::collection::vec(0..5, 1..50), added in 0..20u64,
    ) {
        let mut sources = [model.listing()];
        let first = built(None, &sources);
        let before = addresses(&first);
        let mut changed = Vec::new();
        let mut number = 0;
        sources[0].objects.retain_mut(|object| {
            number += 1;
            match fates[number % fates.len()] {
                0 => return false,
                1 => {
                    object.version = Version::ETag("changed".into());
                    object.modified_unix_nanos = DAY_NANOS;
                    changed.push(object.key.clone());
                }
                // Touched, but still the same version: its time moves, its bytes do not.
                2 => object.modified_unix_nanos = 2 * DAY_NANOS,
                _ => {}
            }
            true
        });
        sources[0].objects.extend((0..added + 1).map(|i| {
            listed(&format!("added~{i}/x"), File { bytes: 1 + i * 70_000, modified_unix_nanos: 3 * DAY_NANOS })
        }));
        let second = built(Some(&first), &sources);
        if second.space() != first.space() {
            // Too much was dead: nothing is kept, and nothing refers to the space before.
            prop_assert_eq!(second.parent(), None);
            return Ok(());
        }
        prop_assert_eq!(second.parent(), Some(first.id()));
        for (key, address) in addresses(&second) {
            let is_new = changed.contains(&key.1) || key.1.starts_with("added~");
            if is_new {
                prop_assert!(address >= first.summary().space_bytes, "{:?} lies behind the parent's end", key);
            } else {
                prop_assert_eq!(Some(&address), before.get(&key), "{:?} stays where it was", key);
            }
        }
        let live: u64 = second.all_extents().map(|extent| extent.unwrap().bytes.next_multiple_of(4096)).sum();
        prop_assert_eq!(second.summary().dead_bytes, second.summary().space_bytes - live);
    }

    #[test]
    fn a_range_gives_the_extents_that_it_touches(
        model in model(), starts in prop::collection::vec((any::<prop::sample::Index>(), 1..16_384u64), 1..20),
    ) {
        let package = model.package();
        let all: Vec<_> = package.all_extents().map(Result::unwrap).collect();
        let stripes = package.summary().space_bytes.div_ceil(64 << 20).max(1);
        for (start, blocks) in starts {
            let near = if all.is_empty() { 0 } else { all[start.index(all.len())].address };
            let address = near.saturating_sub(blocks % 7 * 4096).min((stripes - 1) * (64 << 20));
            for range in BlockRange::covering(address, blocks * 4096) {
                let touched = |extent: &&penstock_revision::Extent| {
                    extent.address < range.end() && extent.address + extent.bytes > range.address()
                };
                let expected: Vec<_> = all.iter().filter(touched).cloned().collect();
                prop_assert_eq!(package.extents(range).unwrap(), expected, "{:?}", range);
            }
        }
    }
}

#[test]
fn sources_may_change_their_order_and_their_path() {
    let parent = built(
        None,
        &[source("s3://a/", "a", &[("x", 5)]), source("s3://b/", "b", &[("x", 5)])],
    );
    let swapped = [
        source("s3://b/", "b", &[("x", 5)]),
        source("s3://a/", "elsewhere", &[("x", 5)]),
    ];
    let next = built(Some(&parent), &swapped);
    assert_eq!(addresses(&next), addresses(&parent));
    assert_eq!(next.summary().space_bytes, parent.summary().space_bytes);
    let other = built(Some(&parent), &[source("s3://c/", "a", &[("x", 5)])]);
    assert!(
        other
            .all_extents()
            .all(|extent| extent.unwrap().address >= parent.summary().space_bytes)
    );
}

#[test]
fn an_object_without_a_version_gets_a_new_address() {
    let mut listing = [source("s3://a/", "", &[("x", 5)])];
    listing[0].objects[0].version = Version::None;
    let parent = built(None, &listing);
    let next = built(Some(&parent), &listing);
    assert_eq!(next.all_extents().next().unwrap().unwrap().address, 4096);
}

#[test]
fn objects_of_which_nothing_shows_that_they_change_stay_where_they_are_and_are_counted() {
    let mut listing = [
        source("http://a/", "a", &[("x", 5), ("y/z", 5), ("empty", 0)]),
        source("http://b/", "b", &[("x", 5)]),
        source("http://c/", "c", &[("x", 5)]),
    ];
    for (object, id) in listing.iter_mut().take(2).flat_map(|source| &mut source.objects).zip([
        "unversioned",
        "unversioned md5:900150983cd24fb0d6963f7d28e17f72",
        "unversioned",
        "unversioned",
    ]) {
        object.version = Version::Id(id.to_owned());
    }
    let parent = built(None, &listing);
    let counted = |source: &str, files, example: &str| Unversioned {
        source: source.to_owned(),
        files,
        example: example.to_owned(),
    };
    let expected = vec![counted("http://a/", 2, "x"), counted("http://b/", 1, "x")];
    assert_eq!(parent.summary().unversioned, expected);
    assert!(is_unchanged(&parent, &listing));
    // Another length is another object.
    listing[0].objects[0].bytes = 6;
    let next = built(Some(&parent), &listing);
    assert_eq!(next.summary().space_bytes, parent.summary().space_bytes + 4096);
    // As packages were before.
    let none = built(None, &listing[2..]);
    assert!(none.summary().unversioned.is_empty());
    assert!(!serde_json::to_string(none.summary()).unwrap().contains("unversioned"));
}

#[test]
fn a_space_that_is_mostly_dead_is_left() {
    let half = DEAD_BYTES_MIN;
    let parent = built(
        None,
        &[source(
            "s3://a/",
            "",
            &[("gone", half + 4096), ("stays", half / 2), ("tiny", 1)],
        )],
    );
    let only_half = built(
        Some(&parent),
        &[source(
            "s3://a/",
            "",
            &[("stays", half / 2), ("tiny", 1), ("new", half)],
        )],
    );
    assert_eq!(only_half.space(), parent.space(), "half of it lives");
    assert_eq!(only_half.parent(), Some(parent.id()));
    let next = built(
        Some(&parent),
        &[source("s3://a/", "", &[("stays", half / 2), ("tiny", 1)])],
    );
    assert_ne!(next.space(), parent.space());
    assert_eq!((next.parent(), next.summary().dead_bytes), (None, 0));
}

#[test]
fn small_waste_is_no_reason_to_leave_a_space() {
    let parent = built(None, &[source("s3://a/", "", &[("gone", 100 << 20), ("stays", 1)])]);
    let next = built(Some(&parent), &[source("s3://a/", "", &[("stays", 1)])]);
    assert_eq!((next.space(), next.summary().dead_bytes), (parent.space(), 100 << 20));
}
