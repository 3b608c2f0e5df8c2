//! An origin that asks to slow down: readers wait, and it is sent what it can bear.

use std::time::{Duration, Instant};

use penstock_cache_node::limits::{ORIGIN_ATTEMPTS_MAX, SOURCE_REQUESTS_MAX};
use penstock_cache_node::report::OriginOutcome;
use penstock_origin::OriginError;
use penstock_origin::fake::slow_down;
use penstock_protocol::geometry::BlockRange;

use crate::scene::{Scene, content, read};

const PIECE: u64 = 128 << 10;
const PIECES: u64 = 1024;
const READERS: u64 = 64;

/// One object that is read in pieces far from each other and from its beginning, so that each read is one request.
async fn pieces() -> Scene {
    Scene::with(&[("large", ((PIECES + 1) * PIECE) as usize)]).await
}

/// Every reader reads its share of these pieces, one after the other.
async fn read_all(scene: &Scene, pieces: std::ops::Range<u64>) {
    let first = scene.extent("large").address;
    let readers = (0..READERS).map(|reader| {
        let (engine, package) = (scene.engine.clone(), scene.package.clone());
        let shares = pieces.clone().skip(reader as usize).step_by(READERS as usize);
        tokio::spawn(async move {
            for piece in shares {
                let at = (piece * 173 % PIECES + 1) * PIECE;
                let got = read(&engine, &package, BlockRange::new(first + at, 4096).unwrap()).await;
                got.expect("who asks to slow down is waited for");
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_bears_little_gets_little_and_no_reader_sees_an_error() {
    let scene = pieces().await;
    let outcome = |outcome| scene.engine.counters().origin_outcomes.get(outcome);
    scene.origin.answer_after(Duration::from_millis(10));
    scene.origin.serve_at_once(4);
    read_all(&scene, 0..256).await;
    let (asked, throttled) = (scene.origin.asked().len() as u64, outcome(OriginOutcome::Throttled));
    println!("{throttled} of {asked} requests were refused");
    assert_eq!(asked, 256 + throttled);
    assert!((4..=64).contains(&throttled), "{throttled} of {asked}");
    let requests_max = || scene.engine.sources()[0].requests_max;
    assert!(requests_max() <= SOURCE_REQUESTS_MAX / 4, "{}", requests_max());

    // It bears more again.
    scene.origin.serve_at_once(usize::MAX);
    let mut upto = 256;
    while requests_max() < SOURCE_REQUESTS_MAX / 2 {
        assert!(upto < PIECES, "{}", requests_max());
        read_all(&scene, upto..upto + 128).await;
        upto += 128;
    }
    assert_eq!(outcome(OriginOutcome::Throttled), throttled);
    let at_once = scene.origin.under_way().1;
    assert!((5..=SOURCE_REQUESTS_MAX).contains(&at_once), "{at_once}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_to_slow_down_is_no_failed_attempt() {
    let scene = Scene::with(&[("a", 5000)]).await;
    let times = ORIGIN_ATTEMPTS_MAX as usize + 1;
    scene.origin.fail_with((0..times).map(|_| slow_down()));
    assert_eq!(scene.read("a").await.unwrap(), content(0, 5000));
    assert_eq!(scene.origin.asked().len(), times + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_of_a_source_asks_it_before_the_time_that_it_said() {
    let scene = Scene::with(&[("a", 5000), ("b", 6000)]).await;
    let wait = Duration::from_millis(700);
    let begun = Instant::now();
    scene.origin.fail_with([OriginError::Throttled {
        text: "come back later".to_owned(),
        wait: Some(wait),
    }]);
    let readers = async {
        tokio::join!(scene.read("a"), async {
            let outcomes = &scene.engine.counters().origin_outcomes;
            while outcomes.get(OriginOutcome::Throttled) == 0 {
                tokio::task::yield_now().await;
            }
            let got = scene.read("b").await;
            (got, begun.elapsed())
        })
    };
    let (a, (b, took)) = readers.await;
    assert!(a.unwrap() == content(0, 5000) && b.unwrap() == content(1, 6000));
    assert!(took >= wait, "asked again after {took:?}");
    assert_eq!(scene.origin.asked().len(), 3);
}
