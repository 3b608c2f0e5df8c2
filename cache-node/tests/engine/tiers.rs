//! Several tiers as one cache: what enters where, what rises and sinks, and that nothing is lost or doubled on the way.

use std::time::{Duration, Instant};

use penstock_cache_node::memory::Budget;
use penstock_cache_node::report::{Counters, TierReport};
use penstock_cache_node::rules::{Rule, Rules};
use penstock_cache_node::{Engine, EngineConfig};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_revision::Scratch;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::disk::SmallDisk;
use crate::generated::Generated;
use crate::scene::{Scene, content, tiers};

const MIB: u64 = 1 << 20;
/// As many as a policy needs to find out what the traffic is like.
const OBJECTS: u64 = 400;
const OBJECT_BYTES: usize = 100_000;

async fn scene(capacities: &[u64]) -> Scene {
    let names: Vec<String> = (0..OBJECTS).map(name).collect();
    let objects: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), OBJECT_BYTES)).collect();
    Scene::with_tiers(&objects, capacities).await
}

fn name(number: u64) -> String {
    // Two folders.
    format!("{}/{number:03}", if number < OBJECTS / 2 { "low" } else { "high" })
}

async fn read(scene: &Scene, number: u64) {
    assert!(
        scene.read(&name(number)).await.unwrap() == content(number, OBJECT_BYTES),
        "wrong bytes"
    );
}

/// Reads everything once; returns how many bytes the origin sent.
async fn epoch(scene: &Scene, random: &mut StdRng) -> u64 {
    let before = Counters::get(&scene.engine.counters().origin_bytes);
    let mut order: Vec<u64> = (0..OBJECTS).collect();
    order.shuffle(random);
    for number in order {
        read(scene, number).await;
    }
    Counters::get(&scene.engine.counters().origin_bytes) - before
}

async fn wait_until(engine: &Engine, what: &str, is: impl Fn(&[TierReport]) -> bool) {
    let begun = Instant::now();
    while !is(&engine.report().tiers) {
        let report = engine.report();
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", report.tiers);
        tokio::task::yield_now().await;
    }
}

fn hits(scene: &Scene) -> [u64; 2] {
    let traffic = scene.engine.traffic();
    [0, 1].map(|tier| Counters::get(&traffic[0].hit_bytes[tier]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fast_tier_has_no_room_for_is_in_the_slow_one_and_nothing_is_in_both() {
    let scene = scene(&[10 * MIB, 100 * MIB]).await;
    let random = &mut StdRng::seed_from_u64(1);
    assert_eq!(epoch(&scene, random).await, OBJECTS * OBJECT_BYTES as u64);
    assert_eq!(epoch(&scene, random).await, 0, "all fits");
    let all = OBJECTS * (OBJECT_BYTES as u64).next_multiple_of(4096);
    wait_until(&scene.engine, "each once", |tiers| {
        tiers[0].used_bytes + tiers[1].used_bytes == all && tiers[0].used_bytes <= 10 * MIB
    })
    .await;
    assert!(
        scene.engine.report().tiers[0].used_bytes > 8 * MIB,
        "{:?}",
        scene.engine.report().tiers
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_again_and_again_rises_and_what_is_not_sinks() {
    let scene = scene(&[10 * MIB, 100 * MIB]).await;
    let random = &mut StdRng::seed_from_u64(2);
    epoch(&scene, random).await;
    // Eighty of four hundred are nine of ten reads; which they are changes once.
    for hot in [0, 200] {
        let mut before = hits(&scene);
        for round in 0..6 {
            before = if round == 3 { hits(&scene) } else { before };
            for _ in 0..2000 {
                let number = if random.random_bool(0.9) {
                    hot + random.random_range(0..80)
                } else {
                    random.random_range(0..OBJECTS)
                };
                read(&scene, number).await;
            }
        }
        let [fast, slow] = [0, 1].map(|tier| hits(&scene)[tier] - before[tier]);
        assert!(
            fast > 3 * slow,
            "{fast} bytes came from the fast tier, {slow} from the slow one"
        );
    }
    let counters = scene.engine.counters();
    assert!(Counters::get(&counters.risen_cells) >= 160, "{counters:?}");
    assert_eq!(Counters::get(&counters.origin_bytes), OBJECTS * OBJECT_BYTES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_larger_than_all_tiers_gets_from_them_what_they_hold_and_moves_little() {
    let scene = scene(&[8 * MIB, 12 * MIB]).await;
    let random = &mut StdRng::seed_from_u64(3);
    let mut sent = 0;
    let mut moved = 0;
    for number in 1..=14 {
        let before = moves(&scene);
        sent = epoch(&scene, random).await;
        moved = moves(&scene) - before;
        println!("epoch {number}: {sent} bytes from the origin, {moved} moves");
    }
    let all = (OBJECTS * OBJECT_BYTES as u64) as f64;
    let hit = 1.0 - sent as f64 / all;
    let fits = (20 * MIB) as f64 / (OBJECTS * (OBJECT_BYTES as u64).next_multiple_of(4096)) as f64;
    assert!(hit >= fits - 0.02, "{hit:.3} of {fits:.3}");
    assert!(
        moved <= 4,
        "{moved} cells changed their tier in an epoch that changed nothing"
    );
}

fn moves(scene: &Scene) -> u64 {
    let counters = scene.engine.counters();
    Counters::get(&counters.risen_cells) + Counters::get(&counters.sunk_cells)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_keeps_a_folder_out_of_the_fast_tier() {
    let mut scene = scene(&[100 * MIB, 100 * MIB]).await;
    scene.rules.rules = vec![Rule {
        path: "low".into(),
        tier: Some("tier-1".into()),
        ..Rule::default()
    }];
    scene.announce(&scene.engine);
    let random = &mut StdRng::seed_from_u64(4);
    for _ in 0..3 {
        epoch(&scene, random).await;
    }
    let half = OBJECTS / 2 * (OBJECT_BYTES as u64).next_multiple_of(4096);
    let used = |tiers: &[TierReport]| (tiers[0].used_bytes, tiers[1].used_bytes);
    assert_eq!(used(&scene.engine.report().tiers), (half, half));
    // What is read last is kept although there is room above.
    scene.engine.set_capacities(&[("tier-1".into(), 5 * MIB)]);
    wait_until(&scene.engine, "no more than it may hold", |tiers| {
        tiers[1].used_bytes <= 5 * MIB
    })
    .await;
    let evicted = half - scene.engine.report().tiers[1].used_bytes;
    assert!(evicted < half - 4 * MIB, "{evicted} bytes went to make room for none");
    scene.engine.set_capacities(&[("tier-1".into(), 100 * MIB)]);
    let fetched = epoch(&scene, random).await;
    // A rule that is gone lets it rise.
    scene.rules = Rules::default();
    scene.announce(&scene.engine);
    for _ in 0..3 {
        epoch(&scene, random).await;
    }
    wait_until(&scene.engine, "all of it above", |tiers| used(tiers) == (2 * half, 0)).await;
    assert_eq!(
        Counters::get(&scene.engine.counters().origin_bytes),
        OBJECTS * OBJECT_BYTES as u64 + fetched
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_shrinks_gives_to_the_next_and_one_that_grows_takes_again() {
    let scene = scene(&[30 * MIB, 100 * MIB]).await;
    let random = &mut StdRng::seed_from_u64(5);
    epoch(&scene, random).await;
    for capacity in [5 * MIB, 0, 30 * MIB] {
        scene.engine.set_capacities(&[("tier-0".into(), capacity)]);
        wait_until(&scene.engine, "no more than it may hold", |tiers| {
            tiers[0].used_bytes <= capacity
        })
        .await;
        assert_eq!(epoch(&scene, random).await, 0, "nothing was lost at {capacity}");
    }
    for _ in 0..3 {
        epoch(&scene, random).await;
    }
    wait_until(&scene.engine, "full again", |tiers| tiers[0].used_bytes > 28 * MIB).await;
    scene
        .engine
        .set_capacities(&[("tier-0".into(), 0), ("tier-1".into(), 10 * MIB)]);
    wait_until(&scene.engine, "what does not fit is gone", |tiers| {
        tiers[0].used_bytes == 0 && tiers[1].used_bytes <= 10 * MIB
    })
    .await;
    epoch(&scene, random).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_warm_in_any_tier_is_warm_after_a_restart_also_with_other_tiers() {
    let mut scene = scene(&[10 * MIB, 100 * MIB]).await;
    let random = &mut StdRng::seed_from_u64(6);
    epoch(&scene, random).await;
    for capacities in [
        &[10 * MIB, 100 * MIB][..],
        &[MIB, 100 * MIB, 10 * MIB],
        &[50 * MIB, 50 * MIB],
    ] {
        scene.tiers = tiers(scene.folder.path(), capacities);
        scene.engine = scene.restarted();
        assert_eq!(epoch(&scene, random).await, 0, "{capacities:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_whose_disk_is_full_or_lost_leaves_the_work_to_the_others() {
    let mut scene = scene(&[10 * MIB, 100 * MIB]).await;
    let disk = SmallDisk::new(4 * MIB);
    scene.tiers[0].path = disk.path().into();
    scene.engine = Engine::open(EngineConfig {
        tiers: scene.tiers.clone(),
        memory: Budget::default(),
        scratch: Scratch::memory(),
    })
    .unwrap();
    scene.announce(&scene.engine);
    let random = &mut StdRng::seed_from_u64(7);
    epoch(&scene, random).await;
    wait_until(&scene.engine, "a fault", |tiers| tiers[0].fault.is_some()).await;
    let fault = scene.engine.report().tiers[0].fault.clone().unwrap();
    assert!(fault.contains("tier-0") && fault.contains("full"), "{fault}");
    assert_eq!(scene.engine.report().tiers[1].fault, None);
    assert_eq!(epoch(&scene, random).await, 0, "the other has the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_was_not_told_its_capacity_keeps_what_it_has_and_takes_nothing() {
    let mut scene = scene(&[10 * MIB, 100 * MIB]).await;
    let random = &mut StdRng::seed_from_u64(8);
    epoch(&scene, random).await;
    let before = scene.engine.report().spaces;
    scene.tiers.iter_mut().for_each(|tier| tier.capacity_bytes = None);
    scene.engine = scene.restarted();
    assert_eq!(epoch(&scene, random).await, 0);
    assert_eq!(scene.engine.report().spaces, before);
    let capacities = [10 * MIB, 100 * MIB].into_iter().enumerate();
    let told: Vec<_> = capacities
        .map(|(tier, bytes)| (format!("tier-{tier}"), bytes))
        .collect();
    scene.engine.set_capacities(&told);
    assert_eq!(epoch(&scene, random).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_datasets_read_in_turns_get_what_fits_in_every_epoch() {
    let objects = || {
        let bytes = |number: u64| if number % 10 == 9 { 48_000 } else { 10_000 };
        let small = (0..300).map(move |number| (format!("small/{number:03}"), bytes(number)));
        small.chain([("whole".to_owned(), 24 * MIB)])
    };
    let origins = [
        Generated::new("one://", objects()),
        Generated::new("other://", objects()),
    ];
    let (one, other) = (SpaceId([1; 16]), SpaceId([2; 16]));
    let packages = [origins[0].package_in(one).await, origins[1].package_in(other).await];
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let tiers = tiers(folder.path(), &[8 * MIB, 16 * MIB]);
    let memory = Budget::default();
    let engine = Engine::open(EngineConfig {
        tiers,
        memory,
        scratch: Scratch::memory(),
    })
    .unwrap();
    let [mut guaranteed, mut limited] = [0, 1].map(|at: usize| origins[at].dataset(&packages[at]));
    guaranteed.rules.quota.guaranteed_bytes = 12 * MIB;
    limited.rules.quota.limit_bytes = Some(6 * MIB);
    engine.set_datasets(&[guaranteed, limited], false);
    let total: u64 = packages[0].all_extents().map(|extent| extent.unwrap().bytes).sum();
    let mut ratios = Vec::new();
    for _ in 0..10 {
        for (origin, package) in origins.iter().zip(&packages) {
            let before = origin.asked_bytes();
            for extent in package.all_extents().map(Result::unwrap) {
                for range in BlockRange::covering(extent.address, extent.bytes) {
                    for at in (range.address()..range.end()).step_by(128 << 10) {
                        let piece = BlockRange::new(at, (128 << 10).min(range.end() - at)).unwrap();
                        let mut into = vec![0; piece.bytes() as usize];
                        engine.read(&package.id(), piece, &mut into, None).await.unwrap();
                    }
                }
            }
            ratios.push(1.0 - (origin.asked_bytes() - before) as f64 / total as f64);
        }
    }
    // Small files take whole blocks.
    for (dataset, share) in [(0, 17 * MIB), (1, 5 * MIB)] {
        let of_it: Vec<f64> = ratios.iter().copied().skip(dataset).step_by(2).collect();
        let fits = share as f64 / total as f64;
        assert!(
            of_it[2..].iter().all(|ratio| *ratio >= fits),
            "{of_it:.2?} of {fits:.2}"
        );
    }
}
