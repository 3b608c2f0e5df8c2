//! Origins that fail, disks that lie, processes that die.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use penstock_cache_node::ReadError;
use penstock_cache_node::report::Counters;
use penstock_origin::OriginError;

use crate::scene::{Scene, content};

/// The only file of the cache that ends in `ending`.
fn file(scene: &Scene, ending: &str) -> PathBuf {
    let space = scene.folder.path().join("v1").join(scene.package.space().to_string());
    let mut files = fs::read_dir(space).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.to_str().unwrap().ends_with(ending)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_body_goes_on_where_it_broke() {
    let scene = Scene::with(&[("large", 5 << 20)]).await;
    scene.origin.cut_next_after((1 << 20) + 5000);
    assert!(scene.read("large").await.unwrap() == content(0, 5 << 20));
    // The second request begins at the unit that was not complete.
    assert_eq!(scene.origin.asked()[1].1.start % (1 << 20), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_fault_of_the_origin_is_not_seen_and_a_long_one_is_not_remembered() {
    let scene = Scene::with(&[("a", 5000)]).await;
    let gone = || OriginError::Unreachable("nobody there".to_owned());
    scene.origin.fail_with([gone(), gone()]);
    assert_eq!(scene.read("a").await.unwrap(), content(0, 5000));

    let scene = Scene::with(&[("a", 5000)]).await;
    scene.origin.fail_with((0..4).map(|_| gone()));
    assert_eq!(
        scene.read("a").await,
        Err(ReadError::Unavailable("nobody there".to_owned()))
    );
    assert_eq!(scene.read("a").await.unwrap(), content(0, 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_object_is_an_error_that_names_it_and_others_are_read() {
    let scene = Scene::with(&[("a", 5000), ("b", 6000)]).await;
    scene.origin.put("a", content(9, 5000));
    assert!(matches!(scene.read("a").await, Err(ReadError::Drifted(text)) if text.contains('a')));
    assert_eq!(scene.read("b").await.unwrap(), content(1, 6000));
    let drifts = scene.engine.report().drifts;
    assert_eq!((drifts.len(), drifts[0].key.as_str()), (1, "a"));
    assert_eq!(drifts[0].fault, "");
    scene.engine.set_datasets(&[], true);
    assert_eq!(scene.engine.report().drifts, [], "its revision is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_origin_does_not_give_away_is_reported_with_why() {
    let scene = Scene::with(&[("a", 5000), ("b", 6000), ("c", 7000)]).await;
    let archived = OriginError::Invalid("a is archived".to_owned());
    let denied = OriginError::Denied("b may not be read".to_owned());
    scene.origin.fail_with([archived, denied]);
    assert!(scene.read("a").await.is_err() && scene.read("b").await.is_err());
    let drifts = scene.engine.report().drifts;
    let said: Vec<_> = drifts.iter().map(|drift| (&*drift.key, &*drift.fault)).collect();
    assert_eq!(said, [("a", "a is archived"), ("b", "b may not be read")]);
    // What may pass says nothing of the object.
    scene
        .origin
        .fail_with((0..4).map(|_| OriginError::Other("odd".to_owned())));
    assert!(scene.read("c").await.is_err());
    assert_eq!(scene.engine.report().drifts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_read_while_the_object_is_gone() {
    let scene = Scene::with(&[("a", 5000)]).await;
    scene.read("a").await.unwrap();
    scene.origin.remove("a");
    assert_eq!(scene.read("a").await.unwrap(), content(0, 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_cache() {
    let scene = Scene::with(&[("a", 5000), ("large", 70 << 20)]).await;
    for key in ["a", "large"] {
        scene.read(key).await.unwrap();
    }
    let asked = scene.origin.asked_bytes();
    let restarted = scene.restarted();
    for (seed, (key, bytes)) in [("a", 5000), ("large", 70 << 20)].into_iter().enumerate() {
        assert!(scene.read_with(&restarted, key).await.unwrap() == content(seed as u64, bytes));
    }
    assert_eq!(scene.origin.asked_bytes(), asked);
    assert_eq!(restarted.report().spaces, scene.engine.report().spaces);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_noticed_and_fetched_anew() {
    let scene = Scene::with(&[("a", 50_000)]).await;
    scene.read("a").await.unwrap();
    let data = fs::OpenOptions::new().write(true).open(file(&scene, ".data")).unwrap();
    data.write_all_at(&[!content(0, 50_000)[20_000]], 20_000).unwrap();
    assert_eq!(scene.read("a").await.unwrap(), content(0, 50_000));
    assert_eq!(Counters::get(&scene.engine.counters().damaged_blocks), 1);
    assert_eq!(scene.origin.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_cut_and_foreign_files_are_missing_data_and_nothing_worse() {
    type Inflict = fn(&std::path::Path);
    let damages: [(&str, Inflict); 6] = [
        ("cut data", |path| {
            fs::OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(4096)
                .unwrap();
        }),
        ("empty data", |path| fs::write(path, b"").unwrap()),
        ("no data", |path| fs::remove_file(path).unwrap()),
        ("cut side", |path| {
            fs::OpenOptions::new()
                .write(true)
                .open(path.with_extension("side"))
                .unwrap()
                .set_len(9000)
                .unwrap();
        }),
        ("foreign side", |path| {
            fs::write(path.with_extension("side"), vec![0xFF; 73_728]).unwrap();
        }),
        ("no side", |path| fs::remove_file(path.with_extension("side")).unwrap()),
    ];
    for (damage, inflict) in damages {
        let scene = Scene::with(&[("a", 50_000)]).await;
        scene.read("a").await.unwrap();
        inflict(&file(&scene, ".data"));
        fs::write(scene.folder.path().join("v1").join("foreign"), b"?").ok();
        let restarted = scene.restarted();
        assert_eq!(
            scene.read_with(&restarted, "a").await.unwrap(),
            content(0, 50_000),
            "{damage}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_smaller_than_what_is_read_gives_every_byte_and_stays_within_its_bounds() {
    let objects = [("a", 3 << 20), ("b", 500_000), ("c", 40 << 20)];
    for capacity in [0, 4096, 1 << 20, 8 << 20] {
        let scene = Scene::with_capacity(&objects, capacity).await;
        for _ in 0..3 {
            for (seed, (key, bytes)) in objects.into_iter().enumerate() {
                assert!(scene.read(key).await.unwrap() == content(seed as u64, bytes), "{key}");
            }
        }
        let tier = &scene.engine.report().tiers[0];
        assert!(tier.fault.is_none() && tier.used_bytes <= capacity, "{tier:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spaces_that_no_revision_uses_are_removed() {
    let scene = Scene::with(&[("a", 50_000)]).await;
    scene.read("a").await.unwrap();
    scene.engine.set_datasets(&[], true);
    assert_eq!(scene.engine.report().spaces.len(), 1);
    scene.engine.set_datasets(&[], false);
    assert_eq!(scene.engine.report().spaces, []);
    assert_eq!(scene.engine.report().tiers[0].used_bytes, 0);
    assert_eq!(fs::read_dir(scene.folder.path().join("v1")).unwrap().count(), 0);
    assert!(matches!(scene.read("a").await, Err(ReadError::UnknownRevision(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_side_file_is_missing_data_and_nothing_worse() {
    for (from, upto, with) in [
        (4096, 6144, 0xFF),
        (8192, 12_288, 0x00),
        (4096, 4100, 0x00),
        (8192, 73_728, 0xA5),
    ] {
        let scene = Scene::with(&[("a", 400_000), ("b", 5000)]).await;
        for key in ["a", "b"] {
            scene.read(key).await.unwrap();
        }
        let side = fs::OpenOptions::new().write(true).open(file(&scene, ".side")).unwrap();
        side.write_all_at(&vec![with; upto - from], from as u64).unwrap();
        let restarted = scene.restarted();
        for (seed, (key, bytes)) in [("a", 400_000), ("b", 5000)].into_iter().enumerate() {
            assert!(
                scene.read_with(&restarted, key).await.unwrap() == content(seed as u64, bytes),
                "{key} after {with:#x} at {from}..{upto}"
            );
        }
    }
}
