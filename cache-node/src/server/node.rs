//! What a cache node was told: its ring, its Datasets, their revisions. Level-based: each configuration replaces the one
//! before. Everything but credentials survives a restart, so that cached blocks are served while no operator is there.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use penstock_cache_client::CacheClient;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::ring::{Member, Ring};
use penstock_revision::{Package, Scratch};
use penstock_tls::Identity;
use prost::Message;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};

use crate::builder::Source;
use crate::download::download;
use crate::engine::{Dataset, Engine, Owns};
use crate::limits::{
    MISSING_PACKAGES_INTERVAL, PACKAGE_FETCHES_MAX, PEER_PATIENCE, RULES_MAX, UNANNOUNCED_PACKAGE_AGE_MAX,
};
use crate::packages::PackageStore;
use crate::rules::{Eviction, Quota, Rule, Rules};
use crate::server::failures::Failures;
use crate::server::origins::Origins;
use crate::server::uses::Uses;
use penstock_origin::meter::Tally;
use penstock_origin::{Origin, OriginError};

/// The node; clones share everything.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    engine: Engine,
    /// With which it speaks TLS; without, it does not.
    identity: Option<Arc<Identity>>,
    packages: PackageStore,
    /// Where the configuration is remembered, each time the same.
    remembered: Vec<PathBuf>,
    ring: RwLock<Ring>,
    /// That of the ring, for every answer of the bulk server.
    ring_epoch: AtomicU64,
    told: tokio::sync::Mutex<Told>,
    /// That of the clients of origins.
    tally: Tally,
    missing: Mutex<Vec<RevisionId>>,
    uses: Uses,
    /// There may be something to look for.
    seek: Arc<Notify>,
    seeking: AbortHandle,
}

/// Whoever changes what is announced holds it. Nothing is downloaded under it.
struct Told {
    /// Whether it was told anything yet: until then nothing is known of what may not be reached.
    is_configured: bool,
    origins: Origins,
    datasets: Vec<ToldDataset>,
}

/// A Dataset whose packages are here or still to be found.
#[derive(Clone)]
struct ToldDataset {
    uid: String,
    /// Namespace and name.
    name: String,
    rules: Rules,
    origins: Vec<Arc<dyn Origin>>,
    revisions: Vec<RevisionId>,
}

impl ToldDataset {
    fn of(dataset: wire::Dataset, origins: Vec<Arc<dyn Origin>>) -> Self {
        let rules = rules(&dataset);
        let revisions = dataset.revisions.iter();
        Self {
            uid: dataset.uid,
            name: format!("{}/{}", dataset.namespace, dataset.name),
            rules,
            origins,
            revisions: revisions
                .filter_map(|id| RevisionId::try_from(id.as_slice()).ok())
                .collect(),
        }
    }
}

impl Node {
    /// A node that keeps its packages and what it is told in each of these folders of tiers, at least one; serves at once what it
    /// remembers. With an identity it speaks TLS only. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// When the first cannot be used.
    pub fn open(engine: Engine, tiers: &[PathBuf], identity: Option<Arc<Identity>>) -> io::Result<Self> {
        let packages = PackageStore::open(tiers)?;
        let told = Told {
            is_configured: false,
            origins: Origins::of(identity.clone(), packages.scratch()),
            datasets: Vec::new(),
        };
        let tally = told.origins.tally();
        let (seek, failed) = (Arc::new(Notify::new()), engine.package_failed());
        let inner = Arc::new_cyclic(|node| Inner {
            engine,
            identity,
            packages,
            remembered: tiers.iter().map(|tier| tier.join("node.config")).collect(),
            ring: RwLock::default(),
            ring_epoch: AtomicU64::new(0),
            told: tokio::sync::Mutex::new(told),
            tally,
            missing: Mutex::default(),
            uses: Uses::new(Instant::now()),
            seeking: tokio::spawn(seek_missing(node.clone(), seek.clone(), failed)).abort_handle(),
            seek,
        });
        inner.remember_from_disk();
        Ok(Self(inner))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// How often each source was asked for what.
    pub fn asked(&self) -> &Tally {
        &self.0.tally
    }

    /// With which it speaks TLS, if it does.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.0.identity.as_ref()
    }

    /// The ring as it was last told.
    pub fn ring(&self) -> Ring {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the ring calls this node.
    pub fn name() -> String {
        // A pod is called like its member.
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    /// Its epoch.
    pub fn ring_epoch(&self) -> u64 {
        self.0.ring_epoch.load(Ordering::Relaxed)
    }

    /// Announced revisions whose package is neither here nor at a peer.
    pub fn missing(&self) -> Vec<RevisionId> {
        lock(&self.0.missing).clone()
    }

    /// Which revisions are in use.
    pub(super) fn uses(&self) -> &Uses {
        &self.0.uses
    }

    /// A package that is announced here or was built here.
    pub async fn package(&self, revision: &RevisionId) -> Option<Package> {
        let (node, revision) = (self.clone(), *revision);
        on_disk(move || node.0.local(&revision)).await
    }

    /// Up to `bytes_max` bytes of such a package from `offset` on; fewer when it ends.
    pub async fn package_piece(&self, revision: &RevisionId, offset: u64, bytes_max: usize) -> Option<Bytes> {
        let announced = self.0.engine.package(revision);
        let (node, revision) = (self.clone(), *revision);
        on_disk(move || match announced {
            Some(package) => {
                let piece = package.read(offset..offset.saturating_add(bytes_max as u64));
                piece.inspect_err(|_| node.0.engine.package_failed().notify_one()).ok()
            }
            None => node.0.packages.piece(&revision, offset, bytes_max).map(Bytes::from),
        })
        .await
    }

    /// Acts upon a configuration. Packages that are not here are looked for afterwards, until they are found.
    ///
    /// # Errors
    /// When a source makes no sense; everything else was acted upon.
    pub async fn apply(&self, config: wire::NodeConfig) -> Result<(), OriginError> {
        let mut told = self.0.told.lock().await;
        told.is_configured = true;
        self.0.remember(&config);
        let wire::NodeConfig {
            generation: _,
            ring_epoch,
            members,
            datasets,
            tiers,
            cluster_networks,
            cluster_addresses,
        } = config;
        self.0.set_ring(ring_epoch, members);
        self.0.set_capacities(tiers);
        told.origins.keep_out(&cluster_networks, &cluster_addresses);
        told.origins.keep_only(datasets.iter().flat_map(all_sources));
        let mut outcome = Ok(());
        told.datasets = datasets
            .into_iter()
            .map(|dataset| {
                let mut origins = Vec::new();
                for source in all_sources(&dataset) {
                    match told.origins.client(source) {
                        Ok(origin) => origins.push(origin),
                        Err(error) => outcome = Err(error),
                    }
                }
                ToldDataset::of(dataset, origins)
            })
            .collect();
        self.announce(&told, None).await;
        outcome
    }

    /// Whether the operator has told it something since it started.
    pub async fn is_configured(&self) -> bool {
        self.0.told.lock().await.is_configured
    }

    /// The sources of a build.
    ///
    /// # Errors
    /// When one makes no sense.
    pub async fn sources(&self, sources: &[wire::Source]) -> Result<Vec<Source>, OriginError> {
        let told = self.0.told.lock().await;
        sources
            .iter()
            .map(|source| {
                Ok(Source {
                    path: source.path.clone(),
                    origin: told.origins.client(source)?,
                })
            })
            .collect()
    }

    /// Where a build keeps what its memory should not hold.
    pub fn scratch(&self) -> Scratch {
        self.0.packages.scratch()
    }

    /// Keeps a package that may not be announced yet, synced to disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn keep(&self, package: &Package) -> io::Result<()> {
        let (node, package) = (self.clone(), package.clone());
        let kept = spawn_blocking(move || node.0.packages.keep(&package)).await;
        kept.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }

    /// Downloads a package from a node that has it.
    ///
    /// # Errors
    /// When it does not arrive whole, as a sentence.
    pub async fn fetch_package(&self, revision: &RevisionId, from: Vec<String>) -> Result<Package, String> {
        let client = CacheClient::with_identity(from, PEER_PATIENCE, self.0.identity.clone());
        let downloaded = download(&client, *revision, &self.0.packages.scratch()).await;
        downloaded.map_err(|failure| failure.to_string())
    }

    /// Makes readable what was told, as far as its packages are here.
    async fn announce(&self, told: &Told, found: Option<Package>) {
        let (node, datasets) = (self.clone(), told.datasets.clone());
        on_disk(move || {
            node.0.announce(datasets, found.as_ref());
            Some(())
        })
        .await;
    }

    /// The same again, with packages from somewhere else where one could not be read.
    async fn announce_again(&self) {
        let told = self.0.told.lock().await;
        self.announce(&told, None).await;
    }

    /// One round of asking peers for what is missing.
    async fn fetch_missing(&self) {
        let peers: Vec<String> = self.ring().members.into_iter().map(|member| member.address).collect();
        let fetches = self.missing().into_iter().map(|revision| {
            let peers = peers.clone();
            async move {
                match self.fetch_package(&revision, peers).await {
                    Ok(package) => self.found(package).await,
                    Err(error) => tracing::debug!(%revision, error, "no peer has the package of an announced revision"),
                }
            }
        });
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(PACKAGE_FETCHES_MAX);
        while let Some(()) = fetches.next().await {}
    }

    async fn found(&self, package: Package) {
        let revision = package.id();
        tracing::info!(%revision, "found the package of an announced revision");
        // From its file, where it needs no memory, if the disk took it.
        let found = match self.keep(&package).await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%revision, %error, "keep a package; it is fetched again after a restart");
                Some(package)
            }
        };
        let told = self.0.told.lock().await;
        self.announce(&told, found).await;
    }
}

/// Asks peers for missing packages whenever there may be some, again and again until they are found. One that `failed` is missing
/// if no tier has it whole.
async fn seek_missing(node: Weak<Inner>, seek: Arc<Notify>, failed: Arc<Notify>) {
    let mut failures = Failures::of(failed, MISSING_PACKAGES_INTERVAL);
    // Whether something failed.
    let mut news = async || {
        tokio::select! {
            () = seek.notified() => false,
            () = failures.next() => true,
        }
    };
    let mut has_failed = news().await;
    loop {
        // Whoever holds the node for long keeps it from being closed.
        let Some(node) = node.upgrade().map(Node) else { return };
        if has_failed {
            node.announce_again().await;
        }
        node.fetch_missing().await;
        let is_missing = !node.missing().is_empty();
        drop(node);
        has_failed = if is_missing {
            // A new configuration does not wait for the next round.
            let news = tokio::time::timeout(MISSING_PACKAGES_INTERVAL, news()).await;
            news.unwrap_or(false)
        } else {
            news().await
        };
    }
}

/// Does what may wait for a disk where it holds up nobody.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "work on the disk ended early");
            None
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.seeking.abort();
    }
}

impl Inner {
    fn local(&self, revision: &RevisionId) -> Option<Package> {
        let announced = self.engine.package(revision).filter(|package| !package.has_failed());
        announced.or_else(|| self.packages.load(revision))
    }

    /// `found` is a package that the disk may not have taken.
    fn announce(&self, datasets: Vec<ToldDataset>, found: Option<&Package>) {
        let found = |revision| found.filter(|package| package.id() == revision).cloned();
        let (mut announced, mut missing) = (HashSet::new(), Vec::new());
        let mut readable = Vec::new();
        for ToldDataset {
            uid,
            name,
            rules,
            origins,
            revisions,
        } in datasets
        {
            let mut packages = Vec::new();
            for revision in revisions {
                announced.insert(revision);
                match found(revision).or_else(|| self.local(&revision)) {
                    Some(package) => packages.push(package),
                    None => missing.push(revision),
                }
            }
            readable.push(Dataset {
                uid,
                name,
                origins,
                revisions: packages,
                rules,
            });
        }
        self.engine.set_datasets(&readable, !missing.is_empty());
        self.packages
            .keep_only(|revision| announced.contains(revision), UNANNOUNCED_PACKAGE_AGE_MAX);
        let before = std::mem::replace(&mut *lock(&self.missing), missing.clone());
        for revision in missing.into_iter().filter(|revision| !before.contains(revision)) {
            tracing::warn!(%revision, "the package of an announced revision is not here; peers are asked for it");
        }
        // After the list is there: whoever is woken looks at it at once.
        self.seek.notify_one();
    }

    fn set_capacities(&self, tiers: Vec<wire::TierCapacity>) {
        let named = |wire::TierCapacity { name, bytes }| (name, bytes);
        let capacities: Vec<_> = tiers.into_iter().map(named).collect();
        self.engine.set_capacities(&capacities);
    }

    fn set_ring(&self, epoch: u64, members: Vec<wire::Member>) {
        let members: Vec<Member> = members
            .into_iter()
            .map(|wire::Member { name, address, weight }| Member { name, address, weight })
            .collect();
        let ring = Ring {
            epoch,
            members: members.clone(),
        };
        let own_name = Node::name();
        let owns = move |space: &SpaceId, stripe| {
            let owners = ring.owners(space, stripe);
            owners.first().is_some_and(|member| member.name == own_name)
        };
        let nodes = members.len() as u64;
        self.engine
            .set_owned((nodes > 1).then(|| Box::new(owns) as Owns), nodes);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring { epoch, members };
        self.ring_epoch.store(epoch, Ordering::Relaxed);
    }

    /// Everything but the sources, which have credentials.
    fn remember(&self, config: &wire::NodeConfig) {
        let mut remembered = config.clone();
        remembered.datasets.iter_mut().for_each(|dataset| {
            dataset.sources.clear();
            dataset.former_sources.clear();
        });
        for path in &self.remembered {
            let unfinished = path.with_extension("new");
            let written =
                fs::write(&unfinished, remembered.encode_to_vec()).and_then(|()| fs::rename(&unfinished, path));
            if let Err(error) = written {
                tracing::warn!(path = %path.display(), %error, "remember the configuration; after a restart this node may wait for the operator");
            }
        }
    }

    fn remember_from_disk(&self) {
        let changed = |path: &&PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
        let newest = self.remembered.iter().filter(|path| path.exists()).max_by_key(changed);
        let Some((path, bytes)) = newest.and_then(|path| Some((path, fs::read(path).ok()?))) else {
            return;
        };
        let Ok(wire::NodeConfig {
            generation: _,
            ring_epoch,
            members,
            datasets,
            tiers,
            // There is no client before the operator speaks.
            cluster_networks: _,
            cluster_addresses: _,
        }) = wire::NodeConfig::decode(bytes.as_slice())
        else {
            tracing::warn!(path = %path.display(), "not understood; this node waits for the operator");
            return;
        };
        self.set_ring(ring_epoch, members);
        self.set_capacities(tiers);
        let readable = datasets.into_iter().map(|dataset| {
            let told = ToldDataset::of(dataset, Vec::new());
            let packages = told.revisions.iter();
            Dataset {
                uid: told.uid,
                name: told.name,
                origins: told.origins,
                revisions: packages.filter_map(|revision| self.packages.load(revision)).collect(),
                rules: told.rules,
            }
        });
        self.engine.set_datasets(&readable.collect::<Vec<_>>(), true);
    }
}

/// Those of the spec first: with two of one identity, their keys are the newer ones.
fn all_sources(dataset: &wire::Dataset) -> impl Iterator<Item = &wire::Source> {
    dataset.sources.iter().chain(&dataset.former_sources)
}

/// How the operator wants a Dataset cached.
fn rules(dataset: &wire::Dataset) -> Rules {
    let quota = dataset.quota.unwrap_or_default();
    let rule = |rule: &wire::CacheRule| Rule {
        path: rule.path.clone(),
        pin: rule.pin,
        ttl: (rule.ttl_seconds > 0).then(|| Duration::from_secs(rule.ttl_seconds)),
        priority: rule.priority,
        eviction: match rule.eviction() {
            wire::cache_rule::Eviction::Auto => Eviction::Auto,
            wire::cache_rule::Eviction::Lru => Eviction::Lru,
            wire::cache_rule::Eviction::Lfu => Eviction::Lfu,
        },
        tier: Some(rule.tier.clone()).filter(|tier| !tier.is_empty()),
    };
    Rules {
        quota: Quota {
            guaranteed_bytes: quota.guaranteed_bytes,
            limit_bytes: quota.limit_bytes,
        },
        rules: dataset.rules.iter().take(RULES_MAX).map(rule).collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
