//! One dataset on this machine: the revision of this moment, and the engine that keeps its blocks in a cache folder. Must
//! not know YAML, terminals or mounts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::future::try_join_all;
use penstock_cache_node::memory::Budget;
use penstock_cache_node::rules::Rules;
use penstock_cache_node::{Dataset, Engine, EngineConfig, ReadError, TierConfig};
use penstock_mounter::{ReadFailure, SpaceReader, TryRead};
use penstock_origin::{Origin, OriginError, proven};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::{BuildOptions, Gathering, Outcome, Package, Scratch, SourceListing};

use crate::cache_folder::CacheFolder;
use crate::limits::READ_RETRY_PAUSE;

/// One origin and where it stands in the tree.
#[derive(Clone)]
pub struct Source {
    /// Path in the tree; "" is the root.
    pub path: String,
    /// The origin.
    pub origin: Arc<dyn Origin>,
}

/// Lists all sources at the same time; of those that are not `known` by their identity a byte is read too.
///
/// # Errors
/// The first origin's; its sentence says what to do.
async fn listings(sources: &[Source], is_known: impl Fn(&str) -> bool) -> Result<Vec<SourceListing>> {
    let listings = sources.iter().map(|Source { path, origin }| {
        let pages = if is_known(&origin.identity()) {
            origin.list()
        } else {
            proven(&**origin)
        };
        async move {
            let objects = pages.try_concat().await?;
            Ok::<_, OriginError>(SourceListing {
                identity: origin.identity(),
                path: path.clone(),
                objects,
            })
        }
    });
    Ok(try_join_all(listings).await?)
}

/// Lists all sources at the same time and reads nothing.
///
/// # Errors
/// The first origin's; its sentence says what to do.
pub async fn list(sources: &[Source]) -> Result<Vec<SourceListing>> {
    listings(sources, |_| true).await
}

/// The revision of `listings`; the parent itself when nothing has changed.
///
/// # Errors
/// When the tree needs more than an image can hold.
pub async fn revision(
    parent: Option<Package>,
    listings: Vec<SourceListing>,
    ownership: BuildOptions,
) -> Result<Package> {
    // A million files take seconds.
    let built = tokio::task::spawn_blocking(move || {
        let space = SpaceId(rand::random());
        let mut gathering = Gathering::new(Scratch::memory());
        // Each listing goes when it is gathered, before the tree is made.
        for SourceListing {
            identity,
            path,
            objects,
        } in listings
        {
            let source = gathering.begin_source(identity, &path)?;
            gathering.add(source, &objects)?;
        }
        let outcome = gathering.build(space, parent.as_ref(), &ownership)?;
        match (outcome, parent) {
            (Outcome::New(package), _) => Ok(package),
            (Outcome::Unchanged, Some(parent)) => Ok(parent),
            (Outcome::Unchanged, None) => anyhow::bail!("a first revision cannot be unchanged"),
        }
    });
    built.await.context("the build of the revision")?
}

/// A dataset whose bytes can be read.
pub struct Local {
    engine: Engine,
    package: Package,
    fault: Arc<Mutex<Option<String>>>,
}

impl Local {
    /// Lists the sources, builds the revision on top of the newest one that the folder knows, and opens the engine.
    ///
    /// # Errors
    /// When an origin or the disk refuses.
    pub async fn open(
        sources: &[Source],
        ownership: BuildOptions,
        folder: &CacheFolder,
        capacity_bytes: u64,
    ) -> Result<Self> {
        let kept = folder.package()?.map(|bytes| Package::parse(bytes.into()));
        let parent = kept.and_then(|parsed| {
            parsed
                .inspect_err(|error| tracing::warn!(%error, "the cache begins anew"))
                .ok()
        });
        let before = parent.as_ref().map(Package::id);
        let known = parent.as_ref().map_or(&[][..], Package::sources);
        let listings = listings(sources, |identity| known.iter().any(|known| known == identity)).await?;
        let package = revision(parent, listings, ownership).await?;
        if before != Some(package.id()) {
            folder.keep_package(&package.whole()?)?;
        }
        let engine = Engine::open(EngineConfig {
            tiers: vec![TierConfig {
                name: "local".into(),
                path: folder.blocks(),
                capacity_bytes: Some(capacity_bytes),
            }],
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })?;
        let dataset = Dataset {
            uid: "local".into(),
            name: "local".into(),
            rules: Rules::default(),
            origins: sources.iter().map(|source| source.origin.clone()).collect(),
            revisions: vec![package.clone()],
        };
        engine.set_datasets(&[dataset], false);
        Ok(Self {
            engine,
            package,
            fault: Arc::default(),
        })
    }

    /// The revision.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Bytes of the dataset that are on this machine.
    pub fn cached_bytes(&self) -> u64 {
        let report = self.engine.report();
        let ours = report.spaces.iter().find(|(space, _)| *space == self.package.space());
        ours.map_or(0, |(_, bytes)| *bytes)
    }

    /// What is wrong at this moment, as sentences.
    pub fn faults(&self) -> Vec<String> {
        let report = self.engine.report();
        let tiers = report.tiers.into_iter().filter_map(|tier| tier.fault);
        let drifts = report.drifts.into_iter().map(|drift| {
            format!(
                "{} changed or went away in the bucket since it was mounted: mount again to see the bucket as it is now",
                drift.key
            )
        });
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tiers.chain(drifts).chain(fault).collect()
    }

    /// Reads its space; a read that the origin does not answer fails after `timeout`.
    pub fn reader(&self, timeout: Duration) -> Arc<dyn SpaceReader> {
        Arc::new(EngineReader {
            engine: self.engine.clone(),
            revision: self.package.id(),
            fault: self.fault.clone(),
            timeout,
        })
    }
}

/// The engine of this process as the mounter sees it.
struct EngineReader {
    engine: Engine,
    revision: RevisionId,
    /// Why reads wait, while they do.
    fault: Arc<Mutex<Option<String>>>,
    timeout: Duration,
}

impl EngineReader {
    fn note(&self, fault: Option<&str>) {
        let mut noted = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.is_none()
            && let Some(fault) = fault
        {
            tracing::warn!("reads wait: {fault}");
        }
        *noted = fault.map(Into::into);
    }
}

#[async_trait]
impl SpaceReader for EngineReader {
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        match self.engine.try_read(&self.revision, range, into, None) {
            penstock_cache_node::TryRead::Hit => TryRead::Hit,
            penstock_cache_node::TryRead::Miss => TryRead::Miss,
        }
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        let started = Instant::now();
        loop {
            match self.engine.read(&self.revision, range, into, None).await {
                Ok(()) => {
                    self.note(None);
                    return Ok(());
                }
                Err(ReadError::Drifted(sentence)) => return Err(ReadFailure::Drifted(sentence)),
                Err(error @ (ReadError::Unavailable(_) | ReadError::UnknownRevision(_))) => {
                    let sentence = error.to_string();
                    self.note(Some(&sentence));
                    if started.elapsed() > self.timeout {
                        return Err(ReadFailure::Unavailable(sentence));
                    }
                }
            }
            // The engine has tried a few times already: this is about a network or an origin that is gone for a while.
            tokio::time::sleep(READ_RETRY_PAUSE).await;
        }
    }
}
