//! N readers, one request; each byte of the origin once.

use penstock_protocol::geometry::BlockRange;

use crate::generated::{Generated, bytes};
use crate::scene::{Scene, content, read};

const MIB: usize = 1 << 20;
const PAGE: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_small_object_cost_one_request() {
    let scene = Scene::with(&[("a", 100_000)]).await;
    scene.origin.let_go(false);
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let (engine, package, extent) = (scene.engine.clone(), scene.package.clone(), scene.extent("a"));
            tokio::spawn(async move {
                let range = BlockRange::covering(extent.address, extent.bytes).next().unwrap();
                read(&engine, &package, range).await
            })
        })
        .collect();
    while scene.origin.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    scene.origin.let_go(true);
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap()[..100_000], content(0, 100_000));
    }
    assert_eq!(scene.origin.asked(), [("a".to_owned(), 0..100_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_does_not_cancel_what_others_wait_for() {
    let scene = Scene::with(&[("a", 5000)]).await;
    scene.origin.let_go(false);
    let first = {
        let (engine, package, extent) = (scene.engine.clone(), scene.package.clone(), scene.extent("a"));
        tokio::spawn(async move { read(&engine, &package, BlockRange::new(extent.address, 8192).unwrap()).await })
    };
    while scene.origin.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    scene.origin.let_go(true);
    assert_eq!(scene.read("a").await.unwrap(), content(0, 5000));
    assert_eq!(scene.origin.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_asks_for_each_byte_once_and_the_next_for_none() {
    let objects: Vec<(String, usize)> = (0..40).map(|i| (format!("f{i:02}"), 1 + i * 9001)).collect();
    let mut objects: Vec<(&str, usize)> = objects.iter().map(|(key, bytes)| (key.as_str(), *bytes)).collect();
    objects.push(("large", 150 * MIB + 123));
    let scene = Scene::with(&objects).await;
    for round in 0..2 {
        for (seed, (key, bytes)) in objects.iter().enumerate() {
            assert!(
                scene.read(key).await.unwrap() == content(seed as u64, *bytes),
                "{key} in round {round}"
            );
        }
        let needed: usize = objects.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(scene.origin.asked_bytes(), needed as u64, "after round {round}");
    }
    let requests = scene.origin.asked().iter().filter(|(key, _)| key == "large").count();
    assert!(requests < 30, "{requests} requests for one sequential read of 150 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_read_of_a_large_object_fetches_little() {
    let scene = Scene::with(&[("large", 300 * MIB)]).await;
    let extent = scene.extent("large");
    for at in [7, 250, 3, 111, 60] {
        let range = BlockRange::new(extent.address + (at * MIB) as u64 + 40960, 4096).unwrap();
        let bytes = read(&scene.engine, &scene.package, range).await.unwrap();
        assert!(bytes == content(0, 300 * MIB)[at * MIB + 40960..][..4096]);
    }
    assert!(
        scene.origin.asked_bytes() <= 5 * (128 << 10),
        "{:?}",
        scene.origin.asked()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shares_the_space_fetches_nothing_beyond_its_stripe() {
    let scene = Scene::with(&[("large", 100 * MIB)]).await;
    scene.engine.set_owned(Some(Box::new(|_, _| true)), 1);
    let first = scene.extent("large").address;
    for at in (0..64).map(|at| first + (at * MIB) as u64) {
        read(&scene.engine, &scene.package, BlockRange::new(at, MIB as u64).unwrap())
            .await
            .unwrap();
    }
    assert_eq!(scene.origin.asked_bytes(), 64 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_in_the_middle_of_a_body_costs_nothing() {
    let (origin, folder) = (Generated::one(PAGE), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 1 << 40);
    origin.allow(PAGE / 2);
    let range = BlockRange::new(0, PAGE).unwrap();
    let first = {
        let (engine, package) = (engine.clone(), package.clone());
        tokio::spawn(async move { read(&engine, &package, range).await })
    };
    while origin.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = {
        let (engine, package) = (engine.clone(), package.clone());
        tokio::spawn(async move { read(&engine, &package, range).await })
    };
    origin.allow(u64::MAX);
    assert!(second.await.unwrap().unwrap() == bytes(0..PAGE));
    assert_eq!(origin.asked_bytes(), PAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_failed_to_bring_ahead_is_brought_ahead_again() {
    let (origin, folder) = (Generated::one(128 * PAGE), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 1 << 40);
    let mut at = 0;
    while at < 16 * PAGE {
        read(&engine, &package, BlockRange::new(at, PAGE).unwrap())
            .await
            .unwrap();
        at += PAGE;
    }
    // The window that is on its way and what follows fails; the readers' own reads do not.
    origin.fail_beyond(Some(at + 2 * PAGE));
    for _ in 0..2 {
        read(&engine, &package, BlockRange::new(at, PAGE).unwrap()).await.ok();
        at += PAGE;
    }
    origin.fail_beyond(None);
    let before = origin.asked().len();
    while at < 128 * PAGE {
        read(&engine, &package, BlockRange::new(at, PAGE).unwrap())
            .await
            .unwrap();
        at += PAGE;
    }
    let requests = origin.asked().len() - before;
    assert!(
        requests <= 24,
        "{requests} requests for 110 MiB after the origin was back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_more_stripes_than_are_kept_open_cost_each_byte_once() {
    const STRIPES: u64 = 1100;
    let (origin, folder) = (Generated::one(STRIPES << 26), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 1 << 40);
    let readers: Vec<_> = (0..8u64)
        .map(|reader| {
            let (engine, package) = (engine.clone(), package.clone());
            tokio::spawn(async move {
                for step in 0..2 * STRIPES {
                    // Pieces of 128 KiB in one word of the presence bitmap, in another order for each reader.
                    let stripe = step * (2 * reader + 3) % STRIPES;
                    let at = (stripe << 26) + (16 << 20) + (step + reader) % 2 * (128 << 10);
                    let got = read(&engine, &package, BlockRange::new(at, 4096).unwrap())
                        .await
                        .unwrap();
                    assert!(got == bytes(at..at + 4096));
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let mut asked = origin.asked();
    asked.sort_unstable_by_key(|range| range.start);
    let twice = asked.windows(2).filter(|two| two[0].end > two[1].start).count();
    assert_eq!(
        twice,
        0,
        "requests of {} that asked for what was asked for before",
        asked.len()
    );
    let (_, held) = engine.report().spaces[0];
    assert_eq!(
        held,
        origin.asked_bytes(),
        "bytes that the engine says it holds, and bytes that came"
    );
}
