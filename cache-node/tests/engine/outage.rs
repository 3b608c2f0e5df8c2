//! An origin that is gone: what is cached is read on, the rest fails at once, and all is well again by itself.

use std::time::{Duration, Instant};

use penstock_cache_node::ReadError;
use penstock_cache_node::limits::{BREAKER_GONE_MIN, BREAKER_PAUSE_MIN, ORIGIN_ATTEMPTS_MAX};
use penstock_cache_node::report::{Counters, OriginOutcome};
use penstock_origin::OriginError;

use crate::scene::{Scene, content};

const READERS: usize = 32;
const BYTES: usize = 5000;
/// Ten times what it takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn gone() -> OriginError {
    OriginError::Unreachable("connection refused".to_owned())
}

async fn scene() -> Scene {
    let keys: Vec<String> = (0..=READERS).map(|number| format!("{number:02}")).collect();
    let objects: Vec<(&str, usize)> = keys.iter().map(|key| (key.as_str(), BYTES)).collect();
    Scene::with(&objects).await
}

/// Everybody reads an object of their own until it fails with this sentence.
async fn read_until_refused(scene: &Scene) {
    let begun = Instant::now();
    let readers = (1..=READERS).map(|number| async move {
        loop {
            assert!(begun.elapsed() < PATIENCE, "it is asked again and again");
            match scene.read(&format!("{number:02}")).await {
                Err(ReadError::Unavailable(text)) if text.contains("has not answered for") => {
                    assert!(
                        text.contains("fake://") && text.contains("connection refused"),
                        "{text}"
                    );
                    return;
                }
                Err(ReadError::Unavailable(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    futures::future::join_all(readers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_origin_is_gone_hits_are_hits_misses_fail_at_once_and_then_all_is_read() {
    let scene = scene().await;
    scene.read("00").await.unwrap();
    scene.origin.be_gone(Some(gone()));
    read_until_refused(&scene).await;
    assert!(scene.engine.sources()[0].is_gone);

    let (begun, asked) = (Instant::now(), scene.origin.asked().len());
    for _ in 0..200 {
        for number in 1..=READERS {
            let failed = scene.read(&format!("{number:02}")).await;
            assert!(matches!(failed, Err(ReadError::Unavailable(_))), "{failed:?}");
        }
        let hits = Counters::get(&scene.engine.counters().hit_bytes);
        assert_eq!(scene.read("00").await.unwrap(), content(0, BYTES));
        assert!(Counters::get(&scene.engine.counters().hit_bytes) > hits);
    }
    // One probe for each pause, and half of it is jitter.
    let probes = begun.elapsed().as_secs_f64() / BREAKER_PAUSE_MIN.as_secs_f64() * 2.0 + 1.0;
    let asked = scene.origin.asked().len() - asked;
    println!("{asked} requests for 6400 reads within {:?}", begun.elapsed());
    assert!(asked as f64 <= probes, "{asked} requests within {:?}", begun.elapsed());
    assert!(scene.engine.counters().origin_outcomes.get(OriginOutcome::Refused) >= 6000);

    scene.origin.be_gone(None);
    let begun = Instant::now();
    for number in 1..=READERS {
        while scene.read(&format!("{number:02}")).await != Ok(content(number as u64, BYTES)) {
            assert!(begun.elapsed() < PATIENCE, "it is not asked again");
            tokio::task::yield_now().await;
        }
    }
    assert!(!scene.engine.sources()[0].is_gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_refuses_one_key_is_not_gone() {
    let scene = scene().await;
    for number in 1..=READERS {
        scene.origin.fail_with([OriginError::Denied("not this one".to_owned())]);
        let denied = scene.read(&format!("{number:02}")).await;
        assert_eq!(denied, Err(ReadError::Unavailable("not this one".to_owned())));
    }
    let (since, key) = (Instant::now(), "00");
    scene.origin.remove(key);
    while since.elapsed() < 2 * BREAKER_GONE_MIN {
        assert!(matches!(scene.read(key).await, Err(ReadError::Drifted(_))));
    }
    assert!(!scene.engine.sources()[0].is_gone);
    assert_eq!(scene.read("01").await.unwrap(), content(1, BYTES));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_all_at_once_are_no_outage() {
    let scene = scene().await;
    // The first attempts of all, and some of the second ones.
    scene.origin.fail_with((0..READERS * 3 / 2).map(|_| gone()));
    let readers = (1..=READERS).map(|number| {
        let scene = &scene;
        async move { scene.read(&format!("{number:02}")).await }
    });
    let read = futures::future::join_all(readers).await;
    let failed = read.iter().filter(|read| read.is_err()).count();
    assert_eq!(failed, 0, "of {READERS}, with {ORIGIN_ATTEMPTS_MAX} attempts each");
    assert!(!scene.engine.sources()[0].is_gone);
}
