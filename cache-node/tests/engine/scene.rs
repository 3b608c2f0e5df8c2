//! An engine over a fake origin with a revision of its objects.

use std::path::Path;
use std::sync::Arc;

use penstock_cache_node::memory::Budget;
use penstock_cache_node::rules::Rules;
use penstock_cache_node::{Dataset, Engine, EngineConfig, ReadError, TierConfig};
use penstock_origin::Origin;
use penstock_origin::fake::FakeOrigin;
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Extent, Outcome, Package, Scratch, SourceListing, build};

use crate::generated::byte;

pub struct Scene {
    pub origin: FakeOrigin,
    pub engine: Engine,
    pub package: Package,
    pub folder: tempfile::TempDir,
    pub tiers: Vec<TierConfig>,
    pub rules: Rules,
}

/// Bytes that differ from block to block.
pub fn content(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| byte(seed, at)).collect()
}

impl Scene {
    pub async fn with(objects: &[(&str, usize)]) -> Self {
        Self::with_capacity(objects, 1 << 40).await
    }

    pub async fn with_capacity(objects: &[(&str, usize)], capacity_bytes: u64) -> Self {
        Self::with_tiers(objects, &[capacity_bytes]).await
    }

    /// With tiers of these capacities.
    pub async fn with_tiers(objects: &[(&str, usize)], capacities: &[u64]) -> Self {
        let origin = FakeOrigin::default();
        for (seed, (key, bytes)) in objects.iter().enumerate() {
            origin.put(key, content(seed as u64, *bytes));
        }
        let listing = SourceListing {
            identity: origin.identity(),
            path: String::new(),
            objects: origin.list_all().await.unwrap(),
        };
        let Outcome::New(package) = build(SpaceId([5; 16]), None, &[listing], &BuildOptions::default()).unwrap() else {
            panic!("a first revision is new")
        };
        // On a disk, unlike /tmp of many machines.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let tiers = tiers(folder.path(), capacities);
        let engine = Engine::open(EngineConfig {
            tiers: tiers.clone(),
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })
        .unwrap();
        let scene = Self {
            origin,
            engine,
            package,
            folder,
            tiers,
            rules: Rules::default(),
        };
        scene.announce(&scene.engine);
        scene
    }

    /// The same folders in a new engine, as after a restart.
    pub fn restarted(&self) -> Engine {
        let tiers = self.tiers.clone();
        let engine = Engine::open(EngineConfig {
            tiers,
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })
        .unwrap();
        self.announce(&engine);
        engine
    }

    /// Makes the revision readable, by the rules as they are now.
    pub fn announce(&self, engine: &Engine) {
        let dataset = Dataset {
            uid: "d".into(),
            name: "d".into(),
            rules: self.rules.clone(),
            origins: vec![Arc::new(self.origin.clone())],
            revisions: vec![self.package.clone()],
        };
        engine.set_datasets(&[dataset], false);
    }

    pub fn extent(&self, key: &str) -> Extent {
        self.package
            .all_extents()
            .map(Result::unwrap)
            .find(|extent| extent.object.key == key)
            .unwrap()
    }

    /// Reads an object through an engine.
    pub async fn read_with(&self, engine: &Engine, key: &str) -> Result<Vec<u8>, ReadError> {
        let extent = self.extent(key);
        let mut bytes = Vec::new();
        for range in BlockRange::covering(extent.address, extent.bytes) {
            bytes.extend(read(engine, &self.package, range).await?);
        }
        bytes.truncate(extent.bytes as usize);
        Ok(bytes)
    }

    pub async fn read(&self, key: &str) -> Result<Vec<u8>, ReadError> {
        self.read_with(&self.engine, key).await
    }
}

/// Reads a range and checks that the checksums that came with it are those of the bytes.
pub async fn read(engine: &Engine, package: &Package, range: BlockRange) -> Result<Vec<u8>, ReadError> {
    let (mut bytes, mut sums) = (vec![0xAA; range.bytes() as usize], vec![0; range.block_count()]);
    engine.read(&package.id(), range, &mut bytes, Some(&mut sums)).await?;
    assert_eq!(
        penstock_protocol::checksum::first_mismatch(&package.space(), range.address(), &bytes, &sums),
        None
    );
    Ok(bytes)
}

/// `tier-0`, the fastest, in `folder`, and `tier-1` and so on in folders of their own below it.
pub fn tiers(folder: &Path, capacities: &[u64]) -> Vec<TierConfig> {
    let tier = |(number, capacity_bytes): (usize, &u64)| TierConfig {
        name: format!("tier-{number}"),
        path: if number == 0 {
            folder.into()
        } else {
            folder.join(number.to_string())
        },
        capacity_bytes: Some(*capacity_bytes),
    };
    capacities.iter().enumerate().map(tier).collect()
}
