//! What a tier smaller than its Datasets keeps of them, by the bytes that the origin is asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use penstock_cache_node::Engine;
use penstock_cache_node::report::Counters;
use penstock_protocol::geometry::BlockRange;
use penstock_revision::{Extent, Package};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use crate::generated::{Generated, bytes};
use crate::scene::{Scene, content};

const MIB: u64 = 1 << 20;

/// Objects in a tier, read through the engine.
struct Epochs {
    origin: Generated,
    package: Package,
    engine: Engine,
    extents: Vec<Extent>,
    folder: tempfile::TempDir,
}

impl Epochs {
    async fn new(objects: u64, object_bytes: u64, capacity_bytes: u64) -> Self {
        let named = (0..objects).map(|number| (format!("object-{number:05}"), object_bytes));
        let origin = Generated::new("generated://", named);
        let package = origin.package().await;
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let engine = origin.engine(&package, folder.path(), capacity_bytes);
        let extents = package.all_extents().map(Result::unwrap).collect();
        Self {
            origin,
            package,
            engine,
            extents,
            folder,
        }
    }

    /// Reads objects whole, as the kernel asks: up to 1 MiB at once.
    async fn read(&self, objects: &[usize]) {
        for object in objects {
            let extent = &self.extents[*object];
            for range in BlockRange::covering(extent.address, extent.bytes) {
                for at in (range.address()..range.end()).step_by(MIB as usize) {
                    let piece = BlockRange::new(at, MIB.min(range.end() - at)).unwrap();
                    let mut into = vec![0; piece.bytes() as usize];
                    self.engine
                        .read(&self.package.id(), piece, &mut into, None)
                        .await
                        .unwrap();
                    let start = at - extent.address;
                    let end = (start + piece.bytes()).min(extent.bytes);
                    assert!(into[..(end - start) as usize] == bytes(start..end), "wrong bytes");
                }
            }
        }
    }

    /// Reads everything once, with so many readers who share the objects; returns the part that the origin did not send.
    async fn epoch(self: &Arc<Self>, order: &[usize], readers: usize) -> f64 {
        let before = Counters::get(&self.engine.counters().origin_bytes);
        let parts: Vec<Vec<usize>> = (0..readers)
            .map(|reader| order.iter().copied().skip(reader).step_by(readers).collect())
            .collect();
        let reading = parts.into_iter().map(|part| {
            let epochs = self.clone();
            tokio::spawn(async move { epochs.read(&part).await })
        });
        for reader in reading.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
        let sent = Counters::get(&self.engine.counters().origin_bytes) - before;
        1.0 - sent as f64 / self.bytes() as f64
    }

    /// Waits until a part of the tier is free, as it should be, and the disk has no more than what is in it.
    async fn settles(&self, capacity: u64) {
        let begun = Instant::now();
        loop {
            let tier = &self.engine.report().tiers[0];
            assert!(tier.fault.is_none(), "{tier:?}");
            let on_disk = disk_bytes(&self.folder.path().join("v1"));
            let is_settled = tier.used_bytes <= capacity - capacity / 128 && on_disk <= tier.used_bytes + MIB;
            if is_settled {
                return;
            }
            assert!(begun.elapsed().as_secs() < 20, "{tier:?}, {on_disk} bytes on the disk");
            tokio::task::yield_now().await;
        }
    }

    fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }
}

/// What the files below a folder take up.
fn disk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // It has just been removed.
        Err(_) => 0,
    });
    bytes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_third_epoch_on_a_tier_gives_what_it_can_hold_whatever_the_order() {
    let capacity = 128 * MIB;
    for (objects, object_bytes, readers, shuffled) in [
        (2000, 110_000, 1, true),
        (2000, 110_000, 8, true),
        (2000, 110_000, 1, false),
        (24, 10 * MIB, 1, false),
        (24, 10 * MIB, 4, true),
    ] {
        let epochs = Arc::new(Epochs::new(objects, object_bytes, capacity).await);
        let mut random = StdRng::seed_from_u64(7);
        let mut order: Vec<usize> = (0..objects as usize).collect();
        let mut ratios = Vec::new();
        for _ in 0..5 {
            if shuffled {
                order.shuffle(&mut random);
            }
            ratios.push(epochs.epoch(&order, readers).await);
        }
        let holds = capacity as f64 / epochs.bytes() as f64;
        println!(
            "{objects} objects of {object_bytes}, {readers} readers, shuffled: {shuffled}: {holds:.3} fits, {ratios:.3?}"
        );
        for ratio in &ratios[2..] {
            assert!(
                *ratio >= holds - 0.02,
                "{holds:.3} of the data fits, and {ratios:.3?} was not fetched"
            );
        }
        epochs.settles(capacity).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_tier_evicts_what_an_earlier_process_stored_and_the_disk_gets_it_back() {
    let mut epochs = Epochs::new(300, 200_000, 1 << 40).await;
    let order: Vec<usize> = (0..300).collect();
    epochs.read(&order).await;
    let capacity = 16 * MIB;
    epochs.engine = epochs.origin.engine(&epochs.package, epochs.folder.path(), capacity);
    epochs.settles(capacity).await;
    let before = epochs.origin.asked_bytes();
    epochs.read(&order).await;
    let fetched = epochs.origin.asked_bytes() - before;
    assert!(
        fetched < epochs.bytes() - capacity / 2,
        "what was left was not used: {fetched}"
    );
    epochs.settles(capacity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_ends_where_the_origin_fails_and_tells_nobody_of_what_nobody_reads() {
    let names: Vec<String> = (0..1000).map(|number| format!("object-{number:05}")).collect();
    let objects: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 10_000)).collect();
    let scene = Scene::with(&objects).await;
    let (read, gone): (Vec<usize>, Vec<usize>) = (0..1000).partition(|number| number % 3 == 0);
    for number in &gone {
        scene.origin.remove(&names[*number]);
    }
    for number in &read {
        assert!(scene.read(&names[*number]).await.unwrap() == content(*number as u64, 10_000));
    }
    let asked = scene.origin.asked();
    let in_vain = asked
        .iter()
        .filter(|(key, _)| gone.iter().any(|number| names[*number] == *key))
        .count();
    assert!(in_vain <= 64, "{in_vain} requests for what is gone");
    assert_eq!(scene.engine.report().drifts, []);
    assert!(scene.read(&names[1]).await.is_err());
    assert_eq!(scene.engine.report().drifts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_small_objects_one_after_the_other_finds_the_others_cached() {
    let epochs = Epochs::new(2000, 30_000, 1 << 40).await;
    let mut order: Vec<usize> = (0..2000).collect();
    order.shuffle(&mut StdRng::seed_from_u64(7));
    let (first, rest) = order.split_at(300);
    epochs.read(&first[..60]).await;
    assert_eq!(epochs.origin.asked().len(), 60, "nobody knows yet where this goes");
    epochs.read(&first[60..]).await;
    // All between the first and the last that was read.
    let (lowest, highest) = (first.iter().min().unwrap(), first.iter().max().unwrap());
    let begun = Instant::now();
    while epochs.origin.asked().len() < highest - lowest + 1 {
        assert!(
            begun.elapsed().as_secs() < 20,
            "{} were asked for",
            epochs.origin.asked().len()
        );
        tokio::task::yield_now().await;
    }
    epochs.read(rest).await;
    assert_eq!(epochs.origin.asked_bytes(), epochs.bytes(), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_brought_ahead_that_would_not_be_kept() {
    let epochs = Epochs::new(2000, 30_000, 16 * MIB).await;
    let mut order: Vec<usize> = (0..2000).collect();
    for seed in 0..3 {
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let before = epochs.origin.asked_bytes();
        epochs.read(&order).await;
        let asked = epochs.origin.asked_bytes() - before;
        assert!(
            asked <= epochs.bytes(),
            "{asked} bytes for an epoch of {}",
            epochs.bytes()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_ahead_has_its_place_already() {
    // 76 objects of 32 KiB have room; the 64th that is read has others brought.
    let objects = 200;
    let epochs = Arc::new(Epochs::new(objects, 32 << 10, 80 * (32 << 10)).await);
    let order: Vec<usize> = (0..63).map(|number| number * 3).collect();
    epochs.read(&order).await;
    epochs.origin.allow(0);
    let reading = tokio::spawn({
        let epochs = epochs.clone();
        async move { epochs.read(&[199]).await }
    });
    let begun = Instant::now();
    while epochs.origin.asked().len() < 63 + 9 {
        assert!(
            begun.elapsed().as_secs() < 20,
            "{} were asked for",
            epochs.origin.asked().len()
        );
        tokio::task::yield_now().await;
    }
    epochs.origin.allow(u64::MAX);
    reading.await.unwrap();
    let is_read = |number: &usize| *number == 199 || order.contains(number);
    let not_read: Vec<usize> = (0..objects as usize).filter(|number| !is_read(number)).collect();
    epochs.read(&not_read).await;
    assert_eq!(epochs.origin.asked_bytes(), epochs.bytes(), "each once");
}
