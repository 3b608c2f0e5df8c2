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
    links: BTreeMap<LinkId, Holder>,
}

#[derive(Clone, Debug)]
struct Holder {
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
        let holder = Holder {
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
        self.resend_to_others(link, gone.holds.into_keys());
    }

    /// Whether a mounter answered a letter in time. One that did not may be stopped or hang, and so may what it took.
    pub fn heard(&mut self, link: LinkId, answers: bool) {
        let Some(holder) = self.links.get_mut(&link) else {
            return;
        };
        let falls_silent = holder.answers && !answers;
        holder.answers = answers;
        if falls_silent {
            let holds: Vec<_> = holder.holds.keys().copied().collect();
            self.resend_to_others(link, holds);
        }
    }

    fn resend_to_others(&mut self, link: LinkId, ids: impl IntoIterator<Item = ConnectionId>) {
        for id in ids {
            let others = self.links.iter_mut().filter(|(other, _)| **other != link);
            let mut serving = others.filter(|(_, holder)| holder.serves && holder.answers);
            if let Some(held) = serving.find_map(|(_, other)| other.holds.get_mut(&id)) {
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

    /// A step was taken.
    pub fn done(&mut self, link: LinkId, step: Step) {
        let Some(holder) = self.links.get_mut(&link) else {
            return;
        };
        match step {
            // Said by `kept`: it holds whatever became of the mounter.
            Step::TakeBack(_) => {}
            Step::HandOver(id) => {
                // It asked for a resend itself. Meanwhile the connection may have ended.
                let held = Held {
                    resend: false,
                    unwanted: !self.kept.contains(&id),
                };
                holder.holds.insert(id, held);
            }
            Step::Stop(id) => drop(holder.holds.remove(&id)),
            Step::Resend(id) => {
                if let Some(held) = holder.holds.get_mut(&id) {
                    held.resend = false;
                }
            }
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
