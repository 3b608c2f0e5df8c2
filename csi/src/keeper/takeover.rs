//! Who holds which connection, and what is to be done so that everybody holds all of them. Pure.
//!
//! Each connection that is mounted on the node is kept by this process and by every mounter, so that each of them may end:
//!
//! ```text
//!               mounted here, left by a predecessor, or handed back
//!                                    │
//!                                    ▼
//!   ┌─ a mounter holds it, ──► kept by this process ──► handed over to every mounter ──► all hold it ─► Complete
//!   │  this process does not         │                                                      │
//!   │        │                       │ last pod gone                       a mounter leaves │ another serves:
//!   │   hand back                    ▼                                                      ▼ Resend
//!   │        └─► no mount of it ─► Stop: everybody lets go          the next mounter asks for Resend by itself
//!   └────────────────────────────────────────────────────────────────────────────────────────────────────────
//! ```
//!
//! It is level-based: [`Takeover::todo`] says what is left to be done with a mounter, however the present came about, and
//! what failed stays to be done. The order of steps does not matter; any of them may be lost with a process.

use std::collections::{BTreeMap, BTreeSet};

use penstock_protocol::ids::ConnectionId;

/// A connected mounter, or another csi container that hands over what it keeps. Never used twice.
pub type LinkId = u64;

/// What is to be done with a mounter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Ask it for the descriptors, which this process lost.
    TakeBack(ConnectionId),
    /// Give it the descriptors, which it lacks.
    HandOver(ConnectionId),
    /// Tell it that the connection is gone.
    Stop(ConnectionId),
    /// Make the kernel send again what another process took and can no longer answer.
    Resend(ConnectionId),
    /// Tell it that nothing is left to be done.
    Complete,
}

/// The present.
#[derive(Clone, Debug, Default)]
pub struct Takeover {
    kept: BTreeSet<ConnectionId>,
    links: BTreeMap<LinkId, Link>,
}

/// A mounter that is connected, or a csi container that was replaced, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whether it answers the kernel.
    pub serves: bool,
    /// Whether it answered the last letter.
    pub answers: bool,
    /// Whether it holds everything that this process does.
    pub complete: bool,
    /// How many connections it holds.
    pub holds: usize,
}

#[derive(Clone, Debug)]
struct Link {
    /// Whether it answers the kernel; another csi container does not.
    serves: bool,
    /// Whether it answered the last letter.
    answers: bool,
    holds: BTreeMap<ConnectionId, Held>,
    complete: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Somebody may have died with requests that this mounter could answer.
    resend: bool,
    /// Nobody wants it any more.
    unwanted: bool,
}

impl Takeover {
    /// A mounter came, and holds these connections already.
    pub fn joined(&mut self, link: LinkId, serves: bool, holds: impl IntoIterator<Item = ConnectionId>) {
        // What died while nobody looked was not resent.
        let held = Held {
            resend: serves,
            unwanted: false,
        };
        let holder = Link {
            serves,
            answers: true,
            holds: holds.into_iter().map(|id| (id, held)).collect(),
            complete: false,
        };
        self.links.insert(link, holder);
    }

    /// A mounter ended. What it took and did not answer, others are sent.
    pub fn left(&mut self, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else { return };
        if gone.serves {
            self.resend_to_others(Some(link));
        }
    }

    /// Whether a mounter answered a letter in time. One that did not may be stopped or hang, and so may what it took.
    pub fn heard(&mut self, link: LinkId, answers: bool) {
        let Some(holder) = self.links.get_mut(&link) else {
            return;
        };
        let before = std::mem::replace(&mut holder.answers, answers);
        if before && !answers && holder.serves {
            self.resend_to_others(Some(link));
        } else if !before && answers && holder.serves {
            // Meanwhile others may have ended, for whom it was not asked to answer.
            holder.holds.values_mut().for_each(|held| held.resend = true);
        }
    }

    /// Not only what the one was known to hold: it may have begun to serve more than it could say.
    fn resend_to_others(&mut self, than: Option<LinkId>) {
        for id in &self.kept {
            let others = self.links.iter_mut().filter(|(other, _)| Some(**other) != than);
            let mut serving = others.filter(|(_, holder)| holder.serves && holder.answers);
            if let Some(held) = serving.find_map(|(_, other)| other.holds.get_mut(id)) {
                held.resend = true;
            }
        }
    }

    /// This process keeps a connection from now on; `served_by` mounted it.
    pub fn kept(&mut self, id: ConnectionId, served_by: Option<LinkId>) {
        self.kept.insert(id);
        if let Some(holder) = served_by.and_then(|link| self.links.get_mut(&link)) {
            holder.holds.insert(id, Held::default());
        }
    }

    /// A mounter serves a connection that never came to be mounted.
    pub fn abandoned(&mut self, id: ConnectionId, link: LinkId) {
        if let Some(holder) = self.links.get_mut(&link) {
            let held = Held {
                resend: false,
                unwanted: true,
            };
            holder.holds.insert(id, held);
        }
    }

    /// A connection is unmounted, or was never mounted here: everybody lets go of it.
    pub fn unwanted(&mut self, id: ConnectionId) {
        self.kept.remove(&id);
        for holder in self.links.values_mut() {
            if let Some(held) = holder.holds.get_mut(&id) {
                held.unwanted = true;
            }
        }
    }

    /// Some time has passed since this process began, or since a mounter left. One that was not connected meanwhile may have
    /// taken requests and ended, and nobody noticed.
    pub fn settled(&mut self) {
        self.resend_to_others(None);
    }

    /// Whether a resend is asked for. Say no before it is done, not afterwards: while it is done another mounter may end, and
    /// what that one took since then is to be sent again too.
    pub fn ask_resend(&mut self, link: LinkId, id: ConnectionId, asked: bool) {
        let holder = self.links.get_mut(&link);
        if let Some(held) = holder.and_then(|holder| holder.holds.get_mut(&id)) {
            held.resend = asked;
        }
    }

    /// A step was taken.
    pub fn done(&mut self, link: LinkId, step: Step) {
        let Some(holder) = self.links.get_mut(&link) else {
            return;
        };
        match step {
            // Said by `kept`: it holds whatever became of the mounter.
            Step::TakeBack(_) => {}
            Step::HandOver(id) => {
                // It asked for a resend itself, but since then others may have ended, and the connection too.
                let held = Held {
                    resend: true,
                    unwanted: !self.kept.contains(&id),
                };
                holder.holds.insert(id, held);
            }
            Step::Stop(id) => drop(holder.holds.remove(&id)),
            // Said by `ask_resend`.
            Step::Resend(_) => {}
            Step::Complete => holder.complete = true,
        }
    }

    /// What is left to be done with a mounter, in the order in which it should be tried.
    pub fn todo(&self, link: LinkId) -> Vec<Step> {
        let Some(holder) = self.links.get(&link) else {
            return Vec::new();
        };
        let mut steps: Vec<_> = holder
            .holds
            .iter()
            .filter_map(|(id, held)| self.step(*id, *held))
            .collect();
        if holder.serves {
            let lacks = self.kept.iter().filter(|id| !holder.holds.contains_key(id));
            steps.extend(lacks.map(|id| Step::HandOver(*id)));
        }
        if steps.is_empty() && !holder.complete {
            steps.push(Step::Complete);
        }
        steps
    }

    fn step(&self, id: ConnectionId, held: Held) -> Option<Step> {
        match held {
            Held { unwanted: true, .. } => Some(Step::Stop(id)),
            _ if !self.kept.contains(&id) => Some(Step::TakeBack(id)),
            Held { resend: true, .. } => Some(Step::Resend(id)),
            _ => None,
        }
    }

    /// Whether this process keeps a connection.
    #[cfg(test)]
    pub fn keeps(&self, id: ConnectionId) -> bool {
        self.kept.contains(&id)
    }

    /// Whether a mounter answers the kernel on a connection.
    pub fn is_served(&self, id: ConnectionId) -> bool {
        self.links
            .values()
            .any(|holder| holder.serves && holder.answers && holder.holds.contains_key(&id))
    }

    /// Whether every mounter that is here holds everything, and this process too.
    pub fn is_complete(&self) -> bool {
        self.links.values().all(|holder| holder.complete)
    }

    /// Everybody who is connected.
    pub fn holders(&self) -> Vec<Holder> {
        let holders = self.links.values().map(|link| Holder {
            serves: link.serves,
            answers: link.answers,
            complete: link.complete,
            holds: link.holds.len(),
        });
        holders.collect()
    }

    /// Whether something is left to be done with a mounter that is here.
    pub fn is_incomplete(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|holder| !holder.complete)
    }

    /// The newest mounter of those that answer, or of all.
    pub fn newest(&self) -> Option<LinkId> {
        let serving = self.links.iter().filter(|(_, holder)| holder.serves);
        serving
            .max_by_key(|(link, holder)| (holder.answers, **link))
            .map(|(link, _)| *link)
    }
}

#[cfg(test)]
mod schedules;
