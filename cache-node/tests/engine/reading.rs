//! How much the origin is asked for, and when readers get it.

use std::time::Duration;

use penstock_cache_node::{Engine, TryRead};
use penstock_protocol::geometry::BlockRange;
use penstock_revision::Package;

use crate::generated::{Generated, bytes};
use crate::scene::read;

const MIB: u64 = 1 << 20;
const CAPACITY: u64 = 1 << 40;

/// Reads as the mounter does: looks first. True when it had to wait.
async fn look_then_read(engine: &Engine, package: &Package, range: BlockRange) -> bool {
    let mut into = vec![0; range.bytes() as usize];
    let waited = engine.try_read(&package.id(), range, &mut into, None) == TryRead::Miss;
    if waited {
        engine.read(&package.id(), range, &mut into, None).await.unwrap();
    }
    assert!(into == bytes(range.address()..range.end()));
    waited
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_that_looks_first_gets_growing_windows() {
    let (origin, folder) = (Generated::one(256 * MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), CAPACITY);
    // The read-ahead of a kernel that nobody tuned.
    for at in (0..256 * MIB).step_by(128 << 10) {
        look_then_read(&engine, &package, BlockRange::new(at, 128 << 10).unwrap()).await;
    }
    assert_eq!(origin.asked_bytes(), 256 * MIB);
    let asked = origin.asked();
    let small = asked.iter().filter(|range| range.end - range.start < MIB).count();
    assert!(
        small == 0,
        "{small} of {} requests were below 1 MiB: {asked:?}",
        asked.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_window_is_asked_for_before_a_sequential_reader_has_to_wait_for_it() {
    let (origin, folder) = (Generated::one(256 * MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), CAPACITY);
    let mut stalls = 0;
    for at in (0..256 * MIB).step_by(MIB as usize) {
        let on_its_way = origin.asked().iter().any(|range| range.contains(&at));
        let waited = look_then_read(&engine, &package, BlockRange::new(at, MIB).unwrap()).await;
        stalls += u32::from(waited && !on_its_way);
    }
    // The first windows may be used up before the next is due.
    assert!(
        stalls <= 4,
        "{stalls} times a reader came to bytes that nobody had asked for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sequential_readers_of_one_object_do_not_take_each_others_windows() {
    let (origin, folder) = (Generated::one(256 * MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), CAPACITY);
    for at in (0..96 * MIB).step_by(MIB as usize) {
        for first in [0, 128 * MIB] {
            read(&engine, &package, BlockRange::new(first + at, MIB).unwrap())
                .await
                .unwrap();
        }
    }
    let requests = origin.asked().len();
    assert!(requests <= 60, "{requests} requests for two sequential reads of 96 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tier_costs_the_origin_no_more_than_is_read() {
    let (origin, folder) = (Generated::one(MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 0);
    for at in (0..MIB).step_by(128 << 10) {
        read(&engine, &package, BlockRange::new(at, 128 << 10).unwrap())
            .await
            .unwrap();
    }
    assert_eq!(
        origin.asked_bytes() / 1024,
        1024,
        "KiB for 1 MiB that was read once in eight pieces"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_its_bytes_while_the_rest_of_the_object_is_on_its_way() {
    let (origin, folder) = (Generated::one(MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), CAPACITY);
    origin.allow(512 << 10);
    let reading = read(&engine, &package, BlockRange::new(0, 128 << 10).unwrap());
    let got = tokio::time::timeout(Duration::from_secs(5), reading).await;
    origin.allow(u64::MAX);
    assert!(got.expect("512 KiB had arrived").unwrap() == bytes(0..128 << 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_never_holds_more_than_its_capacity() {
    // Which stores happen at the same time is the scheduler's choice: several rounds.
    for _ in 0..8 {
        let objects = (0..64).map(|number| (format!("o{number:02}"), MIB));
        let (origin, folder) = (Generated::new("generated://", objects), tempfile::tempdir().unwrap());
        let package = origin.package().await;
        let engine = origin.engine(&package, folder.path(), 4 * MIB);
        origin.allow(MIB - (64 << 10));
        let reader = tokio::spawn({
            let (engine, package) = (engine.clone(), package.clone());
            async move { read(&engine, &package, BlockRange::new(0, 64 * MIB).unwrap()).await }
        });
        while origin.asked().len() < 64 {
            tokio::task::yield_now().await;
        }
        origin.allow(u64::MAX);
        reader.await.unwrap().unwrap();
        let used = engine.report().tiers[0].used_bytes;
        assert!(used <= 4 * MIB, "{used} bytes in a tier of {}", 4 * MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_stuck_does_not_keep_others_from_being_read() {
    let objects = (0..80).map(|number| (format!("o{number:02}"), MIB));
    let (stuck, well) = (
        Generated::new("generated://", objects),
        Generated::new("well://", [("object".to_owned(), 5000)]),
    );
    let package = Generated::package_of(&[&stuck, &well]).await;
    let folder = tempfile::tempdir().unwrap();
    let engine = Generated::engine_of(&[&stuck, &well], &package, folder.path(), CAPACITY);
    let extent = package
        .all_extents()
        .map(Result::unwrap)
        .find(|extent| extent.bytes == 5000)
        .unwrap();
    stuck.allow(0);
    let others: Vec<_> = package
        .all_extents()
        .map(Result::unwrap)
        .filter(|extent| extent.bytes == MIB)
        .map(|extent| {
            let (engine, package) = (engine.clone(), package.clone());
            tokio::spawn(async move { read(&engine, &package, BlockRange::new(extent.address, 4096).unwrap()).await })
        })
        .collect();
    while stuck.asked().len() < 32 {
        tokio::task::yield_now().await;
    }
    let got = read(&engine, &package, BlockRange::new(extent.address, 8192).unwrap());
    let got = tokio::time::timeout(Duration::from_secs(5), got).await;
    stuck.allow(u64::MAX);
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert!(got.expect("the other source had nothing to wait for").unwrap()[..5000] == bytes(0..5000));
}
