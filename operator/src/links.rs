//! One gRPC stream to every cache node: the whole configuration out (now, at each change and after each reconnect), reports
//! in. A cache node that restarted is complete again as soon as the stream is.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use penstock_crds::CacheRuntime;
use penstock_protocol::control::MESSAGE_BYTES_MAX;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::cache_node_client::CacheNodeClient;
use penstock_protocol::ids::RevisionId;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::{Channel, Endpoint};

use crate::limits::{CONNECT_MAX, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_MAX, LINK_PAUSE, REPORT_PAUSE, SETTLING_MAX};
use crate::names;
use crate::uses::{Standing, Uses};

/// Namespace and name of a CacheRuntime.
pub type RuntimeKey = (String, String);

/// All links; clones share them.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    runtimes: Mutex<HashMap<RuntimeKey, Runtime>>,
    changed: mpsc::UnboundedSender<ObjectRef<CacheRuntime>>,
    started: Instant,
}

#[derive(Default)]
struct Runtime {
    config: wire::NodeConfig,
    nodes: BTreeMap<String, Node>,
    uses: Uses,
    /// Whether news are on their way after a pause.
    wakes: bool,
}

struct Node {
    config: watch::Sender<wire::NodeConfig>,
    link: Link,
    task: AbortHandle,
}

enum Link {
    Up(wire::NodeReport),
    Down { since: Instant, tried: bool },
}

/// What is known of the cache nodes of a CacheRuntime.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// The newest report of every cache node that is linked now, by host.
    pub reports: BTreeMap<String, wire::NodeReport>,
    /// How long the one that was lost last is away; `None` when all are linked.
    pub away: Option<Duration>,
    /// Whether this process has just begun to lead and cannot say yet who serves.
    pub settling: bool,
}

impl Pool {
    /// Those of these hosts that understand what needs this level (`penstock_protocol::level`), in the same order.
    pub fn understanding(&self, hosts: &[String], level: u32) -> Vec<String> {
        let understands = |host: &&String| {
            self.reports
                .get(*host)
                .is_some_and(|report| report.understands >= level)
        };
        hosts.iter().filter(understands).cloned().collect()
    }

    /// Whether every cache node that is linked misses the package of this revision.
    pub fn misses(&self, revision: &[u8]) -> bool {
        let misses = |report: &wire::NodeReport| report.missing_packages.iter().any(|missing| missing == revision);
        !self.reports.is_empty() && self.reports.values().all(misses)
    }
}

impl Links {
    /// Links that say in `changed` which CacheRuntime has news.
    pub fn new(changed: mpsc::UnboundedSender<ObjectRef<CacheRuntime>>) -> Self {
        Self(Arc::new(Shared {
            runtimes: Mutex::default(),
            changed,
            started: Instant::now(),
        }))
    }

    /// Sends `config` to exactly these hosts. Nothing is sent when nothing changed.
    pub fn set(&self, key: &RuntimeKey, hosts: &[String], config: wire::NodeConfig) {
        let mut runtimes = self.lock();
        let runtime = runtimes.entry(key.clone()).or_default();
        let same = wire::NodeConfig {
            generation: runtime.config.generation,
            ..config.clone()
        } == runtime.config;
        if !same {
            let generation = runtime.config.generation + 1;
            // Until now they were the newest.
            runtime.uses.newest(newest(&runtime.config), Instant::now());
            runtime.config = wire::NodeConfig { generation, ..config };
            for node in runtime.nodes.values() {
                node.config.send_replace(runtime.config.clone());
            }
        }
        runtime.note_uses(Instant::now());
        runtime.nodes.retain(|host, node| {
            let stays = hosts.contains(host);
            if !stays {
                node.task.abort();
            }
            stays
        });
        for host in hosts {
            if !runtime.nodes.contains_key(host) {
                let (sender, receiver) = watch::channel(runtime.config.clone());
                let task = tokio::spawn(self.clone().keep(key.clone(), host.clone(), receiver)).abort_handle();
                runtime.nodes.insert(
                    host.clone(),
                    Node {
                        config: sender,
                        link: Link::Down {
                            since: Instant::now(),
                            tried: false,
                        },
                        task,
                    },
                );
            }
        }
    }

    /// Ends the links of a CacheRuntime that is gone.
    pub fn remove(&self, key: &RuntimeKey) {
        if let Some(runtime) = self.lock().remove(key) {
            runtime.nodes.values().for_each(|node| node.task.abort());
        }
    }

    /// What is known of the cache nodes of a CacheRuntime.
    pub fn pool(&self, key: &RuntimeKey) -> Pool {
        let runtimes = self.lock();
        let nodes = runtimes.get(key).map(|runtime| &runtime.nodes);
        let mut pool = Pool::default();
        let mut untried = nodes.is_none();
        for (host, node) in nodes.into_iter().flatten() {
            match &node.link {
                Link::Up(report) => {
                    pool.reports.insert(host.clone(), report.clone());
                }
                Link::Down { since, tried } => {
                    let away = since.elapsed();
                    pool.away = Some(pool.away.map_or(away, |shortest| shortest.min(away)));
                    untried |= !tried;
                }
            }
        }
        pool.settling = untried && self.0.started.elapsed() < SETTLING_MAX;
        pool
    }

    /// What is known of the use of these revisions of one Dataset, the newest first, on the cache nodes of a CacheRuntime.
    pub fn standings(&self, key: &RuntimeKey, revisions: &[RevisionId], now: Instant) -> Vec<Standing> {
        let mut runtimes = self.lock();
        let runtime = runtimes.get_mut(key);
        match runtime {
            None => vec![Standing::InUse; revisions.len()],
            Some(runtime) => {
                runtime.note_uses(now);
                // Two may be committed before the cache nodes are told of the first.
                runtime.uses.newest(revisions.first().copied().into_iter(), now);
                let standings = revisions.iter().map(|id| runtime.uses.standing(id, now));
                standings.collect()
            }
        }
    }

    async fn keep(self, key: RuntimeKey, host: String, config: watch::Receiver<wire::NodeConfig>) {
        loop {
            if let Err(error) = self.once(&key, &host, config.clone()).await {
                tracing::debug!(host, %error, "the link to a cache node");
            }
            if self.lose(&key, &host) {
                tracing::info!(host, "lost the link to a cache node");
            }
            tokio::time::sleep(LINK_PAUSE).await;
        }
    }

    async fn once(
        &self,
        key: &RuntimeKey,
        host: &str,
        config: watch::Receiver<wire::NodeConfig>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut client = connect(host).await?;
        let mut reports = client.link(WatchStream::new(config)).await?.into_inner();
        tracing::info!(host, "linked to a cache node");
        while let Some(report) = reports.message().await? {
            self.set_report(key, host, report);
        }
        Ok(())
    }

    fn set_report(&self, key: &RuntimeKey, host: &str, report: wire::NodeReport) {
        let mut runtimes = self.lock();
        let Some(runtime) = runtimes.get_mut(key) else { return };
        runtime.note_uses(Instant::now());
        let Some(node) = runtime.nodes.get_mut(host) else {
            return;
        };
        let before = std::mem::replace(&mut node.link, Link::Up(report.clone()));
        runtime.note_uses(Instant::now());
        match before {
            Link::Down { .. } => self.wake(key),
            Link::Up(before) if before != report && !runtime.wakes => {
                runtime.wakes = true;
                tokio::spawn(self.clone().wake_later(key.clone()));
            }
            Link::Up(_) => {}
        }
    }

    /// True when it was linked before.
    fn lose(&self, key: &RuntimeKey, host: &str) -> bool {
        let mut runtimes = self.lock();
        let Some(runtime) = runtimes.get_mut(key) else {
            return false;
        };
        runtime.note_uses(Instant::now());
        let Some(node) = runtime.nodes.get_mut(host) else {
            return false;
        };
        let (since, was_up, is_news) = match &node.link {
            Link::Up(_) => (Instant::now(), true, true),
            Link::Down { since, tried } => (*since, false, !tried),
        };
        node.link = Link::Down { since, tried: true };
        runtime.note_uses(Instant::now());
        if is_news {
            self.wake(key);
        }
        was_up
    }

    async fn wake_later(self, key: RuntimeKey) {
        tokio::time::sleep(REPORT_PAUSE).await;
        if let Some(runtime) = self.lock().get_mut(&key) {
            runtime.wakes = false;
        }
        self.wake(&key);
    }

    fn wake(&self, key: &RuntimeKey) {
        // The receiver ends with the process.
        let _ = self.0.changed.send(ObjectRef::new(&key.1).within(&key.0));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RuntimeKey, Runtime>> {
        self.0.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime {
    /// What the newest reports say of use is so until now. One of before there were levels says nothing of it, and is told by mounters
    /// all the same.
    fn note_uses(&mut self, now: Instant) {
        let reports = self.nodes.values().filter_map(|node| match &node.link {
            Link::Up(report) => Some(report),
            Link::Down { .. } => None,
        });
        let reports: Vec<_> = reports.collect();
        if reports.is_empty() || reports.iter().any(|report| report.understands == 0) {
            self.uses.silent();
        } else {
            self.uses.heard(now);
        }
        let in_use = reports.into_iter().flat_map(|report| &report.revisions_in_use);
        self.uses.reported(in_use.filter_map(id), now);
    }
}

/// The newest revision of each Dataset.
fn newest(config: &wire::NodeConfig) -> impl Iterator<Item = RevisionId> {
    config
        .datasets
        .iter()
        .filter_map(|dataset| id(dataset.revisions.first()?))
}

fn id(bytes: &Vec<u8>) -> Option<RevisionId> {
    RevisionId::try_from(bytes.as_slice()).ok()
}

/// A client of the control protocol of a cache node.
///
/// # Errors
/// When nobody answers there.
pub async fn connect(host: &str) -> Result<CacheNodeClient<Channel>, tonic::transport::Error> {
    let channel = endpoint(names::control_url(host))?.connect().await?;
    Ok(CacheNodeClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

fn endpoint(url: String) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url)?
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_MAX)
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use penstock_protocol::level::LEVEL;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_new_leader_says_nothing_of_nodes_that_it_has_not_tried() {
        let (changed, mut news) = mpsc::unbounded_channel();
        let links = Links::new(changed);
        let key: RuntimeKey = ("n".into(), "pool".into());
        assert!(links.pool(&key).settling, "it knows nothing of the pool");
        // No name of a host, so it fails at once.
        links.set(&key, &["no host".into()], wire::NodeConfig::default());
        assert!(links.pool(&key).settling, "it has not tried");
        news.recv().await.unwrap();
        let pool = links.pool(&key);
        assert!(!pool.settling && pool.away.is_some(), "it has tried");

        // From here on the test speaks for the node.
        links.lock()[&key].nodes["no host"].task.abort();
        let report = |generation| wire::NodeReport {
            missing_packages: vec![vec![1]],
            config_generation: generation,
            ..wire::NodeReport::default()
        };
        links.set_report(&key, "no host", report(1));
        news.recv().await.unwrap();
        for generation in 2..100 {
            links.set_report(&key, "no host", report(generation));
        }
        news.recv().await.unwrap();
        assert!(news.try_recv().is_err(), "many reports are told once");
        let pool = links.pool(&key);
        assert!(pool.misses(&[1]) && !pool.misses(&[2]) && pool.away.is_none());
    }

    #[tokio::test]
    async fn a_cache_node_of_before_understands_nothing_that_needs_a_level() {
        let (changed, _news) = mpsc::unbounded_channel();
        let links = Links::new(changed);
        let key: RuntimeKey = ("n".into(), "pool".into());
        let hosts = ["old node", "new node", "newer node", "silent node"].map(str::to_owned);
        links.set(&key, &hosts, wire::NodeConfig::default());
        // From here on the test speaks for the nodes, as far as one of before can speak.
        for node in links.lock()[&key].nodes.values() {
            node.task.abort();
        }
        for (host, understands) in [("old node", 0), ("new node", 1), ("newer node", 2)] {
            let report = wire::NodeReport {
                understands,
                ..wire::NodeReport::default()
            };
            links.set_report(&key, host, report);
        }
        let pool = links.pool(&key);
        for (level, expected) in [(1, &["new node", "newer node"][..]), (2, &["newer node"]), (3, &[])] {
            assert_eq!(pool.understanding(&hosts, level), expected, "{level}");
        }
    }

    #[tokio::test]
    async fn what_nodes_report_of_use_is_remembered_when_they_say_it_no_more() {
        let (changed, _news) = mpsc::unbounded_channel();
        let links = Links::new(changed);
        let key: RuntimeKey = ("n".into(), "pool".into());
        let [current, used, once_used, newest, unused] = [0, 1, 2, 3, 4].map(|byte| RevisionId([byte; 32]));
        let all = [current, used, once_used, newest, unused];
        let minutes = |minutes: u64| Instant::now() + Duration::from_secs(60 * minutes);
        assert_eq!(
            links.standings(&key, &all, minutes(0)),
            [Standing::InUse; 5],
            "nobody is known"
        );
        let hosts = ["no host".to_owned(), "none".to_owned()];
        let config = |newest: RevisionId| wire::NodeConfig {
            datasets: vec![wire::Dataset {
                revisions: vec![newest.as_bytes().to_vec(), unused.as_bytes().to_vec()],
                ..wire::Dataset::default()
            }],
            ..wire::NodeConfig::default()
        };
        links.set(&key, &hosts, config(newest));
        hosts
            .iter()
            .for_each(|host| links.lock()[&key].nodes[host].task.abort());
        let report = |used: &[RevisionId]| wire::NodeReport {
            revisions_in_use: used.iter().map(|id| id.as_bytes().to_vec()).collect(),
            understands: LEVEL,
            ..wire::NodeReport::default()
        };
        links.set_report(&key, "none", report(&[]));
        links.set_report(&key, "no host", report(&[once_used]));
        links.set_report(&key, "no host", report(&[used]));
        // A new revision takes the place of the newest.
        links.set(&key, &hosts, config(unused));
        // One that reports still is enough for what the other one said.
        let lost = links.lose(&key, "no host");
        assert!(lost);
        let [in_use, doubtful, gone] = [Standing::InUse, Standing::Doubtful, Standing::Unused];
        for (minute, expected) in [
            (0, [in_use; 5]),
            (9, [in_use; 5]),
            (11, [doubtful, in_use, in_use, gone, doubtful]),
            (59, [doubtful, in_use, in_use, gone, doubtful]),
            (61, [doubtful, gone, gone, gone, gone]),
        ] {
            assert_eq!(
                links.standings(&key, &all, minutes(minute)),
                expected,
                "after {minute} minutes"
            );
        }
        links.set_report(&key, "none", report(&[used]));
        assert_eq!(
            links.standings(&key, &all, minutes(600)),
            [doubtful, in_use, gone, gone, gone],
            "it reports on"
        );
        // The pool is made smaller: what the one that goes said counts from now.
        links.set_report(&key, "no host", report(&[once_used]));
        links.set(&key, &hosts[1..], config(unused));
        assert_eq!(
            links.standings(&key, &[current, once_used], minutes(59)),
            [doubtful, in_use]
        );
        assert_eq!(
            links.standings(&key, &[current, once_used], minutes(61)),
            [doubtful, gone]
        );
        // One of before there were levels says nothing of use, so nothing is known.
        links.set_report(&key, "none", wire::NodeReport::default());
        assert_eq!(
            links.standings(&key, &all, minutes(600)),
            [in_use; 5],
            "one says nothing"
        );
        links.set_report(&key, "none", report(&[]));
        assert_eq!(
            links.standings(&key, &[current, once_used], minutes(600)),
            [doubtful, gone]
        );
        links.lose(&key, "none");
        assert_eq!(links.standings(&key, &all, minutes(600)), [in_use; 5], "nobody reports");
    }

    #[tokio::test]
    async fn a_cache_node_that_falls_silent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty SETTINGS frame, as every HTTP/2 server sends first, and then nothing: the machine has crashed.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let channel = endpoint(format!("http://{address}")).unwrap().connect().await.unwrap();
        let (_configs, receiver) = watch::channel(wire::NodeConfig::default());
        let link = async { CacheNodeClient::new(channel).link(WatchStream::new(receiver)).await };
        let given_up = tokio::time::timeout(KEEP_ALIVE_INTERVAL + KEEP_ALIVE_MAX + Duration::from_secs(5), link);
        assert!(given_up.await.expect("it is waited for without an end").is_err());
        silent.abort();
    }
}
