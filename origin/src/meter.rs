//! A source's own limit: so many requests a second, and so many bytes a second. And how often it was asked for what.
//!
//! Whoever reads waits *before* a request ([`Meter::turn`]) and *between* the pieces of a body ([`Meter::taken`]), where nobody measures
//! how long the origin takes: to wait for one's own limit must not look like an origin that is late, stalls or is gone. While a read is
//! on its way nothing waits: what it asks for beside its bytes (where a file lies, a token, whether it still is what was listed) is owed,
//! and who comes next waits for it. All
//! other requests (listings, first contact) wait where they are sent.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::poll_fn;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::ObjectVersion;

use crate::limits::LIMIT_SAVED_MAX;
use crate::{Body, Origin, OriginError, Pages};

tokio::task_local! {
    /// A read is on its way; whether the turn of its first request was waited for and is not used yet.
    static READING: Cell<bool>;
}

/// What is asked of origins, as far as it costs something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What there is, and first contact.
    List,
    /// Bytes, and what has to be known to get them.
    Read,
}

impl Kind {
    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
        }
    }
}

/// How often each source was asked for what; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<(String, Kind), u64>>>);

impl Tally {
    /// Requests so far, by the identity of the source.
    pub fn asked(&self) -> Vec<(String, Kind, u64)> {
        let counts = lock(&self.0);
        let each = counts.iter();
        each.map(|((source, kind), count)| (source.clone(), *kind, *count))
            .collect()
    }

    /// Forgets all other sources.
    pub fn keep_only(&self, sources: &BTreeSet<String>) {
        lock(&self.0).retain(|(source, _), _| sources.contains(source));
    }

    fn add(&self, source: &str, kind: Kind) {
        *lock(&self.0).entry((source.to_owned(), kind)).or_default() += 1;
    }
}

/// The limit of one source; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    requests: Option<Mutex<Bucket>>,
    bytes: Option<Mutex<Bucket>>,
    tally: Tally,
    /// The source's; known when its client is made.
    identity: OnceLock<String>,
}

/// So much each second. What is not used is saved for a moment; what is taken beyond that is owed.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: f64,
    /// Less than nothing when something is owed.
    left: f64,
    filled_at: Instant,
}

impl Bucket {
    fn new(per_second: f64, now: Instant) -> Self {
        let mut bucket = Self {
            per_second,
            left: 0.0,
            filled_at: now,
        };
        bucket.left = bucket.most();
        bucket
    }

    /// One request can always be saved for.
    fn most(&self) -> f64 {
        (self.per_second * LIMIT_SAVED_MAX.as_secs_f64()).max(1.0)
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.most());
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes it, and says after how long nothing is owed any more: those who take wait one after the other.
    fn take(&mut self, amount: f64, now: Instant) -> Duration {
        self.fill(now);
        self.left -= amount;
        Duration::try_from_secs_f64(-self.left / self.per_second).unwrap_or_default()
    }

    fn takes_now(&mut self, amount: f64, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.left >= amount;
        if is_there {
            self.left -= amount;
        }
        is_there
    }
}

/// A request that was taken and not sent yet: given back when nobody waits for it any more.
struct Reserved<'a>(Option<&'a Mutex<Bucket>>);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(bucket) = self.0 {
            lock(bucket).left += 1.0;
        }
    }
}

impl Meter {
    /// That of a source with these limits; counts in `tally`.
    pub(super) fn of(limits: Option<&wire::Limits>, tally: &Tally) -> Self {
        let now = Instant::now();
        let bucket = |per_second: f64| (per_second > 0.0).then(|| Mutex::new(Bucket::new(per_second, now)));
        let wire::Limits {
            requests_per_thousand_seconds,
            bytes_per_second,
        } = limits.copied().unwrap_or_default();
        Self(Arc::new(Shared {
            requests: bucket(requests_per_thousand_seconds as f64 / 1000.0),
            bytes: bucket(bytes_per_second as f64),
            tally: tally.clone(),
            identity: OnceLock::new(),
        }))
    }

    /// Waits until one more read may be sent; `false` when that is not so before `until`, and nothing was taken then.
    pub async fn turn(&self, until: Instant) -> bool {
        let Some(bucket) = &self.0.requests else { return true };
        let mut reserved = Reserved(Some(bucket));
        let now = Instant::now();
        let ready_at = now + lock(bucket).take(1.0, now);
        tokio::time::sleep_until(ready_at.min(until).into()).await;
        if ready_at <= until {
            reserved.0 = None;
        }
        ready_at <= until
    }

    /// Whether one more may be sent now.
    pub fn takes_turn(&self) -> bool {
        let bucket = self.0.requests.as_ref();
        bucket.is_none_or(|bucket| lock(bucket).takes_now(1.0, Instant::now()))
    }

    /// So many bytes of a body came; waits until more may come.
    pub async fn taken(&self, bytes: usize) {
        let Some(bucket) = &self.0.bytes else { return };
        let wait = lock(bucket).take(bytes as f64, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// A request is sent next.
    pub(super) async fn sending(&self) {
        let paid = READING.try_with(|paid| paid.replace(false));
        let kind = if paid.is_ok() { Kind::Read } else { Kind::List };
        if let Some(identity) = self.0.identity.get() {
            self.0.tally.add(identity, kind);
        }
        match (paid, &self.0.requests) {
            (Ok(true), _) | (_, None) => {}
            (Ok(false), Some(bucket)) => drop(lock(bucket).take(1.0, Instant::now())),
            (Err(_), Some(bucket)) => {
                let mut reserved = Reserved(Some(bucket));
                let wait = lock(bucket).take(1.0, Instant::now());
                tokio::time::sleep(wait).await;
                reserved.0 = None;
            }
        }
    }
}

/// Does what belongs to a read whose turn was waited for.
async fn reading<F: Future>(what: F) -> F::Output {
    READING.scope(Cell::new(true), what).await
}

/// An origin with its meter.
pub(super) struct Metered {
    origin: Arc<dyn Origin>,
    meter: Meter,
}

impl Metered {
    /// `meter` is that of the transport of `origin`.
    pub(super) fn of(origin: Arc<dyn Origin>, meter: Meter) -> Arc<dyn Origin> {
        // Nobody has set it before: each origin has a meter of its own.
        let _ = meter.0.identity.set(origin.identity());
        Arc::new(Self { origin, meter })
    }
}

/// An origin that keeps to these limits, for the tests of others.
#[cfg(any(test, feature = "test-support"))]
pub fn metered(origin: Arc<dyn Origin>, limits: wire::Limits) -> Arc<dyn Origin> {
    Metered::of(origin, Meter::of(Some(&limits), &Tally::default()))
}

#[async_trait]
impl Origin for Metered {
    fn identity(&self) -> String {
        self.origin.identity()
    }

    fn place(&self) -> String {
        self.origin.place()
    }

    fn is_a_cache(&self) -> bool {
        self.origin.is_a_cache()
    }

    fn list(&self) -> Pages<'_> {
        self.origin.list()
    }

    fn list_below(&self, start: &str) -> Option<Pages<'_>> {
        self.origin.list_below(start)
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let mut body = reading(self.origin.read(object, bytes, range)).await?;
        // What is asked while it comes belongs to the read, and is owed.
        let pieces = poll_fn(move |context| READING.sync_scope(Cell::new(false), || body.poll_next_unpin(context)));
        Ok(pieces.boxed())
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.meter)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Takes amounts at milliseconds since the beginning; how many milliseconds each has to wait.
    fn waits(per_second: f64, taken: &[(u64, f64)]) -> Vec<u128> {
        let start = Instant::now();
        let mut bucket = Bucket::new(per_second, start);
        let wait = |(at, amount): &(u64, f64)| bucket.take(*amount, start + millis(*at)).as_millis();
        taken.iter().map(wait).collect()
    }

    #[test]
    fn a_second_is_saved_and_whoever_comes_then_waits_behind_those_before() {
        for (per_second, taken, expected) in [
            (10.0, vec![(0, 1.0); 13], [vec![0; 10], vec![100, 200, 300]].concat()),
            // Nothing is saved for longer.
            (10.0, vec![(60_000, 10.0), (60_000, 1.0)], vec![0, 100]),
            (
                10.0,
                vec![(0, 10.0), (100, 1.0), (100, 1.0), (350, 1.0)],
                vec![0, 0, 100, 0],
            ),
            // Less than one a second.
            (0.5, vec![(0, 1.0), (0, 1.0), (1000, 1.0)], vec![0, 2000, 3000]),
            // More at once than is saved is owed.
            (
                1024.0,
                vec![(0, 4096.0), (3000, 1024.0), (5000, 1.0)],
                vec![3000, 1000, 0],
            ),
            // A clock that stands or goes back gives nothing.
            (10.0, vec![(100, 10.0), (50, 1.0), (100, 1.0)], vec![0, 100, 200]),
        ] {
            assert_eq!(waits(per_second, &taken), expected, "{per_second} {taken:?}");
        }
    }

    fn meter(requests_per_thousand_seconds: u64) -> Meter {
        let limits = wire::Limits {
            requests_per_thousand_seconds,
            bytes_per_second: 0,
        };
        Meter::of(Some(&limits), &Tally::default())
    }

    fn left(meter: &Meter) -> f64 {
        lock(meter.0.requests.as_ref().unwrap()).left
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_is_given_back() {
        let meter = meter(1);
        let now = Instant::now();
        assert!(meter.turn(now + millis(10_000)).await, "one is saved");
        // The next one is there in a thousand seconds.
        assert!(!meter.turn(now).await, "it would be too late");
        let before = left(&meter);
        assert!(
            tokio::time::timeout(millis(1), meter.turn(now + millis(2_000_000)))
                .await
                .is_err()
        );
        assert!(tokio::time::timeout(millis(1), meter.sending()).await.is_err());
        assert!((left(&meter) - before).abs() < 0.1, "{} {before}", left(&meter));
    }

    #[tokio::test]
    async fn a_read_waits_before_it_is_sent_and_owes_what_else_it_asks() {
        let meter = meter(1);
        assert!(meter.turn(Instant::now() + millis(10_000)).await);
        let before = left(&meter);
        reading(async {
            meter.sending().await;
            assert!((left(&meter) - before).abs() < 0.1, "it has waited for that");
            meter.sending().await;
            meter.sending().await;
        })
        .await;
        assert!((before - left(&meter) - 2.0).abs() < 0.1, "{} {before}", left(&meter));
        assert!(!meter.takes_turn());
    }

    #[tokio::test]
    async fn who_has_no_limit_never_waits_and_is_counted() {
        let tally = Tally::default();
        let meter = Meter::of(None, &tally);
        meter.sending().await;
        assert_eq!(tally.asked(), []);
        let _ = meter.0.identity.set("s3://b".into());
        for _ in 0..3 {
            assert!(meter.turn(Instant::now()).await && meter.takes_turn());
            reading(meter.sending()).await;
        }
        meter.sending().await;
        meter.taken(1 << 40).await;
        let expected = [
            ("s3://b".to_owned(), Kind::List, 1),
            ("s3://b".to_owned(), Kind::Read, 3),
        ];
        assert_eq!(tally.asked(), expected);
        tally.keep_only(&BTreeSet::from(["other".to_owned()]));
        assert_eq!(tally.asked(), []);
    }
}
