//! What a client of a hub remembers from one read to the next: at which commits files were, and where large files are kept. It
//! must not know how either is asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Mutex as AsyncMutex;

use super::http::Lead;
use crate::OriginError;
use crate::limits::{COMMITS_MAX, LEAD_AGE_MAX, LEADS_MAX, LOOK_UP_PAUSE};

/// The commits that the revision stood for, newest first.
#[derive(Default)]
pub(super) struct Commits {
    known: Mutex<VecDeque<Arc<str>>>,
    /// When the revision was looked up last, and what came of it. Held by who does it, so that one does it for all.
    looked_up: AsyncMutex<Option<(Instant, Found)>>,
}

type Found = Result<Arc<str>, OriginError>;

impl Commits {
    pub(super) fn known(&self) -> Vec<Arc<str>> {
        lock(&self.known).iter().cloned().collect()
    }

    /// The revision stands for this one now.
    pub(super) fn remember(&self, commit: &Arc<str>) {
        let mut known = lock(&self.known);
        known.retain(|other| other != commit);
        known.push_front(commit.clone());
        known.truncate(COMMITS_MAX);
    }

    /// What the revision stands for, looked up unless that was done a moment ago.
    pub(super) async fn newest(&self, look_up: impl Future<Output = Found>) -> Found {
        let asked = Instant::now();
        let mut looked_up = self.looked_up.lock().await;
        if let Some((at, found)) = &*looked_up
            && (*at >= asked || found.is_ok() && at.elapsed() < LOOK_UP_PAUSE)
        {
            return found.clone();
        }
        let found = look_up.await;
        if let Ok(commit) = &found {
            self.remember(commit);
        }
        *looked_up = Some((Instant::now(), found.clone()));
        found
    }
}

/// Where the hub said that contents are kept, by path and id. It counts questions, and a file is read in many ranges.
#[derive(Default)]
pub(super) struct Leads(Mutex<HashMap<(String, String), (Lead, Instant)>>);

impl Leads {
    pub(super) fn get(&self, key: &str, tag: &str) -> Option<Lead> {
        let leads = lock(&self.0);
        let (lead, since) = leads.get(&(key.to_owned(), tag.to_owned()))?;
        (since.elapsed() < LEAD_AGE_MAX).then(|| lead.clone())
    }

    pub(super) fn remember(&self, key: &str, tag: &str, lead: Lead) {
        let mut leads = lock(&self.0);
        if leads.len() >= LEADS_MAX {
            leads.retain(|_, (_, since)| since.elapsed() < LEAD_AGE_MAX);
        }
        if leads.len() >= LEADS_MAX {
            // Rare, and it costs each of them one question.
            leads.clear();
        }
        leads.insert((key.to_owned(), tag.to_owned()), (lead, Instant::now()));
    }

    pub(super) fn forget(&self, key: &str, tag: &str) {
        lock(&self.0).remove(&(key.to_owned(), tag.to_owned()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
