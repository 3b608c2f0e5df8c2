//! What a Dataset wants of the cache, on a running engine.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use penstock_cache_node::report::{Cause, Counters};
use penstock_cache_node::rules::{Eviction, Quota, Rule};
use penstock_revision::Package;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::scene::{Scene, content};

const MIB: u64 = 1 << 20;
const OBJECT_BYTES: usize = 100_000;
const OBJECTS: u64 = 200;

fn name(number: u64) -> String {
    format!("{}/{number:03}", if number < 50 { "keep" } else { "rest" })
}

async fn scene(capacity: u64) -> Scene {
    let names: Vec<String> = (0..OBJECTS).map(name).collect();
    let objects: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), OBJECT_BYTES)).collect();
    Scene::with_capacity(&objects, capacity).await
}

/// Reads objects in any order; returns how many bytes the origin sent.
async fn read(scene: &Scene, numbers: std::ops::Range<u64>, random: &mut StdRng) -> u64 {
    let before = Counters::get(&scene.engine.counters().origin_bytes);
    let mut order: Vec<u64> = numbers.collect();
    order.shuffle(random);
    for number in order {
        let bytes = scene.read(&name(number)).await.unwrap();
        assert!(bytes == content(number, OBJECT_BYTES), "wrong bytes");
    }
    Counters::get(&scene.engine.counters().origin_bytes) - before
}

async fn wait_until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::task::yield_now().await;
    }
}

fn rule(path: &str) -> Rule {
    Rule {
        path: path.into(),
        ..Rule::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_folder_stays_whatever_else_is_read_and_goes_when_it_is_not_pinned_any_more() {
    let mut scene = scene(10 * MIB).await;
    scene.rules.rules = vec![
        Rule {
            pin: true,
            eviction: Eviction::Lru,
            ..rule("keep")
        },
        Rule {
            eviction: Eviction::Lru,
            ..rule("")
        },
    ];
    scene.announce(&scene.engine);
    assert_eq!(scene.engine.report().refusals, []);
    let random = &mut StdRng::seed_from_u64(1);
    read(&scene, 0..50, random).await;
    for _ in 0..3 {
        read(&scene, 50..OBJECTS, random).await;
    }
    assert_eq!(read(&scene, 0..50, random).await, 0);
    // Also after a restart.
    scene.engine = scene.restarted();
    for _ in 0..3 {
        read(&scene, 50..OBJECTS, random).await;
    }
    assert_eq!(read(&scene, 0..50, random).await, 0);
    scene.rules.rules[0].pin = false;
    scene.rules.rules[0].priority = 0;
    scene.announce(&scene.engine);
    let begun = Instant::now();
    while read(&scene, 0..50, random).await == 0 {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is like all other files again"
        );
        read(&scene, 50..OBJECTS, random).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pinned_or_guaranteed_is_said_and_done_as_soon_as_there_is_room() {
    let mut scene = scene(5 * MIB).await;
    scene.rules.rules = vec![Rule {
        pin: true,
        ..rule("keep")
    }];
    scene.rules.quota.guaranteed_bytes = 100 * MIB;
    scene.announce(&scene.engine);
    let refusals = scene.engine.report().refusals;
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(refusals[0].message.contains("cannot be guaranteed"), "{refusals:?}");
    assert!(refusals[1].message.contains("\"keep\" is not pinned"), "{refusals:?}");
    scene.engine.set_capacities(&[("tier-0".into(), 200 * MIB)]);
    scene.announce(&scene.engine);
    assert_eq!(scene.engine.report().refusals, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_lowered_evicts_what_is_too_much_though_there_is_room() {
    let mut scene = scene(100 * MIB).await;
    let random = &mut StdRng::seed_from_u64(2);
    read(&scene, 0..OBJECTS, random).await;
    scene.rules.quota = Quota {
        guaranteed_bytes: 0,
        limit_bytes: Some(5 * MIB),
    };
    scene.announce(&scene.engine);
    let used = || scene.engine.report().tiers[0].used_bytes;
    wait_until("no more than its limit", || used() <= 5 * MIB).await;
    let evicted = Counters::get(&scene.engine.counters().evicted_bytes[Cause::Limit as usize]);
    assert!(evicted >= 14 * MIB, "{evicted}");
    for _ in 0..3 {
        read(&scene, 0..OBJECTS, random).await;
        wait_until("no more than its limit", || used() <= 5 * MIB).await;
    }
    assert!(used() > 4 * MIB, "{}", used());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_is_given_up_and_what_is_read_is_not() {
    let mut scene = scene(100 * MIB).await;
    let random = &mut StdRng::seed_from_u64(3);
    scene.rules.rules = vec![Rule {
        ttl: Some(Duration::from_secs(2)),
        ..rule("rest")
    }];
    scene.announce(&scene.engine);
    read(&scene, 0..OBJECTS, random).await;
    let kept = 50 * (OBJECT_BYTES as u64).next_multiple_of(4096);
    wait_until("only what has no time to live", || {
        scene.engine.report().tiers[0].used_bytes == kept
    })
    .await;
    let expired = Counters::get(&scene.engine.counters().evicted_bytes[Cause::Expired as usize]);
    assert_eq!(expired, 3 * kept);
    assert_eq!(read(&scene, 0..50, random).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_low_priority_gives_first() {
    let mut scene = scene(10 * MIB).await;
    let random = &mut StdRng::seed_from_u64(4);
    scene.rules.rules = vec![
        Rule {
            priority: 90,
            ..rule("keep")
        },
        Rule {
            priority: 10,
            eviction: Eviction::Lru,
            ..rule("")
        },
    ];
    scene.announce(&scene.engine);
    read(&scene, 0..50, random).await;
    for _ in 0..3 {
        read(&scene, 50..OBJECTS, random).await;
    }
    assert_eq!(read(&scene, 0..50, random).await, 0);
}

#[tokio::test]
async fn rules_for_paths_of_a_package_that_cannot_be_read_are_told_and_count_once_it_can() {
    let mut scene = Scene::with(&[("pinned/a", 5000), ("b", 5000)]).await;
    let whole = scene.package.clone();
    let mut file = tempfile::tempfile().unwrap();
    whole.copy_to(&mut file).unwrap();
    scene.package = Package::in_file(file.try_clone().unwrap(), &whole.id()).unwrap();
    file.write_all_at(&[0; 64], whole.bytes() - 64).unwrap();
    scene.rules.rules = vec![Rule {
        path: "pinned".into(),
        pin: true,
        ..Rule::default()
    }];
    scene.announce(&scene.engine);
    let refusals = scene.engine.report().refusals;
    assert!(
        refusals
            .iter()
            .any(|refusal| refusal.message.contains("cannot read which files")),
        "{refusals:?}"
    );
    let failed = scene.engine.package_failed();
    tokio::time::timeout(Duration::from_secs(10), failed.notified())
        .await
        .expect("another copy is looked for");
    // The same revision.
    scene.package = whole;
    scene.announce(&scene.engine);
    assert_eq!(scene.engine.report().refusals, []);
    let explained = scene.engine.explain("d", "pinned/a", 0, |_, _| None).unwrap();
    assert!(explained.rule.pin, "{explained:?}");
}
