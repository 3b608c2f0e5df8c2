//! What a read leaves behind in the process: nothing but what is bounded.

use std::fs;
use std::time::{Duration, Instant};

use penstock_protocol::geometry::BlockRange;

use crate::alone::alone;
use crate::generated::Generated;
use crate::scene::{Scene, content, read};

const MIB: u64 = 1 << 20;

fn open_below(folder: &std::path::Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    targets.filter(|target| target.starts_with(folder)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_engine_closes_its_files() {
    let Scene {
        origin,
        engine,
        package,
        folder,
        tiers: _,
        rules: _,
    } = Scene::with(&[("a", 50_000)]).await;
    let range = BlockRange::covering(0, 50_000).next().unwrap();
    assert_eq!(
        read(&engine, &package, range).await.unwrap()[..50_000],
        content(0, 50_000)
    );
    assert!(open_below(folder.path()) > 0);
    drop((engine, origin));
    let deadline = Instant::now() + Duration::from_secs(5);
    while open_below(folder.path()) > 0 {
        assert!(Instant::now() < deadline, "something still holds the engine");
        tokio::task::yield_now().await;
    }
}

fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_passed_through_do_not_stay_in_memory() {
    if !alone("leaks::bytes_that_are_passed_through_do_not_stay_in_memory", 1024) {
        return;
    }
    let (origin, folder) = (Generated::one(32 * MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 0);
    let whole = BlockRange::new(0, 32 * MIB).unwrap();
    read(&engine, &package, whole).await.unwrap();
    let before = resident_mib();
    for _ in 0..16 {
        read(&engine, &package, whole).await.unwrap();
    }
    let grown = resident_mib().saturating_sub(before);
    assert!(
        grown < 128,
        "512 MiB were passed through and {grown} MiB of them stayed"
    );
}
