//! Builds under way and their outcomes, in memory: a new leader asks again, which costs a listing and nothing else.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::reflector::ObjectRef;
use penstock_crds::{Dataset, Source};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::build_failed::Reason;
use penstock_protocol::control::cache_node::build_reply::Outcome;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::limits::{BUILD_MAX, BUILD_PAUSE_MAX, BUILD_PAUSE_MIN, BUILD_SLOT_MAX, BUILDS_MAX, PACKAGE_COPIES};
use crate::{links, names};

/// All builds; clones share them.
#[derive(Clone)]
pub struct Builds(Arc<Shared>);

struct Shared {
    entries: Mutex<HashMap<String, Entry>>,
    slots: Semaphore,
    changed: mpsc::UnboundedSender<ObjectRef<Dataset>>,
}

struct Entry {
    state: State,
    /// Ends the build; one that has ended does not mind.
    task: AbortHandle,
}

/// How the build of a Dataset stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// None was asked for.
    Idle,
    /// A cache node works on it.
    Running {
        /// What it began with.
        basis: Basis,
        /// What the one before came to, which is so until this one is done.
        last: Option<Failure>,
    },
    /// It waits to be committed.
    Built(Box<Done>),
    /// It failed; the next may begin after the pause.
    Failed(Failure),
}

/// Why a build failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What the cache node says of the sources; `None` when the fault is with the cache nodes themselves.
    pub reason: Option<Reason>,
    /// For people.
    pub message: String,
    /// Where the source stands in the tree that is at fault, if one is and the cache node says which.
    pub source_path: Option<String>,
    /// What it began with.
    pub basis: Basis,
    /// When it failed.
    pub at: Instant,
    /// How often in a row.
    pub failures: u32,
}

impl Failure {
    /// How long the next build has to wait; zero when it may begin.
    pub fn pause_left(&self) -> Duration {
        let pause = BUILD_PAUSE_MIN
            .saturating_mul(1 << self.failures.saturating_sub(1).min(8))
            .min(BUILD_PAUSE_MAX);
        pause.saturating_sub(self.at.elapsed())
    }

    /// Whether a source is at fault, and not the cache nodes.
    pub fn is_of_a_source(&self) -> bool {
        !matches!(self.reason, None | Some(Reason::ParentLost))
    }
}

impl State {
    /// What the last build that ended came to, if it failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure)
            | Self::Running {
                last: Some(failure), ..
            } => Some(failure),
            Self::Idle | Self::Running { last: None, .. } | Self::Built(_) => None,
        }
    }
}

/// What a build began with, as the Dataset was seen then: it may have been edited since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// Id of the revision that was committed.
    pub committed: Option<String>,
    /// Digest of the sources in the spec.
    pub sources_digest: String,
    /// The sources of the spec, without what only a listing needs.
    pub sources: Vec<Source>,
    /// Newest revisions of the other Datasets among them.
    pub other_revisions: Vec<String>,
    /// The refresh that was asked for.
    pub asked_refresh: Option<String>,
    /// When it began, before anything was listed.
    pub began: Option<Time>,
    /// The number of the newest notification that it knows of.
    pub told_number: u64,
    /// Whether only what notifications named is to be listed.
    pub is_partial: bool,
}

/// A build that went well.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// What the cache node says.
    pub built: wire::Built,
    /// What it began with.
    pub basis: Basis,
}

/// What is built, and where.
pub struct Order {
    /// The object to wake when it is done.
    pub dataset: ObjectRef<Dataset>,
    /// Its UID.
    pub uid: String,
    /// What the cache node is asked.
    pub request: wire::BuildRequest,
    /// What it begins with.
    pub basis: Basis,
    /// Hosts of cache nodes that understand it, the one to ask first.
    pub builders: Vec<String>,
    /// Hosts of all that are linked, who may keep a copy.
    pub hosts: Vec<String>,
}

impl Builds {
    /// Builds that say in `changed` which Dataset has news.
    pub fn new(changed: mpsc::UnboundedSender<ObjectRef<Dataset>>) -> Self {
        Self(Arc::new(Shared {
            entries: Mutex::default(),
            slots: Semaphore::new(BUILDS_MAX),
            changed,
        }))
    }

    /// How the build of a Dataset stands.
    pub fn state(&self, uid: &str) -> State {
        self.lock().get(uid).map_or(State::Idle, |entry| entry.state.clone())
    }

    /// Forgets an outcome that was acted upon, and ends what still runs.
    pub fn clear(&self, uid: &str) {
        if let Some(entry) = self.lock().remove(uid) {
            entry.task.abort();
        }
    }

    /// Starts a build in place of the one before: the caller has seen that it is of no use, because it began with other
    /// sources or cannot be committed.
    pub fn start(&self, order: Order) {
        let mut entries = self.lock();
        let last = match entries.remove(&order.uid) {
            Some(entry) => {
                entry.task.abort();
                let failure = entry.state.failure().cloned();
                failure.filter(|failure| failure.basis.sources_digest == order.basis.sources_digest)
            }
            None => None,
        };
        let (uid, failures) = (order.uid.clone(), last.as_ref().map_or(0, |last| last.failures));
        let state = State::Running {
            basis: order.basis.clone(),
            last,
        };
        let builds = self.clone();
        // It cannot end before its entry is there: that needs the lock.
        let task = tokio::spawn(async move {
            let outcome = builds.run(&order, failures).await;
            let mut entries = builds.lock();
            // Another one may stand in its place by now.
            if let Some(entry) = entries
                .get_mut(&order.uid)
                .filter(|entry| entry.task.id() == tokio::task::id())
            {
                entry.state = outcome;
            }
            drop(entries);
            // The receiver ends with the process.
            let _ = builds.0.changed.send(order.dataset);
        });
        entries.insert(
            uid,
            Entry {
                state,
                task: task.abort_handle(),
            },
        );
    }

    async fn run(&self, order: &Order, failures: u32) -> State {
        let failed = |reason, message: String, source_path| {
            State::Failed(Failure {
                reason,
                message,
                source_path,
                basis: order.basis.clone(),
                at: Instant::now(),
                failures: failures + 1,
            })
        };
        // The semaphore is never closed.
        let slot = self.0.slots.acquire().await;
        let mut build = pin!(tokio::time::timeout(BUILD_MAX, build(order)));
        let outcome = match tokio::time::timeout(BUILD_SLOT_MAX, &mut build).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // It may hang; others do not wait for it.
                drop(slot);
                build.await
            }
        };
        match outcome {
            Ok(Ok(Outcome::Built(built))) => State::Built(Box::new(Done {
                built,
                basis: order.basis.clone(),
            })),
            Ok(Ok(Outcome::Failed(wire::BuildFailed {
                reason,
                message,
                source_path,
            }))) => {
                let reason = Reason::try_from(reason).unwrap_or(Reason::Other);
                failed(Some(reason), message, source_path)
            }
            Ok(Err(message)) => failed(None, message, None),
            Err(_) => {
                let message = format!("the build took longer than {} s", BUILD_MAX.as_secs());
                failed(None, message, None)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the first host that answers to build, and others to keep a copy.
async fn build(order: &Order) -> Result<Outcome, String> {
    let mut last = "no cache node that understands the sources is linked".to_owned();
    for host in &order.builders {
        let mut client = match links::connect(host).await {
            Ok(client) => client,
            Err(error) => {
                last = format!("cache node {host} does not answer: {error}");
                continue;
            }
        };
        let reply = client
            .build(order.request.clone())
            .await
            .map_err(|status| format!("{host}: {}", status.message()))?;
        let outcome = reply
            .into_inner()
            .outcome
            .ok_or_else(|| format!("{host} sent an empty answer"))?;
        if let Outcome::Built(built) = &outcome {
            copies(order, host, built).await?;
        }
        return Ok(outcome);
    }
    Err(last)
}

/// Makes sure that enough nodes hold the package on disk before it is committed.
async fn copies(order: &Order, builder: &str, built: &wire::Built) -> Result<(), String> {
    let wanted = PACKAGE_COPIES.min(order.hosts.len());
    let mut have = 1;
    let mut last = String::new();
    for host in order.hosts.iter().filter(|host| *host != builder) {
        if have >= wanted {
            break;
        }
        let request = wire::KeepRequest {
            dataset_uid: order.uid.clone(),
            revision: built.revision.clone(),
            from: names::bulk_address(builder),
        };
        let kept = match links::connect(host).await {
            Ok(mut client) => client.keep(request).await.map_err(|status| status.message().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match kept {
            Ok(_) => have += 1,
            Err(error) => last = format!("{host}: {error}"),
        }
    }
    if have >= wanted {
        Ok(())
    } else {
        Err(format!(
            "only {have} of {wanted} cache nodes hold the new revision; {last}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(digest: &str, hosts: Vec<String>) -> Order {
        Order {
            dataset: ObjectRef::new("d").within("n"),
            uid: "u".into(),
            request: wire::BuildRequest::default(),
            basis: Basis {
                sources_digest: digest.into(),
                ..Basis::default()
            },
            builders: hosts.clone(),
            hosts,
        }
    }

    #[tokio::test]
    async fn a_build_of_other_sources_ends_the_one_that_runs_and_forgets_its_failure() {
        let (changed, mut news) = mpsc::unbounded_channel();
        let builds = Builds::new(changed);
        for failures in 1..3 {
            builds.start(order("wrong", Vec::new()));
            news.recv().await.unwrap();
            assert_eq!(builds.state("u").failure().unwrap().failures, failures);
        }
        builds.start(order("wrong", Vec::new()));
        builds.start(order("right", Vec::new()));
        let State::Running { basis, last } = builds.state("u") else {
            panic!("it does not run: {:?}", builds.state("u"));
        };
        assert_eq!((basis.sources_digest.as_str(), last), ("right", None));
        news.recv().await.unwrap();
        let state = builds.state("u");
        let failure = state.failure().unwrap();
        assert_eq!((failure.basis.sources_digest.as_str(), failure.failures), ("right", 1));
        assert!(!failure.is_of_a_source(), "cache nodes were at fault");
        builds.clear("u");
        assert_eq!(builds.state("u"), State::Idle);
    }

    #[tokio::test]
    async fn who_does_not_understand_what_is_built_is_not_asked_to_build_it() {
        let (changed, mut news) = mpsc::unbounded_channel();
        let builds = Builds::new(changed);
        // No names of hosts, so asking them fails at once.
        for (builders, said) in [
            (vec![], "no cache node that understands the sources is linked"),
            (vec!["new node".to_owned()], "cache node new node does not answer"),
        ] {
            builds.start(Order {
                builders,
                ..order("same", vec!["old node".to_owned(), "new node".to_owned()])
            });
            news.recv().await.unwrap();
            let state = builds.state("u");
            let message = &state.failure().unwrap().message;
            assert!(message.starts_with(said), "{message}");
        }
    }
}
