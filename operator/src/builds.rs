//! Builds under way and their outcomes, in memory: a new leader asks again, which costs a listing and nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use penstock_crds::Dataset;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::build_failed::Reason;
use penstock_protocol::control::cache_node::build_reply::Outcome;
use tokio::sync::{Semaphore, mpsc};

use crate::limits::{BUILD_MAX, BUILD_PAUSE_MAX, BUILD_PAUSE_MIN, BUILDS_MAX, PACKAGE_COPIES};
use crate::{links, names};

/// All builds; clones share them.
#[derive(Clone)]
pub struct Builds(Arc<Shared>);

struct Shared {
    states: Mutex<HashMap<String, State>>,
    slots: Semaphore,
    changed: mpsc::UnboundedSender<ObjectRef<Dataset>>,
}

/// How the build of a Dataset stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// None was asked for.
    Idle,
    /// A cache node works on it.
    Running,
    /// It waits to be committed.
    Built(Box<Done>),
    /// It failed; the next may begin after the pause.
    Failed {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
        /// When it failed.
        at: Instant,
        /// How often in a row.
        failures: u32,
    },
}

impl State {
    /// How long the next build has to wait; zero when it may begin.
    pub fn pause_left(&self) -> Duration {
        match self {
            Self::Failed { at, failures, .. } => {
                let pause = BUILD_PAUSE_MIN
                    .saturating_mul(1 << (failures - 1).min(8))
                    .min(BUILD_PAUSE_MAX);
                pause.saturating_sub(at.elapsed())
            }
            Self::Idle | Self::Running | Self::Built(_) => Duration::ZERO,
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
    /// The refresh that was asked for.
    pub asked_refresh: Option<String>,
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
    /// Hosts of cache nodes that are linked, the one to ask first.
    pub hosts: Vec<String>,
}

impl Builds {
    /// Builds that say in `changed` which Dataset has news.
    pub fn new(changed: mpsc::UnboundedSender<ObjectRef<Dataset>>) -> Self {
        Self(Arc::new(Shared {
            states: Mutex::default(),
            slots: Semaphore::new(BUILDS_MAX),
            changed,
        }))
    }

    /// How the build of a Dataset stands.
    pub fn state(&self, uid: &str) -> State {
        self.lock().get(uid).cloned().unwrap_or(State::Idle)
    }

    /// Forgets an outcome that was acted upon.
    pub fn clear(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Starts a build unless one runs. One that waits to be committed is thrown away: the caller has seen that it cannot be.
    pub fn start(&self, order: Order) {
        let mut states = self.lock();
        let failures = match states.get(&order.uid) {
            Some(State::Running) => return,
            Some(State::Failed { failures, .. }) => *failures,
            Some(State::Idle | State::Built(_)) | None => 0,
        };
        states.insert(order.uid.clone(), State::Running);
        drop(states);
        let builds = self.clone();
        tokio::spawn(async move {
            let state = builds.run(&order, failures).await;
            builds.lock().insert(order.uid.clone(), state);
            // The receiver ends with the process.
            let _ = builds.0.changed.send(order.dataset);
        });
    }

    async fn run(&self, order: &Order, failures: u32) -> State {
        // The semaphore is never closed.
        let _slot = self.0.slots.acquire().await;
        let failed = |reason, message: String| State::Failed {
            reason,
            message,
            at: Instant::now(),
            failures: failures + 1,
        };
        let outcome = match tokio::time::timeout(BUILD_MAX, build(order)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(message)) => return failed(Reason::Other, message),
            Err(_) => {
                return failed(
                    Reason::Other,
                    format!("the build took longer than {} s", BUILD_MAX.as_secs()),
                );
            }
        };
        match outcome {
            Outcome::Built(built) => State::Built(Box::new(Done {
                built,
                basis: order.basis.clone(),
            })),
            Outcome::Failed(wire::BuildFailed { reason, message }) => {
                failed(Reason::try_from(reason).unwrap_or(Reason::Other), message)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the first host that answers to build, and others to keep a copy.
async fn build(order: &Order) -> Result<Outcome, String> {
    let mut last = "no cache node is linked".to_owned();
    for host in &order.hosts {
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
