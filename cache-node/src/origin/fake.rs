//! An origin in memory for tests: counts what it is asked, can be held, cut and made to fail.

use penstock_protocol::checksum::crc32c;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use penstock_revision::{Listed, ObjectVersion, Version};
use tokio::sync::watch;

use super::{Body, Origin, OriginError};

/// One request that the fake has served.
pub type Asked = (String, Range<u64>);

/// The origin; clones share everything.
#[derive(Clone)]
pub struct FakeOrigin(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Bytes, Version)>,
    asked: Vec<Asked>,
    failures: VecDeque<OriginError>,
    cut_after: Option<u64>,
}

impl Default for FakeOrigin {
    fn default() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
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

    /// The next body ends after so many bytes, as a broken connection does.
    pub fn cut_next_after(&self, bytes: u64) {
        self.lock().cut_after = Some(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Origin for FakeOrigin {
    fn identity(&self) -> String {
        "fake://".to_owned()
    }

    async fn list(&self) -> Result<Vec<Listed>, OriginError> {
        let listed = |(key, (bytes, version)): (&String, &(Bytes, Version))| Listed {
            key: key.clone(),
            bytes: bytes.len() as u64,
            modified_unix_nanos: 0,
            version: version.clone(),
        };
        Ok(self.lock().objects.iter().map(listed).collect())
    }

    async fn read(&self, object: &ObjectVersion, _: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let (bytes, cut) = {
            let mut state = self.lock();
            state.asked.push((object.key.clone(), range.clone()));
            if let Some(error) = state.failures.pop_front() {
                return Err(error);
            }
            let drifted = || OriginError::Drifted(format!("{} changed", object.key));
            let (bytes, version) = state.objects.get(&object.key).ok_or_else(drifted)?;
            if *version != object.version {
                return Err(drifted());
            }
            (
                bytes.slice(range.start as usize..range.end as usize),
                state.cut_after.take(),
            )
        };
        let mut open = self.0.open.subscribe();
        // The sender lives as long as `self`, which the test holds.
        let _ = open.wait_for(|open| *open).await;
        let upto = cut.map_or(bytes.len(), |cut| bytes.len().min(cut as usize));
        let mut pieces: Vec<Result<Bytes, OriginError>> = bytes[..upto]
            .chunks(100_000)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        if upto < bytes.len() {
            pieces.push(Err(OriginError::Unreachable("the connection broke".to_owned())));
        }
        Ok(futures::stream::iter(pieces).boxed())
    }
}
