//! A Dataset that takes its files of another one: what its pods read, and that nothing is cached twice.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use penstock_cache_node::limits::OTHER_PACKAGES_MAX;
use penstock_cache_node::memory::Budget;
use penstock_cache_node::other_dataset::{OtherDataset, OtherPackages};
use penstock_cache_node::rules::Rules;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_cache_node::{Dataset, Engine, EngineConfig, ReadError};
use penstock_origin::fake::FakeOrigin;
use penstock_origin::{Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Outcome, Package, Scratch, SourceListing, build};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::scene::{Scene, content, read, tiers};

/// Every fetch of one kind takes less, unless one waits for the other for ever.
const PATIENCE: Duration = Duration::from_secs(40);

/// A cache node that serves the other Dataset.
struct Lender {
    scene: Scene,
    address: String,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Lender {
    async fn with(scene: Scene) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(scene.engine.clone(), &[folder.path().into()], None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let member = wire::Member {
            name: "lender".into(),
            address: address.clone(),
            weight: 1,
        };
        let config = wire::NodeConfig {
            ring_epoch: 1,
            members: vec![member],
            ..Default::default()
        };
        node.apply(config).await.unwrap();
        scene.announce(&scene.engine);
        Self {
            serving: tokio::spawn(BulkServer::new(node).serve(listener)),
            scene,
            address,
            _folder: folder,
        }
    }

    /// What is told of it while it serves these revisions, the newest first.
    fn told(&self, path: &str, revisions: &[&Package]) -> OtherDataset {
        self.told_with(path, revisions, OtherPackages::default())
    }

    fn told_with(&self, path: &str, revisions: &[&Package], packages: OtherPackages) -> OtherDataset {
        let told = wire::OtherDataset {
            uid: "u".into(),
            namespace: "n".into(),
            name: "lender".into(),
            path: path.into(),
            cache_nodes: vec![self.address.clone()],
            revisions: revisions.iter().map(|package| package.id().0.to_vec()).collect(),
        };
        OtherDataset::new(told, packages, None)
    }

    /// A revision of its origin as it is now, that goes on with the newest of these. All are served from here on, the newest first.
    async fn next_revision(&self, before: &[&Package]) -> Package {
        let listing = listing(&self.scene.origin).await;
        let built = build(
            SpaceId([6; 16]),
            before.first().copied(),
            &[listing],
            &BuildOptions::default(),
        );
        let Outcome::New(next) = built.unwrap() else {
            panic!("something has changed")
        };
        let served: Vec<&Package> = std::iter::once(&next).chain(before.iter().copied()).collect();
        let served = dataset("lender", &self.scene.origin, &served);
        self.scene.engine.set_datasets(&[served], false);
        next
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn listing(origin: &(impl Origin + Clone)) -> SourceListing {
    SourceListing {
        identity: origin.identity(),
        path: String::new(),
        objects: origin.list_all().await.unwrap(),
    }
}

async fn revision_of(origin: &OtherDataset, parent: Option<&Package>) -> Outcome {
    let listing = listing(origin).await;
    build(SpaceId([9; 16]), parent, &[listing], &BuildOptions::default()).unwrap()
}

async fn first_revision_of(origin: &OtherDataset) -> Package {
    match revision_of(origin, None).await {
        Outcome::New(package) => package,
        Outcome::Unchanged => panic!("a first revision is new"),
    }
}

fn dataset(uid: &str, origin: &(impl Origin + Clone), revisions: &[&Package]) -> Dataset {
    Dataset {
        uid: uid.into(),
        name: uid.into(),
        rules: Rules::default(),
        origins: vec![Arc::new(origin.clone())],
        revisions: revisions.iter().map(|package| (*package).clone()).collect(),
    }
}

/// A cache node of its own for who takes the files.
fn taker(folder: &tempfile::TempDir, origin: &OtherDataset, package: &Package) -> Engine {
    let engine = Engine::open(EngineConfig {
        tiers: tiers(folder.path(), &[1 << 40]),
        memory: Budget::default(),
        scratch: Scratch::memory(),
    })
    .unwrap();
    engine.set_datasets(&[dataset("taker", origin, &[package])], false);
    engine
}

async fn read_file(engine: &Engine, package: &Package, key: &str) -> Result<Vec<u8>, ReadError> {
    let extent = package.all_extents().map(Result::unwrap);
    let extent = extent.into_iter().find(|extent| extent.object.key == key).unwrap();
    let mut bytes = Vec::new();
    for range in BlockRange::covering(extent.address, extent.bytes) {
        bytes.extend(read(engine, package, range).await?);
    }
    bytes.truncate(extent.bytes as usize);
    Ok(bytes)
}

fn cached_bytes(engine: &Engine) -> u64 {
    engine.report().spaces.iter().map(|(_, bytes)| bytes).sum()
}

const OBJECTS: [(&str, usize); 4] = [
    ("raw/large", 5_000_001),
    ("raw/small", 70_000),
    ("raw/deep/tiny", 3),
    ("other/out", 9000),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_dataset_come_out_of_its_cache_and_are_not_cached_twice() {
    let lender = Lender::with(Scene::with(&OBJECTS).await).await;
    let origin = lender.told("raw", &[&lender.scene.package]);
    let package = first_revision_of(&origin).await;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let taker = taker(&folder, &origin, &package);
    for _epoch in 0..2 {
        for (seed, (key, bytes)) in (0..).zip(&OBJECTS[..3]) {
            let name = key.strip_prefix("raw/").unwrap();
            let got = read_file(&taker, &package, name).await.unwrap();
            assert!(got == content(seed, *bytes), "{name}");
        }
    }
    assert_eq!(package.summary().files, 3, "only what is in the folder");
    let all: u64 = OBJECTS[..3].iter().map(|(_, bytes)| *bytes as u64).sum();
    assert_eq!(lender.scene.origin.asked_bytes(), all, "the origin was asked once");
    assert_eq!(cached_bytes(&taker), 0, "a second copy");
    assert!(cached_bytes(&lender.scene.engine) >= all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_elsewhere_in_the_other_dataset_changes_nothing() {
    let lender = Lender::with(Scene::with(&OBJECTS).await).await;
    let before = first_revision_of(&lender.told("raw", &[&lender.scene.package])).await;
    lender.scene.origin.put("other/out", content(70, 9001));
    let first = &lender.scene.package;
    let next = lender.next_revision(&[first]).await;
    let origin = lender.told("raw", &[&next, first]);
    assert!(matches!(revision_of(&origin, Some(&before)).await, Outcome::Unchanged));

    lender.scene.origin.put("raw/small", content(71, 70_000));
    let last = lender.next_revision(&[&next, first]).await;
    let origin = lender.told("raw", &[&last, &next, first]);
    let Outcome::New(after) = revision_of(&origin, Some(&before)).await else {
        panic!("a file of the folder has changed")
    };
    let address = |package: &Package, key: &str| {
        let mut extents = package.all_extents().map(Result::unwrap);
        extents.find(|extent| extent.object.key == key).unwrap().address
    };
    assert_eq!(address(&before, "large"), address(&after, "large"));
    assert_ne!(address(&before, "small"), address(&after, "small"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_file_is_read_as_long_as_the_other_dataset_serves_it_and_never_as_zeros() {
    let lender = Lender::with(Scene::with(&OBJECTS).await).await;
    let first = &lender.scene.package;
    let package = first_revision_of(&lender.told("raw", &[first])).await;
    lender.scene.read("raw/small").await.unwrap();
    lender.scene.origin.put("raw/small", content(71, 70_000));
    lender.scene.origin.remove("raw/large");
    let next = lender.next_revision(&[first]).await;

    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let engine = taker(&folder, &lender.told("raw", &[&next, first]), &package);
    let small = read_file(&engine, &package, "small").await.unwrap();
    assert!(small == content(1, 70_000), "it is cached as it was");
    let large = read_file(&engine, &package, "large").await.map(|bytes| bytes.len());
    assert!(matches!(large, Err(ReadError::Drifted(_))), "{large:?}");

    // The other Dataset has let the older revision go.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let engine = taker(&folder, &lender.told("raw", &[&next]), &package);
    let small = read_file(&engine, &package, "small").await.map(|bytes| bytes.len());
    let Err(ReadError::Drifted(said)) = small else {
        panic!("{small:?}")
    };
    assert!(said.contains("n/lender") && said.contains("small"), "{said}");
    assert_eq!(read_file(&engine, &package, "deep/tiny").await.unwrap(), content(2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_revision_long_ago_read_on_however_many_came_since() {
    let lender = Lender::with(Scene::with(&OBJECTS).await).await;
    let package = first_revision_of(&lender.told("raw", &[&lender.scene.package])).await;
    let mut revisions = vec![lender.scene.package.clone()];
    for number in 0..2 * OTHER_PACKAGES_MAX as u64 {
        lender.scene.origin.put("raw/small", content(80 + number, 70_000));
        let before: Vec<&Package> = revisions.iter().collect();
        let next = lender.next_revision(&before).await;
        revisions.insert(0, next);
    }
    let told: Vec<&Package> = revisions.iter().collect();
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let engine = taker(&folder, &lender.told("raw", &told), &package);
    for _again in 0..2 {
        assert_eq!(read_file(&engine, &package, "deep/tiny").await.unwrap(), content(2, 3));
        let small = read_file(&engine, &package, "small").await.map(|bytes| bytes.len());
        assert!(matches!(small, Err(ReadError::Drifted(_))), "{small:?}");
        let large = read_file(&engine, &package, "large").await.unwrap();
        assert!(large == content(0, 5_000_001));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_said_with_its_dataset() {
    let lender = Lender::with(Scene::with(&OBJECTS).await).await;
    let said = lender.told("nothing", &[&lender.scene.package]).list_all().await;
    let Err(OriginError::NotFound(said)) = said else {
        panic!("{said:?}")
    };
    assert!(
        said.contains("the Dataset n/lender has no folder \"nothing\""),
        "{said}"
    );
}

/// Fetches of one Dataset wait for those of the other on the very same node.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_caches_both_does_not_wait_for_itself() {
    let objects: Vec<(String, usize)> = (0..40).map(|number| (format!("{number:02}"), 1 << 20)).collect();
    let named: Vec<(&str, usize)> = objects.iter().map(|(key, bytes)| (key.as_str(), *bytes)).collect();
    let mut scene = Scene::with(&named).await;
    // With little memory, so that the fetches of either fill their room.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    scene.engine = Engine::open(EngineConfig {
        tiers: tiers(folder.path(), &[1 << 40]),
        memory: Budget::new(64 << 20).unwrap(),
        scratch: Scratch::memory(),
    })
    .unwrap();
    let lender = Lender::with(scene).await;
    let (engine, first) = (lender.scene.engine.clone(), lender.scene.package.clone());
    let origin = lender.told("", &[&first]);
    let package = first_revision_of(&origin).await;
    engine.set_datasets(
        &[
            dataset("lender", &FakeOrigin::clone(&lender.scene.origin), &[&first]),
            dataset("taker", &origin, &[&package]),
        ],
        false,
    );
    lender.scene.origin.answer_after(Duration::from_millis(20));
    let reads = named.iter().map(|(key, _)| read_file(&engine, &package, key));
    let read = tokio::time::timeout(PATIENCE, try_join_all(reads)).await;
    let read = read.expect("they wait for each other").unwrap();
    for (seed, bytes) in (0..).zip(read) {
        assert!(bytes == content(seed, 1 << 20), "{seed}");
    }
}

/// The files without names that this process has open in a folder.
fn unnamed_files(folder: &Path) -> Vec<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    open.filter(|path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(folder)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_of_another_dataset_lies_in_a_file_and_is_fetched_again_when_that_rots() {
    let lender = Lender::with(Scene::with(&OBJECTS).await).await;
    let folder = tempfile::tempdir().unwrap();
    let packages = OtherPackages::new(Scratch::folder(folder.path()));
    let origin = lender.told_with("raw", &[&lender.scene.package], packages);
    assert_eq!(listing(&origin).await.objects.len(), 3);
    let files = unnamed_files(folder.path());
    assert_eq!(files.len(), 1, "{files:?}");
    let file = std::fs::File::options().write(true).open(&files[0]).unwrap();
    file.write_all_at(&[0; 64], lender.scene.package.bytes() - 64).unwrap();
    let refused = origin.list_all().await.unwrap_err().to_string();
    assert!(refused.contains("cannot be read"), "{refused}");
    assert_eq!(listing(&origin).await.objects.len(), 3);
}
