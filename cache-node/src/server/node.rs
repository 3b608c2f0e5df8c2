//! What a cache node was told: its ring, its Datasets, their revisions. Level-based: each configuration replaces the one
//! before. Everything but credentials survives a restart, so that cached blocks are served while no operator is there.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use penstock_cache_client::CacheClient;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::RevisionId;
use penstock_protocol::ring::{Member, Ring};
use penstock_revision::Package;

use crate::builder::Source;
use crate::engine::{Dataset, Engine};
use crate::limits::PACKAGE_BYTES_MAX;
use crate::origin::s3::{Credentials, S3Config, S3Origin};
use crate::origin::{Origin, OriginError};
use crate::packages::PackageStore;

/// How long a peer is asked for a package before it counts as missing.
const PEER_PATIENCE: Duration = Duration::from_secs(10);
/// Built and not yet announced packages that are kept: a commit follows its build within seconds.
const UNANNOUNCED_MAX: usize = 16;

/// The node; clones share everything.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    engine: Engine,
    packages: PackageStore,
    remembered: PathBuf,
    ring: RwLock<Ring>,
    /// That of the ring, for every answer of the bulk server.
    ring_epoch: AtomicU64,
    told: tokio::sync::Mutex<Told>,
    missing: Mutex<Vec<RevisionId>>,
    /// The newest last.
    unannounced: Mutex<Vec<RevisionId>>,
}

#[derive(Default)]
struct Told {
    /// Clients of origins, by their configuration, so that connections survive a new configuration.
    origins: HashMap<String, Arc<S3Origin>>,
    configs: HashMap<String, S3Config>,
}

/// What survives a restart.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Remembered {
    ring_epoch: u64,
    /// Name, address, weight.
    members: Vec<(String, String, u32)>,
    /// UID of each Dataset and its revisions, hexadecimal.
    datasets: Vec<(String, Vec<String>)>,
}

impl Node {
    /// A node whose tier is the folder `tier`; serves at once what it remembers.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(engine: Engine, tier: &Path) -> io::Result<Self> {
        let node = Self(Arc::new(Inner {
            engine,
            packages: PackageStore::open(tier)?,
            remembered: tier.join("node.json"),
            ring: RwLock::default(),
            ring_epoch: AtomicU64::new(0),
            told: tokio::sync::Mutex::default(),
            missing: Mutex::default(),
            unannounced: Mutex::default(),
        }));
        node.0.remember_from_disk();
        Ok(node)
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The ring as it was last told.
    pub fn ring(&self) -> Ring {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its epoch.
    pub fn ring_epoch(&self) -> u64 {
        self.0.ring_epoch.load(Ordering::Relaxed)
    }

    /// Announced revisions whose package is neither here nor at a peer.
    pub fn missing(&self) -> Vec<RevisionId> {
        lock(&self.0.missing).clone()
    }

    /// A package that is announced here or was built here.
    pub fn package(&self, revision: &RevisionId) -> Option<Package> {
        self.0
            .engine
            .package(revision)
            .or_else(|| self.0.packages.load(revision))
    }

    /// Acts upon a configuration.
    ///
    /// # Errors
    /// When a source makes no sense; everything else was acted upon.
    pub async fn apply(&self, config: wire::NodeConfig) -> Result<(), OriginError> {
        let mut told = self.0.told.lock().await;
        let wire::NodeConfig {
            generation: _,
            ring_epoch,
            members,
            datasets,
        } = config;
        let members: Vec<Member> = members
            .into_iter()
            .map(|wire::Member { name, address, weight }| Member { name, address, weight })
            .collect();
        self.0.set_ring(ring_epoch, members);
        self.0.remember(&datasets);
        let mut outcome = Ok(());
        let (mut readable, mut announced, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for dataset in datasets {
            let mut origins: Vec<Arc<dyn Origin>> = Vec::new();
            for source in &dataset.sources {
                match told.origin(source) {
                    Ok(origin) => origins.push(origin),
                    Err(error) => outcome = Err(error),
                }
            }
            let mut revisions = Vec::new();
            for id in dataset
                .revisions
                .iter()
                .filter_map(|id| RevisionId::try_from(id.as_slice()).ok())
            {
                announced.push(id);
                match self.find(&id).await {
                    Some(package) => revisions.push(package),
                    None => missing.push(id),
                }
            }
            readable.push(Dataset {
                uid: dataset.uid,
                origins,
                revisions,
            });
        }
        self.0.engine.set_datasets(&readable, !missing.is_empty());
        let unannounced = lock(&self.0.unannounced).clone();
        self.0
            .packages
            .keep_only(|revision| announced.contains(revision) || unannounced.contains(revision));
        *lock(&self.0.missing) = missing;
        outcome
    }

    /// The sources of a build.
    ///
    /// # Errors
    /// When one makes no sense.
    pub async fn sources(&self, sources: &[wire::Source]) -> Result<Vec<Source>, OriginError> {
        let mut told = self.0.told.lock().await;
        sources
            .iter()
            .map(|source| {
                Ok(Source {
                    path: source.path.clone(),
                    origin: told.origin(source)?,
                })
            })
            .collect()
    }

    /// Keeps a package that is not announced yet, synced to disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep(&self, package: &Package) -> io::Result<()> {
        self.0.packages.keep(package)?;
        let mut unannounced = lock(&self.0.unannounced);
        unannounced.retain(|id| *id != package.id());
        unannounced.push(package.id());
        if unannounced.len() > UNANNOUNCED_MAX {
            unannounced.remove(0);
        }
        Ok(())
    }

    /// Downloads a package from a node that has it.
    ///
    /// # Errors
    /// When it does not arrive whole, as a sentence.
    pub async fn fetch_package(&self, revision: &RevisionId, from: Vec<String>) -> Result<Package, String> {
        let client = CacheClient::new(from, PEER_PATIENCE);
        let mut bytes = Vec::new();
        let sink = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            let fits = bytes.len() as u64 <= PACKAGE_BYTES_MAX;
            if fits {
                Ok(())
            } else {
                Err(io::ErrorKind::FileTooLarge.into())
            }
        };
        client
            .package(revision, sink)
            .await
            .map_err(|error| error.to_string())?;
        let package = Package::parse(bytes.into()).map_err(|error| error.to_string())?;
        if package.id() == *revision {
            Ok(package)
        } else {
            Err("the package arrived damaged".to_owned())
        }
    }

    async fn find(&self, revision: &RevisionId) -> Option<Package> {
        if let Some(package) = self.package(revision) {
            return Some(package);
        }
        let peers: Vec<String> = self.ring().members.into_iter().map(|member| member.address).collect();
        match self.fetch_package(revision, peers).await {
            Ok(package) => {
                if let Err(error) = self.0.packages.keep(&package) {
                    tracing::warn!(%revision, %error, "keep a package; it is fetched again after a restart");
                }
                Some(package)
            }
            Err(error) => {
                tracing::warn!(%revision, error, "no peer has the package of an announced revision");
                None
            }
        }
    }
}

impl Told {
    /// The client of a source; the one that is there already when nothing changed.
    fn origin(&mut self, source: &wire::Source) -> Result<Arc<dyn Origin>, OriginError> {
        let Some(wire::source::Origin::S3(s3)) = &source.origin else {
            return Err(OriginError::Invalid(format!(
                "the source at {:?} has no origin that this version knows",
                source.path
            )));
        };
        let config = s3_config(s3);
        let key = format!("{}|{}|{}", config.endpoint, config.bucket, config.prefix);
        if self.configs.get(&key) == Some(&config)
            && let Some(origin) = self.origins.get(&key)
        {
            return Ok(origin.clone());
        }
        let origin = Arc::new(S3Origin::new(config.clone())?);
        self.configs.insert(key.clone(), config);
        self.origins.insert(key, origin.clone());
        Ok(origin)
    }
}

fn s3_config(s3: &wire::S3) -> S3Config {
    let wire::S3 {
        bucket,
        prefix,
        region,
        endpoint,
        credentials,
        virtual_host_style,
    } = s3.clone();
    let credentials = credentials.map(
        |wire::Credentials {
             access_key_id,
             secret_access_key,
             session_token,
         }| {
            Credentials {
                access_key_id,
                secret_access_key,
                session_token,
            }
        },
    );
    S3Config {
        bucket,
        prefix,
        region,
        endpoint,
        virtual_host_style,
        credentials,
    }
}

impl Inner {
    fn set_ring(&self, epoch: u64, members: Vec<Member>) {
        self.engine.set_sharded(members.len() > 1);
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring { epoch, members };
        self.ring_epoch.store(epoch, Ordering::Relaxed);
    }

    fn remember(&self, datasets: &[wire::Dataset]) {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let remembered = Remembered {
            ring_epoch: ring.epoch,
            members: ring
                .members
                .iter()
                .map(|m| (m.name.clone(), m.address.clone(), m.weight))
                .collect(),
            datasets: datasets
                .iter()
                .map(|dataset| (dataset.uid.clone(), ids(&dataset.revisions)))
                .collect(),
        };
        drop(ring);
        let unfinished = self.remembered.with_extension("new");
        let written = serde_json::to_vec(&remembered)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&unfinished, bytes))
            .and_then(|()| fs::rename(&unfinished, &self.remembered));
        if let Err(error) = written {
            tracing::warn!(%error, "remember the configuration; after a restart this node waits for the operator");
        }
    }

    fn remember_from_disk(&self) {
        let Ok(bytes) = fs::read(&self.remembered) else { return };
        let Ok(Remembered {
            ring_epoch,
            members,
            datasets,
        }) = serde_json::from_slice(&bytes)
        else {
            tracing::warn!(path = %self.remembered.display(), "not understood; this node waits for the operator");
            return;
        };
        let members: Vec<Member> = members
            .into_iter()
            .map(|(name, address, weight)| Member { name, address, weight })
            .collect();
        self.set_ring(ring_epoch, members);
        let readable: Vec<Dataset> = datasets
            .into_iter()
            .map(|(uid, revisions)| {
                let load = |id: &String| self.packages.load(&id.parse().ok()?);
                Dataset {
                    uid,
                    origins: Vec::new(),
                    revisions: revisions.iter().filter_map(load).collect(),
                }
            })
            .collect();
        self.engine.set_datasets(&readable, true);
    }
}

fn ids(revisions: &[Vec<u8>]) -> Vec<String> {
    revisions
        .iter()
        .filter_map(|id| Some(RevisionId::try_from(id.as_slice()).ok()?.to_string()))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
