//! What all reads of a client know together: the ring, and of each node its idle lanes and whether it answers.
//!
//! One lock, never held while something is awaited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use penstock_protocol::frame::{Header, Kind, Status};
use penstock_protocol::ring::Ring;
use penstock_tls::Identity;

use crate::health::{Event, Health};
use crate::lane::{Doubt, Lane, LaneError};
use crate::limits::{IDLE_LANES_MAX, VERDICT_VALID};
use crate::probe::{self, Verdict};

pub(crate) struct Nodes {
    identity: Option<Arc<Identity>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ring: Arc<Ring>,
    /// All owners of something failed, so the members may be others now.
    ring_is_doubted: bool,
    /// Whose reply carried a larger epoch: it is being asked for its ring, and nobody else meanwhile.
    learning_from: Option<String>,
    members: HashMap<String, Member>,
    /// By the member and the address that is asked: its own, or the one at which a lane's peer was found.
    probes: HashMap<(String, String), Probe>,
}

#[derive(Default)]
struct Member {
    idle: Vec<Lane>,
    health: Health,
}

struct Probe {
    verdict: Verdict,
    ended: Option<Instant>,
}

impl Nodes {
    /// Nodes of which nothing is known; with an identity, TLS is spoken with them.
    pub(crate) fn new(identity: Option<Arc<Identity>>) -> Self {
        Self {
            identity,
            state: Mutex::default(),
        }
    }

    /// The ring, if there is one.
    pub(crate) fn ring(&self) -> Option<Arc<Ring>> {
        let ring = self.lock().ring.clone();
        (!ring.members.is_empty()).then_some(ring)
    }

    /// Whether nobody needs to ask for another ring.
    pub(crate) fn ring_is_fresh(&self) -> bool {
        let state = self.lock();
        !state.ring.members.is_empty() && !state.ring_is_doubted
    }

    /// After all owners failed by the ring of this epoch: any ring that is learnt next replaces it.
    pub(crate) fn doubt_ring(&self, epoch: u64) {
        let mut state = self.lock();
        state.ring_is_doubted |= state.ring.epoch == epoch;
    }

    /// The same members, those that did not answer last. Begins to probe the ones that rested long enough.
    pub(crate) fn alive_first<'a>(self: &Arc<Self>, members: &[&'a str]) -> Vec<&'a str> {
        let mut state = self.lock();
        let (alive, avoided): (Vec<&str>, Vec<&str>) = members.iter().partition(|address| {
            if state.note(address, Event::Wanted) {
                self.begin_probe(&mut state, address, address);
            }
            !state.health(address).is_avoided()
        });
        alive.into_iter().chain(avoided).collect()
    }

    /// Asks a node for its ring, on a lane of its own.
    pub(crate) fn probe(self: &Arc<Self>, address: &str) -> Verdict {
        self.begin_probe(&mut self.lock(), address, address)
    }

    /// One request on an idle or new lane; `body` reads what follows the header.
    ///
    /// # Errors
    /// The status of a refusal, if it was one, and a sentence that names the node.
    pub(crate) async fn round_trip(
        self: &Arc<Self>,
        address: &str,
        request: Header,
        body: impl AsyncFnOnce(&mut Lane, &Header) -> Result<(), LaneError>,
    ) -> Result<Header, (Option<Status>, String)> {
        let failed = |error: LaneError| (None, self.failed(address, &error));
        let idle = self
            .lock()
            .members
            .get_mut(address)
            .and_then(|member| member.idle.pop());
        let was_idle = idle.is_some();
        let mut lane = match idle {
            Some(lane) => lane,
            None => self.connect(address).await.map_err(failed)?,
        };
        let mut reply = lane.ask(&request).await;
        if was_idle && matches!(reply, Err(LaneError::Closed(_))) {
            // The peer closed it while it was idle; that says nothing about the peer.
            lane = self.connect(address).await.map_err(failed)?;
            reply = lane.ask(&request).await;
        }
        let reply = reply.map_err(failed)?;
        self.hear_epoch(address, reply.ring_epoch);
        let refusal = if reply.kind == Kind::Error {
            Some(lane.text(reply.length).await.map_err(failed)?)
        } else {
            body(&mut lane, &reply).await.map_err(failed)?;
            None
        };
        self.answered(address, lane);
        match refusal {
            None => Ok(reply),
            Some(text) => Err((Some(reply.status), format!("{address}: {text}"))),
        }
    }

    async fn connect(self: &Arc<Self>, address: &str) -> Result<Lane, LaneError> {
        let (nodes, member) = (Arc::downgrade(self), address.to_owned());
        let doubt: Doubt = Box::new(move |peer| match nodes.upgrade() {
            Some(nodes) => nodes.is_there(&member, &peer.to_string()),
            None => Verdict::pending().1,
        });
        Lane::connect((address, address), self.identity.as_deref(), Some(doubt)).await
    }

    /// Learns the ring of a member that has a newer one, in the background and once at a time.
    fn hear_epoch(self: &Arc<Self>, address: &str, epoch: u64) {
        let mut state = self.lock();
        let is_learning = state.learning_from.as_ref().is_some_and(|from| state.is_probed(from));
        if epoch > state.ring.epoch && !is_learning {
            state.learning_from = Some(address.to_owned());
            self.begin_probe(&mut state, address, address);
        }
    }

    /// Whether the peer of a silent lane answers. It is asked where the lane ends: the member's name may lead elsewhere by now.
    fn is_there(self: &Arc<Self>, member: &str, peer: &str) -> Verdict {
        let mut state = self.lock();
        let recent = state.probes.get(&key(member, peer)).filter(|probe| probe.is_recent());
        match recent {
            Some(probe) => probe.verdict.clone(),
            None => self.begin_probe(&mut state, member, peer),
        }
    }

    /// Begins a probe of `member` at `address`, or joins the one that runs.
    fn begin_probe(self: &Arc<Self>, state: &mut State, member: &str, address: &str) -> Verdict {
        state
            .probes
            .retain(|_, probe| probe.verdict.is_pending() || probe.is_recent());
        if let Some(running) = state
            .probes
            .get(&key(member, address))
            .filter(|probe| probe.verdict.is_pending())
        {
            return running.verdict.clone();
        }
        let (judge, verdict) = Verdict::pending();
        let probe = Probe {
            verdict: verdict.clone(),
            ended: None,
        };
        state.probes.insert(key(member, address), probe);
        let longest = state.health(member).probe_max();
        let (nodes, member, address) = (self.clone(), member.to_owned(), address.to_owned());
        tokio::spawn(async move {
            let identity = nodes.identity.as_deref();
            let ring = probe::ring_of((&member, &address), identity, longest).await;
            judge.say(nodes.probed(&member, &address, ring));
        });
        verdict
    }

    fn probed(&self, member: &str, address: &str, ring: Result<Ring, String>) -> Result<(), String> {
        let mut state = self.lock();
        if let Some(probe) = state.probes.get_mut(&key(member, address)) {
            probe.ended = Some(Instant::now());
        }
        match ring {
            Ok(ring) => {
                state.note(member, Event::Answered);
                state.learn(ring);
                Ok(())
            }
            Err(said) => {
                state.fail(member);
                Err(said)
            }
        }
    }

    /// Remembers that a member did not answer; returns the sentence about it.
    fn failed(&self, address: &str, error: &LaneError) -> String {
        self.lock().fail(address);
        format!("{address}: {error}")
    }

    fn answered(&self, address: &str, lane: Lane) {
        let mut state = self.lock();
        state.note(address, Event::Answered);
        let member = state.members.entry(address.to_owned()).or_default();
        if member.idle.len() < IDLE_LANES_MAX {
            member.idle.push(lane);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn health(&self, address: &str) -> Health {
        self.members
            .get(address)
            .map(|member| member.health)
            .unwrap_or_default()
    }

    /// Tells the member's health; returns whether a probe is to be sent.
    fn note(&mut self, address: &str, event: Event) -> bool {
        let (health, probe) = self.health(address).next(event, Instant::now());
        if health != self.health(address) {
            self.members.entry(address.to_owned()).or_default().health = health;
        }
        probe
    }

    fn is_probed(&self, address: &str) -> bool {
        self.probes
            .get(&key(address, address))
            .is_some_and(|probe| probe.verdict.is_pending())
    }

    fn fail(&mut self, address: &str) {
        self.note(address, Event::Failed);
        if let Some(member) = self.members.get_mut(address) {
            member.idle.clear();
        }
    }

    fn learn(&mut self, ring: Ring) {
        let is_better = self.ring.members.is_empty() || self.ring_is_doubted || ring.epoch > self.ring.epoch;
        if is_better && !ring.members.is_empty() {
            self.ring = Arc::new(ring);
            self.ring_is_doubted = false;
        }
    }
}

fn key(member: &str, address: &str) -> (String, String) {
    (member.to_owned(), address.to_owned())
}

impl Probe {
    fn is_recent(&self) -> bool {
        self.ended.is_some_and(|at| at.elapsed() < VERDICT_VALID)
    }
}
