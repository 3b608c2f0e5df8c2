//! Disks that are full, lose what was not synced, or hold what is not ours.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use penstock_cache_node::memory::Budget;
use penstock_cache_node::report::Counters;
use penstock_cache_node::{Engine, EngineConfig, TierConfig, TryRead};
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side;
use penstock_revision::Scratch;
use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::alone::alone;
use crate::generated::{Generated, bytes};
use crate::scene::{Scene, content, read};

const MIB: u64 = 1 << 20;
const CAPACITY: u64 = 1 << 40;

/// A file system in memory with a bound, unmounted at the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        mount(
            "tmpfs",
            folder.path(),
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            options.as_c_str(),
        )
        .unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn stripe(scene: &Scene, ending: &str) -> std::path::PathBuf {
    scene
        .folder
        .path()
        .join(format!("v1/{}/0.{ending}", scene.package.space()))
}

/// Pages of a file that the kernel has in memory. A read with RWF_NOWAIT would bring some (Linux 6.12).
fn pages_in_memory(file: &Path) -> u64 {
    let counted = std::process::Command::new("fincore")
        .args(["--noheadings", "--raw", "--output", "PAGES"])
        .arg(file)
        .output()
        .unwrap();
    String::from_utf8(counted.stdout).unwrap().trim().parse().unwrap()
}

/// What the engine says of its tier makes sense.
fn assert_sound(engine: &Engine) {
    let tier = &engine.report().tiers[0];
    assert!(tier.used_bytes <= tier.capacity_bytes, "{tier:?}");
    assert_eq!(tier.fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_a_power_cut_lost_is_fetched_anew_and_the_tier_goes_on() {
    let scene = Scene::with(&[("a", 400_000), ("b", 5000)]).await;
    for key in ["a", "b"] {
        scene.read(key).await.unwrap();
    }
    // The side file reached the disk, the data did not.
    fs::write(stripe(&scene, "data"), b"").unwrap();
    let restarted = scene.restarted();
    for _ in 0..2 {
        assert!(scene.read_with(&restarted, "b").await.unwrap() == content(1, 5000));
        assert!(scene.read_with(&restarted, "a").await.unwrap() == content(0, 400_000));
    }
    assert_sound(&restarted);
    let before = scene.origin.asked_bytes();
    scene.read_with(&restarted, "a").await.unwrap();
    assert_eq!(scene.origin.asked_bytes(), before, "the tier no longer keeps anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_though_nobody_reads_and_the_kernel_keeps_nothing_of_the_search() {
    let scene = Scene::with(&[("a", 3_000_000), ("b", 5000)]).await;
    for key in ["a", "b"] {
        scene.read(key).await.unwrap();
    }
    let data = fs::OpenOptions::new().write(true).open(stripe(&scene, "data")).unwrap();
    let at = scene.extent("a").address + 2 * MIB + 17;
    data.write_all_at(b"damage", at).unwrap();
    data.sync_all().unwrap();
    fadvise(&data, 0, None, Advice::DontNeed).unwrap();
    let restarted = scene.restarted();
    let counters = restarted.counters();
    let all = 3_000_000_u64.next_multiple_of(4096) + 8192;
    let begun = Instant::now();
    while Counters::get(&counters.scrubbed_bytes) < all {
        assert!(begun.elapsed().as_secs() < 20, "{counters:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(Counters::get(&counters.damaged_blocks), 1);
    let held: u64 = restarted.report().spaces.iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(held, 2 * MIB + 8192, "the damaged cell is gone");
    // A page at the end of what was read ahead may be left.
    let in_memory = pages_in_memory(&stripe(&scene, "data"));
    assert!(in_memory < 64, "{in_memory} pages");
    assert!(scene.read_with(&restarted, "a").await.unwrap() == content(0, 3_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_origin_no_more_than_is_read_and_heals() {
    let (disk, origin) = (SmallDisk::new(8 * MIB), Generated::one(40 * MIB));
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![1; 7 * MIB as usize]).unwrap();
    let package = origin.package().await;
    let engine = origin.engine(&package, disk.path(), CAPACITY);
    for at in (0..40 * MIB).step_by(MIB as usize) {
        let got = read(&engine, &package, BlockRange::new(at, MIB).unwrap())
            .await
            .unwrap();
        assert!(got == bytes(at..at + MIB), "at {at}");
    }
    let fault = engine.report().tiers[0].fault.clone().unwrap();
    assert!(fault.contains("full"), "{fault}");
    assert!(
        origin.asked_bytes() <= 44 * MIB,
        "{} MiB for 40 MiB that were read once",
        origin.asked_bytes() / MIB
    );
    fs::remove_file(filler).unwrap();
    let range = BlockRange::new(39 * MIB, MIB).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while engine.report().tiers[0].fault.is_some() {
        assert!(std::time::Instant::now() < deadline, "{:?}", engine.report().tiers);
        read(&engine, &package, range).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_never_gives_back_what_it_took_is_no_read_error() {
    let scene = Scene::with(&[("a", 400_000)]).await;
    scene.read("a").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let damaging = std::thread::spawn({
        let (stop, data) = (
            stop.clone(),
            fs::OpenOptions::new().write(true).open(stripe(&scene, "data")).unwrap(),
        );
        move || {
            let damage = vec![0x5A; 400_000];
            while !stop.load(Ordering::Relaxed) {
                data.write_all_at(&damage, 0).unwrap();
            }
        }
    });
    let mut outcomes = Vec::new();
    for _ in 0..300 {
        outcomes.push(scene.read("a").await);
    }
    stop.store(true, Ordering::Relaxed);
    damaging.join().unwrap();
    for outcome in outcomes {
        assert!(outcome.unwrap() == content(0, 400_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_in_the_folder_does_not_keep_the_engine_from_starting() {
    let scene = Scene::with(&[("a", 5000)]).await;
    let v1 = scene.folder.path().join("v1");
    fs::write(v1.join("lost+found"), b"?").unwrap();
    fs::create_dir_all(v1.join(SpaceId([7; 16]).to_string()).join("0.data")).unwrap();
    fs::write(
        v1.join(SpaceId([8; 16]).to_string()),
        b"a file with the name of a space",
    )
    .unwrap();
    let tier = TierConfig {
        name: "ssd".into(),
        path: scene.folder.path().into(),
        capacity_bytes: Some(CAPACITY),
    };
    assert!(
        Engine::open(EngineConfig {
            tiers: vec![tier],
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })
        .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_is_under_way_does_not_bring_a_removed_space_back() {
    let (origin, folder) = (Generated::one(100_000), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), CAPACITY);
    origin.allow(0);
    let reader = tokio::spawn({
        let (engine, package) = (engine.clone(), package.clone());
        async move { read(&engine, &package, BlockRange::new(0, 4096).unwrap()).await }
    });
    while origin.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    engine.set_datasets(&[], false);
    origin.allow(u64::MAX);
    // Whether the reader still gets its bytes is not the question.
    let _ = reader.await.unwrap();
    assert_eq!(engine.report().spaces, [], "a space that nobody uses holds room");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_stripes_than_files_may_be_open_are_read_and_kept() {
    if !alone("disk::more_stripes_than_files_may_be_open_are_read_and_kept", 1024) {
        return;
    }
    let (origin, folder) = (Generated::one(600 * STRIPE_BYTES), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), CAPACITY);
    for round in 0..2 {
        for number in 0..600 {
            let at = number * STRIPE_BYTES + 8192;
            let got = read(&engine, &package, BlockRange::new(at, 4096).unwrap())
                .await
                .unwrap();
            assert!(got == bytes(at..at + 4096), "stripe {number} in round {round}");
        }
    }
    assert_sound(&engine);
    assert_eq!(origin.asked().len(), 600, "stripes were not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_no_longer_has_in_memory_is_not_waited_for_unless_asked_to() {
    let scene = Scene::with(&[("a", 400_000)]).await;
    scene.read("a").await.unwrap();
    let range = BlockRange::covering(scene.extent("a").address, 400_000).next().unwrap();
    let mut into = vec![0; range.bytes() as usize];
    let mut now = |engine: &Engine| engine.try_read_now(&scene.package.id(), range, &mut into, None);
    assert_eq!(now(&scene.engine), Some(TryRead::Hit));

    let data = fs::File::open(stripe(&scene, "data")).unwrap();
    data.sync_all().unwrap();
    fadvise(&data, 0, None, Advice::DontNeed).unwrap();
    assert_eq!(now(&scene.engine), None);
    scene.read("a").await.unwrap();
    assert_eq!(now(&scene.engine), Some(TryRead::Hit), "it was read by one who waits");

    // Its stripe is not open yet, unless a thread of the tier is just looking at it.
    let restarted = scene.restarted();
    assert_ne!(now(&restarted), Some(TryRead::Miss));
    // Two threads of the tier look at what is there when it begins, and each closes the stripe once.
    let mut reads = 0;
    while now(&restarted) != Some(TryRead::Hit) {
        scene.read_with(&restarted, "a").await.unwrap();
        reads += 1;
        assert!(reads <= 3, "it was read by one who waits");
    }
    assert_eq!(scene.origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tebibyte_of_stripes_is_adopted_within_two_seconds_and_read_meanwhile() {
    const STRIPES: u64 = 1 << 14;
    let (origin, folder) = (
        Generated::one(STRIPES * STRIPE_BYTES),
        tempfile::tempdir_in("/var/tmp").unwrap(),
    );
    let package = origin.package().await;
    let space = folder.path().join(format!("v1/{}", package.space()));
    fs::create_dir_all(&space).unwrap();
    for stripe in 0..STRIPES {
        // Sparse, and one block of each is said to be there.
        let data = fs::File::create(space.join(format!("{stripe}.data"))).unwrap();
        data.set_len(STRIPE_BYTES).unwrap();
        let side = fs::File::create(space.join(format!("{stripe}.side"))).unwrap();
        side.set_len(side::FILE_BYTES).unwrap();
        side.write_all_at(&side::header(&package.space(), stripe), 0).unwrap();
        side.write_all_at(&[1], side::PRESENCE_AT).unwrap();
    }
    let begun = Instant::now();
    let engine = origin.engine(&package, folder.path(), 1 << 40);
    let last = BlockRange::new((STRIPES - 1) * STRIPE_BYTES + MIB, MIB).unwrap();
    let got = read(&engine, &package, last).await.unwrap();
    let took = begun.elapsed();
    assert!(got == bytes(last.address()..last.end()));
    assert!(took.as_secs() < 2, "{took:?}");
    // Its one block is no more than said to be there.
    let lie = BlockRange::new(0, 4096).unwrap();
    assert!(read(&engine, &package, lie).await.unwrap() == bytes(0..4096));
}
