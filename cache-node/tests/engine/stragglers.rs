//! One slow request among fast ones: its reader does not wait for it, and the origin hardly notices.

use std::time::{Duration, Instant};

use penstock_cache_node::limits::{
    BODY_STALL_MAX, HEDGE_AFTER_MIN, HEDGE_REQUESTS, HEDGES_SAVED_MAX, ORIGIN_SILENCE_MAX,
};
use penstock_cache_node::report::{Counters, OriginOutcome};
use penstock_protocol::geometry::BlockRange;

use crate::generated::byte;
use crate::scene::{Scene, content, read};
use penstock_cache_node::Dataset;
use penstock_origin::meter::metered;
use penstock_protocol::control::cache_node as wire;
use std::sync::Arc;

const PIECE: u64 = 128 << 10;
const PIECES: u64 = 256;
/// Who begins at the beginning is taken to go on.
const FIRST: u64 = PIECE;
/// Enough to know what is late, and to pay for a few second requests: on a busy machine one or the other is late by itself.
const PEERS: u64 = (HEDGES_SAVED_MAX * HEDGE_REQUESTS) as u64;
/// Far from what a silent request would take, far above what this machine may add.
const SOON: Duration = Duration::from_secs(10);

/// An origin whose answers take this long, after so many of them.
async fn after(pieces: u64, latency: Duration) -> Scene {
    let scene = Scene::with(&[("large", (FIRST + PIECES * PIECE) as usize), ("small", 900_000)]).await;
    scene.origin.answer_after(latency);
    for piece in 0..pieces {
        read_piece(&scene, piece).await;
    }
    scene
}

/// Each is one request: they lie far from each other.
async fn read_piece(scene: &Scene, piece: u64) {
    let at = FIRST + piece * 37 % PIECES * PIECE;
    let range = BlockRange::new(scene.extent("large").address + at, 4096).unwrap();
    let got = read(&scene.engine, &scene.package, range).await.unwrap();
    assert!(got.into_iter().eq((at..at + 4096).map(|at| byte(0, at))));
}

fn hedged(scene: &Scene) -> u64 {
    scene.engine.counters().origin_outcomes.get(OriginOutcome::Hedged)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_silent_request_gets_a_second_one_and_each_byte_comes_once() {
    const { assert!(SOON.as_secs() * 2 <= ORIGIN_SILENCE_MAX.as_secs()) };
    let scene = after(PEERS, Duration::from_millis(1)).await;
    let before = (scene.origin.asked().len(), hedged(&scene));
    scene.origin.be_silent_for(1);
    let begun = Instant::now();
    read_piece(&scene, PEERS).await;
    println!("{:?} for a read whose request got no answer", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let after = (scene.origin.asked().len(), hedged(&scene));
    assert_eq!(after, (before.0 + 2, before.1 + 1));
    // The slow one is not waited for any more, and none of its bytes came.
    while scene.origin.under_way().0 > 0 {
        assert!(begun.elapsed() < SOON, "{:?}", scene.origin.under_way());
        tokio::task::yield_now().await;
    }
    assert_eq!(
        Counters::get(&scene.engine.counters().origin_bytes),
        (PEERS + 1) * PIECE
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_slow_as_a_whole_is_asked_hardly_more_than_once() {
    const SLOW: u64 = 49;
    let scene = after(PEERS, Duration::from_millis(1)).await;
    scene.origin.answer_after(HEDGE_AFTER_MIN * 5 / 4);
    for piece in PEERS..PEERS + SLOW {
        read_piece(&scene, piece).await;
    }
    let (asked, seconds) = (scene.origin.asked().len() as u64, hedged(&scene));
    println!("{seconds} of {asked} were second requests");
    assert_eq!(asked, PEERS + SLOW + seconds);
    assert!(
        (1..=(PEERS + SLOW) / u64::from(HEDGE_REQUESTS)).contains(&seconds),
        "{seconds} of {asked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_asked_for_anew_from_where_it_stopped() {
    let scene = after(PEERS, Duration::from_millis(1)).await;
    let before = hedged(&scene);
    scene.origin.stall_next_after(300_000);
    let begun = Instant::now();
    assert!(scene.read("small").await.unwrap() == content(1, 900_000));
    let took = begun.elapsed();
    assert!((BODY_STALL_MAX..SOON).contains(&took), "{took:?}");
    assert_eq!(hedged(&scene), before + 1);
}

/// The origin has these limits from now on.
fn limit(scene: &Scene, limits: wire::Limits) {
    let dataset = Dataset {
        uid: "d".into(),
        name: "d".into(),
        rules: scene.rules.clone(),
        origins: vec![metered(Arc::new(scene.origin.clone()), limits)],
        revisions: vec![scene.package.clone()],
    };
    scene.engine.set_datasets(&[dataset], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_limit_of_requests_is_not_late() {
    const A_SECOND: u64 = 8;
    let scene = after(PEERS, Duration::from_millis(1)).await;
    limit(
        &scene,
        wire::Limits {
            requests_per_thousand_seconds: A_SECOND * 1000,
            bytes_per_second: 0,
        },
    );
    let before = (scene.origin.asked().len() as u64, hedged(&scene));
    let begun = Instant::now();
    // A second's are saved; the last one waits for two.
    let reads = (PEERS..PEERS + 3 * A_SECOND).map(|piece| read_piece(&scene, piece));
    futures::future::join_all(reads).await;
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    let after = (scene.origin.asked().len() as u64, hedged(&scene));
    assert_eq!(after, (before.0 + 3 * A_SECOND, before.1));
    let sources = scene.engine.sources();
    assert!(!sources[0].is_gone && sources[0].requests_max == 64, "{sources:?}");
    // Nor does the origin count as one that takes seconds: who is silent now is late soon.
    limit(&scene, wire::Limits::default());
    scene.origin.be_silent_for(1);
    let begun = Instant::now();
    read_piece(&scene, PEERS + 3 * A_SECOND).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_waits_for_the_limit_of_bytes_does_not_stall() {
    let scene = after(PEERS, Duration::from_millis(1)).await;
    // The fake sends pieces of 100,000 bytes: the first one is owed for longer than a body may stall.
    let bytes_per_second = 20_000;
    const { assert!((100_000 - 20_000) / 20_000 > BODY_STALL_MAX.as_secs()) };
    limit(
        &scene,
        wire::Limits {
            requests_per_thousand_seconds: 0,
            bytes_per_second,
        },
    );
    let before = (scene.origin.asked().len(), hedged(&scene));
    let begun = Instant::now();
    let got = tokio::time::timeout(2 * BODY_STALL_MAX, scene.read("small")).await;
    assert!(got.is_err(), "it came after {:?}", begun.elapsed());
    assert_eq!((scene.origin.asked().len(), hedged(&scene)), (before.0 + 1, before.1));
    assert_eq!(scene.origin.under_way().0, 1, "the same request goes on");
}
