//! What a person is told of a running node: what it holds, where the parts of a file are and why not, and what is evicted and
//! compared when they want it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_cache_node::Dataset;
use penstock_cache_node::limits::DATASETS_LISTED_MAX;
use penstock_cache_node::report::{Cause, Counters};
use penstock_cache_node::rules::{Quota, Rule, Rules};
use penstock_cache_node::server::inspection::InspectionServer;
use penstock_cache_node::server::node::Node;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::explained_range::State;
use penstock_protocol::control::cache_node::inspection_client::InspectionClient;
use penstock_protocol::control::cache_node::inspection_server;
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use penstock_revision::Package;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::generated::Generated;
use crate::scene::{Scene, content, read};

const MIB: u64 = 1 << 20;
/// Of `small`, in whole blocks: `labels`, `train/a`, `train/b`.
const BLOCK_BYTES: [u64; 3] = [12_288, 303_104, 8192];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_waits_for_while_it_comes_ahead_is_kept() {
    let two = Two::with(4 * MIB, &[1 << 30]).await;
    let piece = |at| BlockRange::new(at, 128 << 10).unwrap();
    // The window begins with the first piece. Its body stops behind that, and the next piece is on its way.
    two.large.allow(128 << 10);
    let engine = two.node.engine();
    for at in [0, 128 << 10] {
        let (engine, id, misses) = (engine.clone(), two.package.id(), &engine.counters().miss_bytes);
        let before = Counters::get(misses);
        let reading = tokio::spawn(async move {
            let mut into = vec![0; 128 << 10];
            engine.read(&id, piece(at), &mut into, None).await.unwrap();
        });
        while Counters::get(misses) == before {
            tokio::task::yield_now().await;
        }
        if at > 0 {
            two.large.allow(u64::MAX);
        }
        reading.await.unwrap();
    }
    let explained = two.explain("n/large", "object", 0).await.unwrap();
    let first = &explained.ranges[0];
    assert_eq!((first.state(), first.offset), (State::Kept, 0), "{explained:?}");
    assert!(first.bytes >= 256 << 10, "{explained:?}");
}

/// A node with two Datasets: `n/small`, of which `labels` is pinned, and `n/large`, which has one object.
pub struct Two {
    small: Scene,
    large: Generated,
    package: Package,
    node: Node,
    pub client: InspectionClient<Channel>,
    _folder: tempfile::TempDir,
}

impl Two {
    pub async fn with(large_bytes: u64, capacities: &[u64]) -> Self {
        let objects = [("labels", 9000), ("train/a", 300_000), ("train/b", 5000)];
        let mut small = Scene::with_tiers(&objects, capacities).await;
        let pinned = Rule {
            path: "labels".into(),
            pin: true,
            ..Rule::default()
        };
        small.rules.rules = vec![pinned];
        small.rules.quota.limit_bytes = Some(80 * MIB);
        let large = Generated::one(large_bytes);
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(small.engine.clone(), &[folder.path().into()], None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = inspection_server::InspectionServer::new(InspectionServer::new(node.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let two = Self {
            package: large.package().await,
            small,
            large,
            node,
            client: InspectionClient::connect(format!("http://{address}")).await.unwrap(),
            _folder: folder,
        };
        two.announce(Rules::default());
        two
    }

    fn datasets(&self, of_large: Rules) -> [Dataset; 2] {
        let dataset = |name: &str, rules, origin, package: &Package| Dataset {
            uid: name.into(),
            name: name.into(),
            rules,
            origins: vec![origin],
            revisions: vec![package.clone()],
        };
        [
            dataset(
                "n/small",
                self.small.rules.clone(),
                Arc::new(self.small.origin.clone()),
                &self.small.package,
            ),
            dataset("n/large", of_large, Arc::new(self.large.clone()), &self.package),
        ]
    }

    fn announce(&self, of_large: Rules) {
        self.small.engine.set_datasets(&self.datasets(of_large), false);
    }

    async fn read_small(&self, key: &str) {
        let bytes = self.small.read(key).await.unwrap();
        let seed = ["labels", "train/a", "train/b"].iter().position(|name| *name == key);
        assert!(bytes == content(seed.unwrap() as u64, bytes.len()), "wrong bytes");
    }

    async fn read_large(&self, mebibytes: std::ops::Range<u64>) {
        for at in mebibytes {
            let range = BlockRange::new(at * MIB, MIB).unwrap();
            read(&self.small.engine, &self.package, range).await.unwrap();
        }
    }

    async fn stat(&self, dataset: &str, path: &str) -> Result<wire::StatReply, tonic::Status> {
        let stated = self.client.clone().stat(at(dataset, path)).await?;
        Ok(stated.into_inner())
    }

    async fn explain(&self, dataset: &str, path: &str, offset: u64) -> Result<wire::ExplainReply, tonic::Status> {
        let request = wire::ExplainRequest {
            dataset: dataset.into(),
            path: path.into(),
            offset,
        };
        Ok(self.client.clone().explain(request).await?.into_inner())
    }

    /// Where the parts of the object of `n/large` are: MiB and state.
    async fn parts(&self) -> Vec<(u64, State)> {
        let explained = self.explain("n/large", "object", 0).await.unwrap();
        let part = |range: &wire::ExplainedRange| (range.bytes / MIB, range.state());
        explained.ranges.iter().map(part).collect()
    }

    /// The last of the parts of an answer.
    async fn verify(&self, dataset: &str, path: &str) -> wire::VerifyProgress {
        let mut parts = self
            .client
            .clone()
            .verify(at(dataset, path))
            .await
            .unwrap()
            .into_inner();
        loop {
            let part = parts.message().await.unwrap().unwrap();
            if part.is_done {
                assert_eq!(parts.message().await.unwrap(), None);
                return part;
            }
        }
    }
}

fn at(dataset: &str, path: &str) -> wire::PathRequest {
    wire::PathRequest {
        dataset: dataset.into(),
        path: path.into(),
    }
}

fn bytes(cached: &[wire::TierBytes]) -> Vec<u64> {
    cached.iter().map(|tier| tier.bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_holds_is_listed_by_dataset_and_tier() {
    let two = Two::with(3 * MIB, &[100 * MIB, 100 * MIB]).await;
    let slow = Rule {
        tier: Some("tier-1".into()),
        ..Rule::default()
    };
    let quota = Quota {
        guaranteed_bytes: 5 * MIB,
        limit_bytes: None,
    };
    two.announce(Rules {
        quota,
        rules: vec![slow],
    });
    for key in ["labels", "train/a"] {
        two.read_small(key).await;
    }
    two.read_large(0..3).await;
    let listed = two
        .client
        .clone()
        .list(wire::ListRequest {})
        .await
        .unwrap()
        .into_inner();
    let used: Vec<_> = listed
        .tiers
        .iter()
        .map(|tier| (tier.name.as_str(), tier.used_bytes))
        .collect();
    assert_eq!(used, [("tier-0", BLOCK_BYTES[0] + BLOCK_BYTES[1]), ("tier-1", 3 * MIB)]);
    let [large, small] = &listed.datasets[..] else {
        panic!("{listed:?}")
    };
    assert_eq!((large.name.as_str(), small.name.as_str()), ("n/large", "n/small"));
    assert_eq!(bytes(&large.cached), [0, 3 * MIB]);
    assert_eq!(bytes(&small.cached), [BLOCK_BYTES[0] + BLOCK_BYTES[1], 0]);
    assert_eq!((large.pinned_bytes, small.pinned_bytes), (0, BLOCK_BYTES[0]));
    assert_eq!((large.files, large.bytes, large.revisions), (1, 3 * MIB, 1));
    assert_eq!((small.files, small.bytes), (3, 314_000));
    assert_eq!(small.revision, two.small.package.id().as_bytes());
    let quotas = [large, small].map(|dataset| dataset.quota.unwrap());
    assert_eq!((quotas[0].guaranteed_bytes, quotas[0].limit_bytes), (5 * MIB, None));
    assert_eq!(quotas[1].limit_bytes, Some(80 * MIB));
    assert_eq!((listed.other_bytes, listed.left_out), (0, 0));
    assert_eq!(listed.node, Node::name());
    // What is of no Dataset is not lost sight of.
    two.small
        .engine
        .set_datasets(&two.datasets(Rules::default())[..1], true);
    let listed = two
        .client
        .clone()
        .list(wire::ListRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((listed.datasets.len(), listed.other_bytes), (1, 3 * MIB));
    let many = (0..DATASETS_LISTED_MAX + 3).map(|number| Dataset {
        name: format!("n/{number:04}"),
        revisions: Vec::new(),
        ..two.datasets(Rules::default())[0].clone()
    });
    two.small.engine.set_datasets(&many.collect::<Vec<_>>(), true);
    let listed = two
        .client
        .clone()
        .list(wire::ListRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((listed.datasets.len(), listed.left_out), (DATASETS_LISTED_MAX, 3));
    assert_eq!(listed.datasets[1].name, "n/0001");
    let none = two.stat("n/0001", "").await.unwrap_err();
    assert!(
        none.code() == Code::Unavailable && none.message().contains("no revision of n/0001"),
        "{none}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_of_a_path_is_cached_is_told_and_nobody_takes_that_for_a_read() {
    let mut two = Two::with(3 * MIB, &[100 * MIB, 100 * MIB]).await;
    two.read_small("train/a").await;
    let counters = |two: &Two| {
        let counters = two.small.engine.counters();
        [&counters.hit_bytes, &counters.miss_bytes, &counters.origin_requests].map(Counters::get)
    };
    let before = counters(&two);
    for (path, is_folder, files, sum, block_bytes, cached) in [
        ("", true, 3, 314_000, BLOCK_BYTES.iter().sum(), BLOCK_BYTES[1]),
        (
            "train",
            true,
            2,
            305_000,
            BLOCK_BYTES[1] + BLOCK_BYTES[2],
            BLOCK_BYTES[1],
        ),
        ("/train/a/", false, 1, 300_000, BLOCK_BYTES[1], BLOCK_BYTES[1]),
        ("train/b", false, 1, 5000, BLOCK_BYTES[2], 0),
        ("labels", false, 1, 9000, BLOCK_BYTES[0], 0),
    ] {
        let stated = two.stat("n/small", path).await.unwrap();
        let seen = (stated.is_folder, stated.files, stated.bytes, stated.block_bytes);
        assert_eq!(seen, (is_folder, files, sum, block_bytes), "{path}");
        assert_eq!(bytes(&stated.cached), [cached, 0], "{path}");
    }
    assert_eq!(bytes(&two.stat("n/large", "").await.unwrap().cached), [0, 0]);
    assert_eq!(counters(&two), before);
    for (dataset, path, code, said) in [
        ("n/none", "", Code::NotFound, "was not told of a Dataset \"n/none\""),
        ("small", "", Code::NotFound, "was not told of a Dataset \"small\""),
        (
            "n/small",
            "train/c",
            Code::NotFound,
            "has no \"train/c\"; \"train\" has \"a\", \"b\"",
        ),
    ] {
        let status = two.stat(dataset, path).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(said), "{status}");
    }
    // Nothing has been opened yet by a process that has just begun.
    two.small.engine = two.small.restarted();
    two.announce(Rules::default());
    let stated = two.small.engine.stat("n/small", "train", &|| true).unwrap();
    assert_eq!(stated.cached_bytes, [BLOCK_BYTES[1], 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evicted_for_a_person_is_gone_alone_and_comes_again_when_it_is_read() {
    let two = Two::with(3 * MIB, &[100 * MIB]).await;
    for key in ["labels", "train/a", "train/b"] {
        two.read_small(key).await;
    }
    two.read_large(0..3).await;
    let engine = &two.small.engine;
    let asked_for = || Counters::get(&engine.counters().evicted_bytes[Cause::Asked as usize]);
    assert_eq!((Cause::Asked.name(), asked_for()), ("asked", 0));
    let evicted = two
        .client
        .clone()
        .evict(at("n/small", "train"))
        .await
        .unwrap()
        .into_inner();
    let train = BLOCK_BYTES[1] + BLOCK_BYTES[2];
    assert_eq!((evicted.bytes, evicted.pinned_bytes, asked_for()), (train, 0, train));
    assert_eq!(engine.report().tiers[0].used_bytes, BLOCK_BYTES[0] + 3 * MIB);
    let again = two
        .client
        .clone()
        .evict(at("n/small", "train"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.bytes, 0);
    let sent = two.small.origin.asked_bytes();
    for _ in 0..2 {
        two.read_small("train/a").await;
    }
    assert_eq!(
        two.small.origin.asked_bytes() - sent,
        300_000,
        "fetched again, and kept"
    );
    // What is pinned is pinned again.
    let all = two.client.clone().evict(at("n/small", "")).await.unwrap().into_inner();
    assert_eq!(
        (all.bytes, all.pinned_bytes),
        (BLOCK_BYTES[0] + BLOCK_BYTES[1], BLOCK_BYTES[0])
    );
    assert_eq!(engine.holdings().datasets[1].pinned_bytes, 0);
    two.read_small("labels").await;
    assert_eq!(engine.holdings().datasets[1].pinned_bytes, BLOCK_BYTES[0]);
    assert_eq!(bytes(&two.stat("n/large", "").await.unwrap().cached), [3 * MIB]);
    let status = two.client.clone().evict(at("n/small", "none")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_when_a_person_looks_for_it_and_goes() {
    let two = Two::with(3 * MIB, &[100 * MIB, 100 * MIB]).await;
    for key in ["labels", "train/a", "train/b"] {
        two.read_small(key).await;
    }
    two.read_large(0..3).await;
    let space = two.small.package.space();
    let data = two.small.folder.path().join(format!("v1/{space}/0.data"));
    let place = two.small.extent("train/a").address + 4096 * 5;
    OpenOptions::new()
        .write(true)
        .open(data)
        .unwrap()
        .write_all_at(b"damage", place)
        .unwrap();
    let seen = |verified: wire::VerifyProgress| {
        let found = (verified.damaged_blocks, verified.evicted_bytes);
        (verified.total_bytes, verified.compared_bytes, found)
    };
    for (dataset, path, compared) in [
        ("n/small", "train/b", BLOCK_BYTES[2]),
        ("n/small", "labels", BLOCK_BYTES[0]),
        ("n/large", "", 3 * MIB),
    ] {
        assert_eq!(seen(two.verify(dataset, path).await), (0, compared, (0, 0)), "{path}");
    }
    let all = BLOCK_BYTES.iter().sum::<u64>() + 3 * MIB;
    let damage = (1, BLOCK_BYTES[1]);
    assert_eq!(seen(two.verify("", "").await), (all, all, damage));
    let counters = two.small.engine.counters();
    assert_eq!(Counters::get(&counters.damaged_blocks), 1);
    assert_eq!(
        Counters::get(&counters.evicted_bytes[Cause::Damaged as usize]),
        BLOCK_BYTES[1]
    );
    two.read_small("train/a").await;
    assert_eq!(seen(two.verify("n/small", "").await), (0, all - 3 * MIB, (0, 0)));
    let mut refused = two.client.clone().verify(at("n/none", "")).await.unwrap().into_inner();
    assert_eq!(refused.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_a_file_is_explained_from_its_way_to_its_place() {
    // Large enough for something to be fetched ahead.
    let two = Two::with(20 * MIB, &[1 << 30]).await;
    assert_eq!(two.parts().await, [(20, State::Unread)]);
    // Bodies stop after the first piece.
    two.large.allow(1);
    let (engine, package) = (two.small.engine.clone(), two.package.clone());
    let reading = tokio::spawn(async move { read(&engine, &package, BlockRange::new(0, MIB).unwrap()).await });
    let begun = Instant::now();
    let coming = [(1, State::Coming), (2, State::ComingBy), (17, State::Unread)];
    while two.parts().await != coming {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", two.parts().await);
    }
    two.large.allow(u64::MAX);
    reading.await.unwrap().unwrap();
    // Read, and fetched ahead.
    let arrived = [(1, State::Kept), (2, State::Passing), (17, State::Unread)];
    while two.parts().await != arrived {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", two.parts().await);
    }
    let explained = two.explain("n/large", "object", 0).await.unwrap();
    assert_eq!(explained.ranges[0].tier, "tier-0");
    assert_eq!(
        (explained.source.as_str(), explained.key.as_str()),
        ("generated://", "object")
    );
    assert_eq!((explained.bytes, explained.next_offset), (20 * MIB, 0));
    // From the middle on, and what is pinned.
    let rest = two.explain("n/large", "object", 2 * MIB).await.unwrap();
    let offsets: Vec<_> = rest.ranges.iter().map(|range| (range.offset, range.bytes)).collect();
    assert_eq!(offsets, [(2 * MIB, MIB), (3 * MIB, 17 * MIB)]);
    two.read_small("labels").await;
    let labels = two.explain("n/small", "labels", 0).await.unwrap();
    let pinned: Vec<_> = labels.ranges.iter().map(|range| (range.bytes, range.state())).collect();
    assert_eq!(pinned, [(9000, State::Pinned)]);
    let rule = labels.rule.unwrap();
    assert_eq!((rule.path.as_str(), rule.pin, rule.priority), ("labels", true, 50));
    let train = two.explain("n/small", "train/a", 0).await.unwrap();
    let rule = train.rule.unwrap();
    assert_eq!((rule.path.as_str(), rule.pin), ("", false));
    let status = two.explain("n/small", "train", 0).await.unwrap_err();
    assert!(
        status.code() == Code::InvalidArgument && status.message().contains("is a folder"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_part_is_missing_is_told_as_far_as_it_is_known() {
    let two = Two::with(40 * MIB, &[20 * MIB]).await;
    two.read_large(0..40).await;
    let why = async |dataset: &str, path: &str| {
        let explained = two.explain(dataset, path, 0).await.unwrap();
        explained.ranges.last().unwrap().state()
    };
    // The room of one Dataset is used up, that of the other is not.
    let states: Vec<State> = two.parts().await.iter().map(|(_, state)| *state).collect();
    assert!(
        states.contains(&State::Contested) && !states.contains(&State::Unread),
        "{states:?}"
    );
    assert_eq!(why("n/small", "train/a").await, State::Unread);
    two.read_small("train/a").await;
    assert_eq!(why("n/small", "train/a").await, State::Kept, "as it was promised");
    two.small.origin.put("train/b", content(9, 5000));
    two.small.read("train/b").await.unwrap_err();
    for (path, has_drifted) in [("train/a", false), ("train/b", true)] {
        let explained = two.explain("n/small", path, 0).await.unwrap();
        assert_eq!(explained.has_drifted, has_drifted, "{path}");
    }
    // Nobody knows where it is from, as after a restart without the operator.
    let without_source = two.datasets(Rules::default()).map(|dataset| Dataset {
        origins: Vec::new(),
        ..dataset
    });
    two.small.engine.set_datasets(&without_source, false);
    assert_eq!(why("n/small", "train/b").await, State::NoSource);
    two.small.engine.set_capacities(&[("tier-0".into(), 0)]);
    assert_eq!(why("n/small", "train/b").await, State::NoTier);
    two.small.engine.set_owned(Some(Box::new(|_, _| false)), 2);
    assert_eq!(why("n/small", "train/b").await, State::Others);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_many_stripes_is_explained_in_parts_with_the_node_that_each_belongs_to() {
    let bytes = 300 * STRIPE_BYTES + 5;
    let two = Two::with(bytes, &[100 * MIB]).await;
    let member = |name: String| wire::Member {
        name,
        address: "127.0.0.1:1".into(),
        weight: 1,
    };
    let config = wire::NodeConfig {
        ring_epoch: 1,
        members: vec![member(Node::name()), member("peer".into())],
        ..Default::default()
    };
    two.node.apply(config).await.unwrap();
    two.announce(Rules::default());
    let mut ranges = Vec::new();
    let mut offset = 0;
    let mut answers = 0;
    loop {
        let explained = two.explain("n/large", "object", offset).await.unwrap();
        ranges.extend(explained.ranges);
        offset = explained.next_offset;
        answers += 1;
        if offset == 0 {
            break;
        }
    }
    assert_eq!(answers, 2);
    let ring = two.node.ring();
    let mut owners = std::collections::BTreeSet::new();
    let mut end = 0;
    for range in &ranges {
        assert_eq!(range.offset, end);
        end += range.bytes;
        for stripe in range.offset / STRIPE_BYTES..end.div_ceil(STRIPE_BYTES) {
            assert_eq!(ring.owners(&two.package.space(), stripe)[0].name, range.owner);
        }
        let is_own = range.owner == Node::name();
        assert_eq!(
            range.state(),
            if is_own { State::Unread } else { State::Others },
            "{range:?}"
        );
        owners.insert(&range.owner);
    }
    assert_eq!((end, owners.len()), (bytes, 2));
}
