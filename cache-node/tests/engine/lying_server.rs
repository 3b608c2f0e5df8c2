//! S3 look-alikes that do not do what was asked: their bytes must not reach a reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use penstock_cache_node::builder::{Source, build_revision};
use penstock_cache_node::memory::Budget;
use penstock_cache_node::rules::Rules;
use penstock_cache_node::{Dataset, Engine, EngineConfig, ReadError, TierConfig};
use penstock_origin::Origin;
use penstock_origin::fake_bucket::{Bucket, Lie};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Outcome, Scratch, SourceListing, build};

use crate::generated::bytes;

const OBJECT: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lying_server_sends_is_an_error_that_says_what_is_wrong() {
    for (lie, expected) in [
        (Lie::None, None),
        (Lie::WholeObjects, Some("whole objects")),
        (Lie::NoTag, Some("ETag")),
        (Lie::OtherRange, Some("range")),
        (Lie::NoRange, Some("range")),
    ] {
        let objects = BTreeMap::from([("object".to_owned(), bytes(0..OBJECT))]);
        match (read(lie, objects, 5 << 20).await, expected) {
            (Ok(got), None) => assert!(got == bytes(5 << 20..(5 << 20) + 4096)),
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{lie:?}: {error}"),
            (got, _) => panic!("{lie:?}: {:?}", got.map(|_| "bytes")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_small_object_is_believed_before_all_match_the_checksum_of_the_server() {
    for lie in [Lie::None, Lie::WrongByte] {
        // The second lies in two pages, and its first block is right.
        let small = [
            ("a".to_owned(), bytes(0..900 << 10)),
            ("b".to_owned(), bytes(0..300 << 10)),
        ];
        let got = read(lie, BTreeMap::from(small), 900 << 10).await;
        match (lie, got) {
            (Lie::None, Ok(got)) => assert!(got == bytes(0..4096)),
            (Lie::WrongByte, Err(error)) => {
                assert!(error.to_string().contains("bytes of b that do not match"), "{error}");
            }
            (_, got) => panic!("{lie:?}: {:?}", got.map(|_| "bytes")),
        }
    }
}

#[tokio::test]
async fn the_first_build_of_a_source_finds_out_what_its_server_does_not_do() {
    let bucket = Bucket::lying(Lie::WholeObjects, &["large"]).await;
    let source = Source {
        path: String::new(),
        origin: Arc::new(bucket.origin("")),
    };
    let failed = build_revision(&[source], None, BuildOptions::default(), Scratch::memory())
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("sends whole objects"), "{failed}");
}

/// The block at an address of a first revision of these objects.
async fn read(lie: Lie, objects: BTreeMap<String, Vec<u8>>, address: u64) -> Result<Vec<u8>, ReadError> {
    let bucket = Bucket::of(lie, objects).await;
    let origin = Arc::new(bucket.origin(""));
    // A server that lies only later: the first contact of a build would find out.
    let listing = SourceListing {
        identity: origin.identity(),
        path: String::new(),
        objects: origin.list_all().await.unwrap(),
    };
    let Outcome::New(package) = build(SpaceId([5; 16]), None, &[listing], &BuildOptions::default()).unwrap() else {
        panic!("a first revision is new")
    };
    let folder = tempfile::tempdir().unwrap();
    let tier = TierConfig {
        name: "ssd".into(),
        path: folder.path().into(),
        capacity_bytes: Some(1 << 40),
    };
    let engine = Engine::open(EngineConfig {
        tiers: vec![tier],
        memory: Budget::default(),
        scratch: Scratch::memory(),
    })
    .unwrap();
    let dataset = Dataset {
        uid: "d".into(),
        name: "d".into(),
        rules: Rules::default(),
        origins: vec![origin],
        revisions: vec![package.clone()],
    };
    engine.set_datasets(&[dataset], false);
    let range = BlockRange::new(address, 4096).unwrap();
    crate::scene::read(&engine, &package, range).await
}
