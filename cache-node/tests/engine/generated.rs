//! An origin whose objects are computed, so that they may be larger than memory, and whose bodies can be held in the middle.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use penstock_cache_node::memory::Budget;
use penstock_cache_node::rules::Rules;
use penstock_cache_node::{Dataset, Engine, EngineConfig, TierConfig};
use penstock_origin::{Body, Origin, OriginError, Pages};
use penstock_protocol::ids::SpaceId;
use penstock_revision::{
    BuildOptions, Listed, ObjectVersion, Outcome, Package, Scratch, SourceListing, Version, build,
};
use tokio::sync::watch;

const PIECE: u64 = 64 << 10;

#[derive(Clone)]
pub struct Generated {
    name: String,
    objects: Vec<(String, u64)>,
    asked: Arc<Mutex<Vec<Range<u64>>>>,
    /// Bodies stop after so many bytes until it is raised.
    upto: watch::Sender<u64>,
    /// Bodies break when they come to this offset.
    breaks_at: Arc<Mutex<Option<u64>>>,
}

/// The bytes of every object.
pub fn bytes(range: Range<u64>) -> Vec<u8> {
    range.map(|at| byte(0, at)).collect()
}

/// A byte of an object. No two blocks of a test are the same: a block in the wrong place has to be seen.
pub fn byte(seed: u64, at: u64) -> u8 {
    let mixed = (at >> 3 ^ seed << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ mixed >> 32) >> (8 * (at & 3))) as u8 ^ at as u8
}

#[test]
fn no_two_blocks_of_the_tests_are_the_same() {
    let mut seen = std::collections::HashSet::new();
    for seed in 0..3 {
        for block in 0..20_000 {
            let bytes: Vec<u8> = (block * 4096..block * 4096 + 4096).map(|at| byte(seed, at)).collect();
            assert!(seen.insert(blake3::hash(&bytes)), "block {block} of {seed}");
        }
    }
}

impl Generated {
    pub fn new(name: &str, objects: impl IntoIterator<Item = (String, u64)>) -> Self {
        Self {
            name: name.to_owned(),
            objects: objects.into_iter().collect(),
            asked: Arc::default(),
            upto: watch::Sender::new(u64::MAX),
            breaks_at: Arc::default(),
        }
    }

    pub fn one(bytes: u64) -> Self {
        Self::new("generated://", [("object".to_owned(), bytes)])
    }

    /// Every body stops after so many bytes until more are allowed.
    pub fn allow(&self, bytes: u64) {
        self.upto.send_replace(bytes);
    }

    /// Bodies break when they come to this offset, in a way that is not tried again.
    pub fn fail_beyond(&self, offset: Option<u64>) {
        *self.breaks_at.lock().unwrap() = offset;
    }

    pub fn asked(&self) -> Vec<Range<u64>> {
        self.asked.lock().unwrap().clone()
    }

    pub fn asked_bytes(&self) -> u64 {
        self.asked().iter().map(|range| range.end - range.start).sum()
    }

    pub async fn package(&self) -> Package {
        Self::package_of(&[self]).await
    }

    pub fn engine(&self, package: &Package, folder: &Path, capacity_bytes: u64) -> Engine {
        Self::engine_of(&[self], package, folder, capacity_bytes)
    }

    /// A first revision in a space of its own.
    pub async fn package_in(&self, space: SpaceId) -> Package {
        Self::package_of_in(&[self], space).await
    }

    /// A revision with each source in a folder of its name.
    pub async fn package_of(sources: &[&Self]) -> Package {
        Self::package_of_in(sources, SpaceId([6; 16])).await
    }

    async fn package_of_in(sources: &[&Self], space: SpaceId) -> Package {
        let mut listings = Vec::new();
        for source in sources {
            listings.push(SourceListing {
                identity: source.identity(),
                path: if sources.len() == 1 {
                    String::new()
                } else {
                    source.name.replace("://", "")
                },
                objects: source.list_all().await.unwrap(),
            });
        }
        match build(space, None, &listings, &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => panic!("a first revision is new"),
        }
    }

    pub fn engine_of(sources: &[&Self], package: &Package, folder: &Path, capacity_bytes: u64) -> Engine {
        let tier = TierConfig {
            name: "ssd".into(),
            path: folder.into(),
            capacity_bytes: Some(capacity_bytes),
        };
        let engine = Engine::open(EngineConfig {
            tiers: vec![tier],
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })
        .unwrap();
        Self::announce(sources, package, &engine);
        engine
    }

    /// Makes a revision of these sources readable.
    pub fn announce(sources: &[&Self], package: &Package, engine: &Engine) {
        engine.set_datasets(&[Self::dataset_of(sources, package)], false);
    }

    /// A Dataset of its own with this revision.
    pub fn dataset(&self, package: &Package) -> Dataset {
        Self::dataset_of(&[self], package)
    }

    fn dataset_of(sources: &[&Self], package: &Package) -> Dataset {
        let name = package.space().to_string();
        Dataset {
            uid: name.clone(),
            name,
            rules: Rules::default(),
            origins: sources
                .iter()
                .map(|source| Arc::new((*source).clone()) as Arc<dyn Origin>)
                .collect(),
            revisions: vec![package.clone()],
        }
    }
}

#[async_trait]
impl Origin for Generated {
    fn identity(&self) -> String {
        self.name.clone()
    }

    fn place(&self) -> String {
        self.name.clone()
    }

    fn list(&self) -> Pages<'_> {
        let listed = |(key, bytes): &(String, u64)| Listed {
            key: key.clone(),
            bytes: *bytes,
            modified_unix_nanos: 0,
            version: Version::ETag("1".to_owned()),
        };
        let page = self.objects.iter().map(listed).collect();
        futures::stream::iter([Ok(page)]).boxed()
    }

    async fn read(&self, _: &ObjectVersion, _: u64, range: Range<u64>) -> Result<Body, OriginError> {
        self.asked.lock().unwrap().push(range.clone());
        let (first, breaks_at) = (range.start, self.breaks_at.lock().unwrap().unwrap_or(u64::MAX));
        let body = futures::stream::unfold((range, self.upto.subscribe()), move |(left, mut upto)| async move {
            if left.is_empty() {
                return None;
            }
            // The sender lives as long as the origin.
            let _ = upto.wait_for(|upto| *upto > left.start - first).await;
            if left.start >= breaks_at {
                let refused = OriginError::Denied("not beyond here".to_owned());
                return Some((Err(refused), (left.end..left.end, upto)));
            }
            let end = left.end.min(left.start + PIECE);
            Some((Ok(Bytes::from(bytes(left.start..end))), (end..left.end, upto)))
        });
        Ok(body.boxed())
    }
}
