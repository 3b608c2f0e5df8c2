//! A mounter beside a cache node: what it reads from files that were handed over, and what it does not.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use penstock_cache_client::CacheClient;
use penstock_cache_node::Engine;
use penstock_cache_node::report::{Cause, Counters};
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::neighbour;
use penstock_cache_node::server::node::Node;
use penstock_descriptors as descriptors;
use penstock_mounter::remote::RemoteSpace;
use penstock_mounter::{Metrics, Neighbours, SpaceReader, TryRead};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::neighbour::{FromCacheNode, Opened, from_cache_node};
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use penstock_revision::Package;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::generated::{Generated, bytes};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A cache node and a reader on one machine.
struct Beside {
    origin: Generated,
    package: Package,
    engine: Engine,
    reader: RemoteSpace,
    metrics: Metrics,
    folder: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl Beside {
    /// The cache node listens for neighbours too.
    async fn start(object_bytes: u64) -> Self {
        let beside = Self::silent(object_bytes).await;
        neighbour::serve(beside.engine.clone(), &beside.socket()).unwrap();
        beside
    }

    /// Nobody listens for neighbours yet.
    async fn silent(object_bytes: u64) -> Self {
        Self::with_capacity(object_bytes, 1 << 40).await
    }

    /// The same, with a tier of so many bytes.
    async fn with_capacity(object_bytes: u64, capacity_bytes: u64) -> Self {
        let origin = Generated::one(object_bytes);
        let package = origin.package().await;
        // On a disk, unlike /tmp of many machines.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir_all(folder.path().join("neighbours/127.0.0.1")).unwrap();
        let empty = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let engine = origin.engine(&package, &folder.path().join("tier"), capacity_bytes);
        let node = Node::open(engine.clone(), &[empty.path().into()], None).unwrap();
        let config = wire::NodeConfig {
            generation: 1,
            ring_epoch: 1,
            members: vec![wire::Member {
                name: "beside".into(),
                address: address.clone(),
                weight: 1,
            }],
            datasets: Vec::new(),
            ..Default::default()
        };
        node.apply(config).await.unwrap();
        Generated::announce(&[&origin], &package, &engine);
        let metrics = Metrics::default();
        let runtime = tokio::runtime::Handle::current();
        let reader = RemoteSpace::new(
            CacheClient::new(vec![address], PATIENCE),
            (package.id(), package.space()),
            PATIENCE,
            &Neighbours::new(folder.path().join("neighbours"), 64, runtime),
            metrics.clone(),
        );
        Self {
            origin,
            package,
            engine,
            reader,
            metrics,
            folder,
            serving: tokio::spawn(BulkServer::new(node).serve(listener)),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("neighbours/127.0.0.1/socket")
    }

    fn file(&self, stripe: u64, ending: &str) -> PathBuf {
        self.folder
            .path()
            .join(format!("tier/v1/{}/{stripe}.{ending}", self.package.space()))
    }

    /// Looks into the files; what is found has to be right.
    fn look(&self, range: BlockRange) -> TryRead {
        let mut into = vec![0xAA; range.bytes() as usize];
        let look = self.reader.try_read(range, &mut into);
        assert!(look == TryRead::Miss || into == bytes(range.address()..range.end()));
        look
    }

    /// Reads over the network.
    async fn fetch(&self, range: BlockRange) {
        let mut into = vec![0xAA; range.bytes() as usize];
        self.reader.read(range, &mut into).await.unwrap();
        assert!(into == bytes(range.address()..range.end()));
    }

    /// Reads until the files are open.
    async fn open(&self, range: BlockRange) {
        let begun = Instant::now();
        while self.look(range) == TryRead::Miss {
            self.fetch(range).await;
            assert!(begun.elapsed() < PATIENCE, "the files of {range:?} are never read");
        }
    }

    /// Reads until the files are open, which the one who listens hands over.
    async fn open_by(&self, listener: &OwnedFd, range: BlockRange) -> OwnedFd {
        let answering = async {
            let (listener, engine) = (listener.try_clone().unwrap(), self.engine.clone());
            let (revision, stripe) = (self.package.id(), range.stripe());
            let answer = move || {
                let peer = descriptors::accept_peer(listener.as_fd()).unwrap();
                descriptors::receive(peer.as_fd()).unwrap().unwrap();
                let [data, side] = engine.stripe_files(&revision, stripe).pop().unwrap();
                let letter = Some(from_cache_node::Letter::Opened(Opened {}));
                let answer = FromCacheNode { letter }.encode_to_vec();
                descriptors::send(peer.as_fd(), &answer, &[data.as_fd(), side.as_fd()]).unwrap();
                peer
            };
            tokio::task::spawn_blocking(answer).await.unwrap()
        };
        tokio::join!(answering, self.open(range)).0
    }

    fn bytes_nearby(&self) -> u64 {
        let text = self.metrics.text();
        let line = text
            .lines()
            .find(|line| line.starts_with("penstock_mounter_nearby_bytes_total "));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn range(address: u64, bytes: u64) -> BlockRange {
    BlockRange::new(address, bytes).unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_beside_a_mounter_is_read_from_its_files_and_counted() {
    let beside = Beside::start(200 * MIB).await;
    assert_eq!(beside.look(range(0, MIB)), TryRead::Miss);
    beside.open(range(0, MIB)).await;
    let (asked, heard) = (
        beside.origin.asked_bytes(),
        Counters::get(&beside.engine.counters().hit_bytes),
    );
    for at in (0..MIB).step_by(4096) {
        assert_eq!(beside.look(range(at, 4096)), TryRead::Hit);
    }
    assert_eq!(beside.look(range(32 * MIB, MIB)), TryRead::Miss, "nobody has read it");
    assert_eq!(beside.look(range(3 * STRIPE_BYTES - MIB, 4096)), TryRead::Miss);
    assert_eq!(beside.origin.asked_bytes(), asked);
    assert_eq!(beside.bytes_nearby(), 2 * MIB);
    until("the cache node hears what was read", || {
        beside.look(range(0, 4096));
        Counters::get(&beside.engine.counters().hit_bytes) >= heard + MIB
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_window_is_on_its_way_before_a_sequential_reader_of_files_needs_it() {
    let beside = Beside::start(256 * MIB).await;
    let mut stalls = 0;
    for at in (0..256 * MIB).step_by(MIB as usize) {
        let range = range(at, MIB);
        let on_its_way = beside.origin.asked().iter().any(|range| range.contains(&at));
        let heard = Counters::get(&beside.engine.counters().hit_bytes);
        if beside.look(range) == TryRead::Miss {
            stalls += u32::from(!on_its_way);
            beside.fetch(range).await;
            continue;
        }
        // It works with what it read for so long, now and then looking at it once more.
        until("the cache node hears of it", || {
            beside.look(range);
            Counters::get(&beside.engine.counters().hit_bytes) > heard
        })
        .await;
    }
    assert!(
        stalls <= 8,
        "{stalls} times a reader came to bytes that nobody had asked for"
    );
    assert!(
        beside.bytes_nearby() > 128 * MIB,
        "{} bytes came from files",
        beside.bytes_nearby()
    );
    assert_eq!(beside.origin.asked_bytes(), 256 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_cut_in_the_files_is_no_hit_and_is_made_good() {
    let beside = Beside::start(8 * MIB).await;
    let piece = range(0, MIB);
    beside.open(piece).await;
    let data = File::options().write(true).open(beside.file(0, "data")).unwrap();
    data.write_all_at(b"damaged", 5000).unwrap();
    assert_eq!(beside.look(piece), TryRead::Miss);
    assert_eq!(beside.look(range(0, 4096)), TryRead::Hit, "another block");
    beside.open(piece).await;

    data.set_len(0).unwrap();
    assert_eq!(beside.look(piece), TryRead::Miss);
    beside.fetch(piece).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_while_their_cache_node_is_away_and_asked_for_again_when_it_is_back() {
    let beside = Beside::silent(200 * MIB).await;
    let listener = descriptors::listen_at(&beside.socket()).unwrap();
    let asked = beside.open_by(&listener, range(0, MIB)).await;
    // Its process ends.
    drop((asked, listener));
    beside.serving.abort();
    for _ in 0..1000 {
        assert_eq!(beside.look(range(0, MIB)), TryRead::Hit);
    }

    let beside = Beside::silent(200 * MIB).await;
    let listener = descriptors::listen_at(&beside.socket()).unwrap();
    let asked = beside.open_by(&listener, range(0, MIB)).await;
    drop((asked, listener));
    neighbour::serve(beside.engine.clone(), &beside.socket()).unwrap();
    beside.open(range(100 * MIB, MIB)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_node_that_hangs_keeps_nobody_waiting() {
    let beside = Beside::silent(200 * MIB).await;
    let listener = descriptors::listen_at(&beside.socket()).unwrap();
    let asked = beside.open_by(&listener, range(0, MIB)).await;
    // It takes every letter from now on and answers none.
    let begun = Instant::now();
    for at in (0..128 * MIB).step_by(MIB as usize) {
        if beside.look(range(at, MIB)) == TryRead::Miss {
            beside.fetch(range(at, MIB)).await;
        }
        assert_eq!(beside.look(range(0, MIB)), TryRead::Hit);
    }
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    drop((asked, listener));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_has_no_more_files_open_than_it_may() {
    let beside = Beside::start(1024 * MIB).await;
    let open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let ours = targets.filter(|target| target.starts_with(beside.folder.path().join("tier")));
        ours.count()
    };
    for stripe in 0..16 {
        beside.open(range(stripe * STRIPE_BYTES, 4096)).await;
    }
    // Two of the cache node and, of the 4 of a reader that may have 64 descriptors, two each.
    // What it lets go of is closed by another thread.
    until("it closes what was used longest ago", || open() == 16 * 2 + 4 * 2).await;
    assert_eq!(beside.look(range(15 * STRIPE_BYTES, 4096)), TryRead::Hit);
    assert_eq!(beside.look(range(0, 4096)), TryRead::Miss, "it was used longest ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_node_that_lies_is_not_believed_and_its_blocks_come_over_the_network() {
    let beside = Beside::silent(200 * MIB).await;
    beside.fetch(range(0, MIB)).await;
    beside.fetch(range(STRIPE_BYTES, MIB)).await;
    let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
    let open = |stripe| beside.engine.stripe_files(&beside.package.id(), stripe).pop().unwrap();
    let folder = OwnedFd::from(File::open(beside.folder.path()).unwrap());
    let opened = || from_cache_node::Letter::Opened(Opened {});
    let ([data, side], [_, other]) = (open(0), open(1));
    let with_access_time = File::open(beside.file(0, "data")).unwrap();
    let lies: [(_, Vec<BorrowedFd<'_>>); 9] = [
        (Some(opened()), vec![with_access_time.as_fd(), side.as_fd()]),
        (Some(opened()), vec![]),
        (Some(opened()), vec![data.as_fd()]),
        (Some(opened()), vec![data.as_fd(), side.as_fd(), side.as_fd()]),
        (Some(opened()), vec![pipe.as_fd(), side.as_fd()]),
        (Some(opened()), vec![data.as_fd(), pipe.as_fd()]),
        (Some(opened()), vec![folder.as_fd(), side.as_fd()]),
        (Some(opened()), vec![data.as_fd(), other.as_fd()]),
        (None, vec![data.as_fd(), side.as_fd()]),
    ];
    let listener = descriptors::listen_at(&beside.socket()).unwrap();
    // One that is believed is not followed by another question.
    descriptors::be_patient(listener.as_fd(), Some(PATIENCE), None).unwrap();
    thread::scope(|scope| {
        let told = scope.spawn(|| {
            // And the truth at last: the lies are not held against it.
            let truth = (Some(opened()), vec![data.as_fd(), side.as_fd()]);
            for (letter, files) in lies.into_iter().chain([truth]) {
                let peer = descriptors::accept_peer(listener.as_fd()).unwrap();
                descriptors::receive(peer.as_fd()).unwrap().unwrap();
                let answer = FromCacheNode { letter }.encode_to_vec();
                // An empty packet is the end of a connection.
                let answer = if answer.is_empty() { b"\xff".to_vec() } else { answer };
                descriptors::send(peer.as_fd(), &answer, &files).unwrap();
            }
        });
        let runtime = tokio::runtime::Handle::current();
        while !told.is_finished() {
            tokio::task::block_in_place(|| runtime.block_on(beside.fetch(range(0, MIB))));
        }
    });
    beside.open(range(0, MIB)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cache_node_does_not_have_it_does_not_hand_over() {
    let beside = Beside::start(8 * MIB).await;
    beside.fetch(range(0, MIB)).await;
    assert!(beside.engine.stripe_files(&beside.package.id(), 0).len() == 1);
    assert!(beside.engine.stripe_files(&beside.package.id(), 1).is_empty());
    let unknown = penstock_protocol::ids::RevisionId([9; 32]);
    assert!(beside.engine.stripe_files(&unknown, 0).is_empty());
    let [data, _side] = beside.engine.stripe_files(&beside.package.id(), 0).pop().unwrap();
    assert!(data.write_at(b"x", 0).is_err(), "it is for reading");

    beside.open(range(0, MIB)).await;
    beside.engine.set_datasets(&[], false);
    assert_eq!(beside.look(range(0, MIB)), TryRead::Miss, "it was removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evicted_while_it_is_sent_or_read_from_files_is_never_wrong() {
    const OBJECT: u64 = 128 * MIB;
    let beside = Beside::with_capacity(OBJECT, 32 * MIB).await;
    neighbour::serve(beside.engine.clone(), &beside.socket()).unwrap();
    let reading = (0..4).map(|reader| {
        let beside = &beside;
        async move {
            let mut random = StdRng::seed_from_u64(reader);
            for _ in 0..400 {
                // Some is read again and again.
                let among = if random.random_bool(0.5) { OBJECT / 16 } else { OBJECT };
                let bytes = random.random_range(1..=256) * 4096;
                let address = random.random_range(0..(among - bytes) / 4096) * 4096;
                let range = BlockRange::covering(address, bytes).next().unwrap();
                if beside.look(range) == TryRead::Miss {
                    beside.fetch(range).await;
                }
            }
        }
    });
    futures::future::join_all(reading).await;
    let counters = beside.engine.counters();
    let (evicted, hit) = (
        Counters::get(&counters.evicted_bytes[Cause::Room as usize]),
        Counters::get(&counters.hit_bytes),
    );
    assert!(
        evicted > 8 * MIB && hit > 8 * MIB,
        "{evicted} bytes were evicted, {hit} were hits"
    );
    // What is being sent keeps its place, so that nobody takes an eviction for damage.
    assert_eq!(Counters::get(&counters.damaged_blocks), 0);
    let tier = &beside.engine.report().tiers[0];
    assert!(tier.used_bytes <= tier.capacity_bytes, "{tier:?}");
}
