//! An origin in memory for tests: counts what it is asked, can be held, cut, slow, overloaded and away.

use penstock_protocol::checksum::crc32c;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use penstock_revision::{Listed, ObjectVersion, Version};
use tokio::sync::watch;

use crate::{Body, Origin, OriginError, Pages};

/// One request that the fake has served.
pub type Asked = (String, Range<u64>);

/// What an overloaded origin answers.
pub fn slow_down() -> OriginError {
    OriginError::Throttled {
        text: "slow down".to_owned(),
        wait: None,
    }
}

/// The origin; clones share everything.
#[derive(Clone)]
pub struct FakeOrigin(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    open: watch::Sender<bool>,
}

struct State {
    objects: BTreeMap<String, (Bytes, Version)>,
    asked: Vec<Asked>,
    failures: VecDeque<OriginError>,
    cut_after: Option<u64>,
    stall_after: Option<u64>,
    silent: usize,
    latency: Duration,
    gone: Option<OriginError>,
    at_once_max: usize,
    under_way: usize,
    under_way_most: usize,
}

/// A request that is being served, until its body has ended or was dropped.
struct Serving(FakeOrigin);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

impl Default for FakeOrigin {
    fn default() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            asked: Vec::new(),
            failures: VecDeque::new(),
            cut_after: None,
            stall_after: None,
            silent: 0,
            latency: Duration::ZERO,
            gone: None,
            at_once_max: usize::MAX,
            under_way: 0,
            under_way_most: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            open: watch::Sender::new(true),
        }))
    }
}

impl FakeOrigin {
    /// Writes an object; its version is the digest of its bytes.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let version = Version::ETag(crc32c(&bytes).to_string());
        self.lock().objects.insert(key.to_owned(), (bytes, version));
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        self.lock().objects.remove(key);
    }

    /// What was asked for so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// Bytes that were asked for so far.
    pub fn asked_bytes(&self) -> u64 {
        self.lock().asked.iter().map(|(_, range)| range.end - range.start).sum()
    }

    /// Holds the bodies of reads (`false`) until they are let go (`true`).
    pub fn let_go(&self, open: bool) {
        self.0.open.send_replace(open);
    }

    /// The next reads fail with these errors, one each.
    pub fn fail_with(&self, errors: impl IntoIterator<Item = OriginError>) {
        self.lock().failures.extend(errors);
    }

    /// How many of the next requests will fail.
    pub fn failures_left(&self) -> usize {
        let state = self.lock();
        state.failures.len() + usize::from(state.cut_after.is_some())
    }

    /// All reads fail with this error, until there is none.
    pub fn be_gone(&self, error: Option<OriginError>) {
        self.lock().gone = error;
    }

    /// The next body ends after so many bytes, as a broken connection does.
    pub fn cut_next_after(&self, bytes: u64) {
        self.lock().cut_after = Some(bytes);
    }

    /// The next body sends nothing more after so many bytes.
    pub fn stall_next_after(&self, bytes: u64) {
        self.lock().stall_after = Some(bytes);
    }

    /// The next so many reads are never answered.
    pub fn be_silent_for(&self, reads: usize) {
        self.lock().silent = reads;
    }

    /// How long each read takes to its first byte.
    pub fn answer_after(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// While so many requests are served, others are asked to slow down. Begins anew to count how many there were at once.
    pub fn serve_at_once(&self, requests_max: usize) {
        let mut state = self.lock();
        state.at_once_max = requests_max;
        state.under_way_most = 0;
    }

    /// Requests that are served now, and the most at once so far.
    pub fn under_way(&self) -> (usize, usize) {
        let state = self.lock();
        (state.under_way, state.under_way_most)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of one read.
struct Served {
    bytes: Bytes,
    cut: Option<u64>,
    stall: Option<u64>,
    is_silent: bool,
    latency: Duration,
}

impl FakeOrigin {
    fn serve(&self, object: &ObjectVersion, range: Range<u64>) -> Result<(Served, Serving), OriginError> {
        let mut state = self.lock();
        state.asked.push((object.key.clone(), range.clone()));
        if let Some(error) = state.failures.pop_front().or_else(|| state.gone.clone()) {
            return Err(error);
        }
        if state.under_way >= state.at_once_max {
            return Err(slow_down());
        }
        let drifted = || OriginError::Drifted(format!("{} changed", object.key));
        let (bytes, version) = state.objects.get(&object.key).ok_or_else(drifted)?;
        if *version != object.version {
            return Err(drifted());
        }
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let served = Served {
            bytes,
            cut: state.cut_after.take(),
            stall: state.stall_after.take(),
            is_silent: state.silent > 0,
            latency: state.latency,
        };
        state.silent = state.silent.saturating_sub(1);
        state.under_way += 1;
        state.under_way_most = state.under_way_most.max(state.under_way);
        Ok((served, Serving(self.clone())))
    }
}

#[async_trait]
impl Origin for FakeOrigin {
    fn identity(&self) -> String {
        "fake://".to_owned()
    }

    fn place(&self) -> String {
        self.identity()
    }

    fn list(&self) -> Pages<'_> {
        let listed = |(key, (bytes, version)): (&String, &(Bytes, Version))| Listed {
            key: key.clone(),
            bytes: bytes.len() as u64,
            modified_unix_nanos: 0,
            version: version.clone(),
        };
        let page = self.lock().objects.iter().map(listed).collect();
        futures::stream::iter([Ok(page)]).boxed()
    }

    async fn read(&self, object: &ObjectVersion, _: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let (served, serving) = self.serve(object, range)?;
        let Served {
            bytes,
            cut,
            stall,
            is_silent,
            latency,
        } = served;
        if is_silent {
            std::future::pending::<()>().await;
        }
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut open = self.0.open.subscribe();
        // The sender lives as long as `self`, which the test holds.
        let _ = open.wait_for(|open| *open).await;
        let upto = cut.or(stall).map_or(bytes.len(), |cut| bytes.len().min(cut as usize));
        let mut pieces: Vec<Result<Bytes, OriginError>> = bytes[..upto]
            .chunks(100_000)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        let mut stalls = false;
        if upto < bytes.len() {
            stalls = cut.is_none();
            pieces.extend(cut.map(|_| Err(OriginError::Unreachable("the connection broke".to_owned()))));
        }
        let body = futures::stream::iter(pieces).chain(futures::stream::once(async move {
            let _serving = serving;
            if stalls {
                std::future::pending::<()>().await;
            }
            Ok(Bytes::new())
        }));
        Ok(body.boxed())
    }
}
