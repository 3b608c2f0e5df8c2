//! N readers, one request; each byte of the origin once.

use penstock_protocol::geometry::BlockRange;

use crate::scene::{Scene, content, read};

const MIB: usize = 1 << 20;

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
    scene.engine.set_sharded(true);
    let first = scene.extent("large").address;
    for at in (0..64).map(|at| first + (at * MIB) as u64) {
        read(&scene.engine, &scene.package, BlockRange::new(at, MIB as u64).unwrap())
            .await
            .unwrap();
    }
    assert_eq!(scene.origin.asked_bytes(), 64 * MIB as u64);
}
