//! A big listing in several ranges of keys at once, from a server that lists keys in their order and can begin behind any of them.
//!
//! A range is the keys behind one up to another; all ranges together are all keys, whatever is chosen: a choice that is bad costs a
//! request and loses nothing. The listing begins as one range. After each [`Limits::pages_before_split`] pages one range is split,
//! so that requests stay near the fewest that there can be, and what is small is listed one page after the other.
//!
//! Where to split is not known before: a server does not say which keys it has. What was listed shows at which character keys
//! differ and how many they have in common. A key in the middle between what was listed last and the end of the range is tried; if there
//! is nothing behind it, the range has a nearer end from then on.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, try_unfold};
use futures::{FutureExt, StreamExt};
use penstock_revision::Listed;

use crate::limits::{LISTING_PAGES_BEFORE_SPLIT, LISTING_RANGES_MAX};
use crate::{OriginError, Pages};

/// How far a listing is split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Ranges that are listed at the same time.
    pub(crate) ranges_max: usize,
    /// Pages for each range that is begun.
    pub(crate) pages_before_split: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ranges_max: LISTING_RANGES_MAX,
            pages_before_split: LISTING_PAGES_BEFORE_SPLIT,
        }
    }
}

/// Where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageStart {
    /// Only keys that begin so are listed.
    pub(crate) start: String,
    /// Behind this key; it may be listed itself.
    pub(crate) behind: Option<String>,
    /// What the page before, which began behind the same key, said to ask for.
    pub(crate) token: Option<String>,
}

/// What a server lists page by page. Keys are those below the source's prefix.
#[async_trait]
pub(crate) trait Paged: Sync {
    /// A page, and what to ask for next.
    async fn page(&self, from: &PageStart) -> Result<(Vec<Listed>, Option<String>), OriginError>;
}

/// Whether a server keeps to what ranges need, as far as is known. Remembered, as keys can be listed without.
pub(crate) struct Splittable(AtomicBool);

impl Default for Splittable {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

/// The listing of the keys of `origin` that begin with `start`, each once.
pub(crate) fn list<'a>(
    origin: &'a dyn Paged,
    start: &str,
    splittable: &'a Splittable,
    limits: Limits,
    place: String,
) -> Pages<'a> {
    let mut listing = Listing {
        origin,
        start: start.to_owned(),
        splittable,
        limits,
        place,
        ranges: Vec::new(),
        asked: FuturesUnordered::new(),
        pages: 0,
    };
    listing.begin(Range::default());
    try_unfold(listing, async |mut listing| {
        let page = listing.next().await?;
        Ok(page.map(|page| (page, listing)))
    })
    .boxed()
}

/// Keys behind `behind` up to and with `end`.
#[derive(Debug, Default)]
struct Range {
    behind: Option<String>,
    end: Option<String>,
    /// The first and the last key of it that was listed.
    seen: Option<(String, String)>,
    /// The last key that was listed, of it or not.
    listed: Option<String>,
    /// A character at which keys differ, if it is known of the range that this one was a part of.
    differs_at: Option<usize>,
    is_done: bool,
}

type Answer = (usize, PageStart, Result<(Vec<Listed>, Option<String>), OriginError>);

struct Listing<'a> {
    origin: &'a dyn Paged,
    start: String,
    splittable: &'a Splittable,
    limits: Limits,
    /// The source for people.
    place: String,
    ranges: Vec<Range>,
    asked: FuturesUnordered<BoxFuture<'a, Answer>>,
    pages: usize,
}

impl Listing<'_> {
    fn begin(&mut self, range: Range) {
        let behind = range.behind.clone();
        self.ranges.push(range);
        let start = self.start.clone();
        let from = PageStart {
            start,
            behind,
            token: None,
        };
        self.ask(self.ranges.len() - 1, from);
    }

    fn ask(&self, number: usize, from: PageStart) {
        let origin = self.origin;
        let answer = async move {
            let answer = origin.page(&from).await;
            (number, from, answer)
        };
        self.asked.push(answer.boxed());
    }

    async fn next(&mut self) -> Result<Option<Vec<Listed>>, OriginError> {
        let Some((number, from, answer)) = self.asked.next().await else {
            return Ok(None);
        };
        let (mut page, token) = answer?;
        self.pages += 1;
        self.look_at_order(number, &page)?;
        if self.begins_before_its_range(number, &from, &page) {
            self.splittable.0.store(false, Ordering::Relaxed);
            if self.gives_back(number) {
                return Ok(Some(Vec::new()));
            }
        }
        let range = &mut self.ranges[number];
        let is_past_end = |listed: &Listed| range.end.as_ref().is_some_and(|end| listed.key > *end);
        range.is_done = token.is_none() || page.iter().any(is_past_end);
        page.retain(|listed| !is_past_end(listed) && range.behind.as_ref().is_none_or(|behind| listed.key > *behind));
        if let (Some(first), Some(last)) = (page.first(), page.last()) {
            let first = range.seen.take().map_or_else(|| first.key.clone(), |(first, _)| first);
            range.seen = Some((first, last.key.clone()));
        }
        if !range.is_done {
            self.ask(number, PageStart { token, ..from });
        }
        self.split();
        Ok(Some(page))
    }

    /// A range ends at the first key behind its end, so no key that belongs to it may come later.
    fn look_at_order(&mut self, number: usize, page: &[Listed]) -> Result<(), OriginError> {
        let range = &mut self.ranges[number];
        let follows = match (&range.listed, page.first()) {
            (Some(before), Some(first)) => *before <= first.key,
            _ => true,
        };
        let is_ordered = follows && page.is_sorted_by(|a, b| a.key <= b.key);
        if let Some(last) = page.last() {
            range.listed = Some(last.key.clone());
        }
        if is_ordered {
            return Ok(());
        }
        self.splittable.0.store(false, Ordering::Relaxed);
        if self.ranges.len() == 1 {
            return Ok(());
        }
        Err(OriginError::Other(format!(
            "{} lists keys out of their order; it is listed again, one page after the other",
            self.place
        )))
    }

    /// Whether the server does not care where it was told to begin.
    fn begins_before_its_range(&self, number: usize, from: &PageStart, page: &[Listed]) -> bool {
        let behind = self.ranges[number].behind.as_ref().filter(|_| from.token.is_none());
        behind.is_some_and(|behind| page.first().is_some_and(|first| first.key < *behind))
    }

    /// Makes a range that has just begun a part again of the one that it was taken from, if that is still listed.
    fn gives_back(&mut self, number: usize) -> bool {
        let (behind, end) = (self.ranges[number].behind.clone(), self.ranges[number].end.clone());
        let before = self
            .ranges
            .iter_mut()
            .find(|range| !range.is_done && range.end == behind);
        let Some(before) = before else { return false };
        before.end = end;
        self.ranges[number].is_done = true;
        true
    }

    /// Begins a range, if there may be one more and somebody has something to give.
    fn split(&mut self) {
        let under_way = self.ranges.iter().filter(|range| !range.is_done).count();
        if under_way == 0
            || under_way >= self.limits.ranges_max
            || self.ranges.len() > self.pages / self.limits.pages_before_split
            || !self.splittable.0.load(Ordering::Relaxed)
        {
            return;
        }
        // The fewer characters it has in common with its end, the more keys there may be.
        let widest = self
            .ranges
            .iter_mut()
            .filter(|range| !range.is_done)
            .filter_map(|range| Some((range.middle()?, range)))
            .min_by_key(|(Middle { in_common, .. }, _)| *in_common);
        let Some((Middle { key, at, in_common: _ }, range)) = widest else {
            return;
        };
        let end = range.end.replace(key.clone());
        self.begin(Range {
            behind: Some(key),
            end,
            differs_at: Some(at),
            ..Range::default()
        });
    }
}

/// A key in the middle of what is left of a range.
#[derive(Debug, PartialEq, Eq)]
struct Middle {
    key: String,
    /// The character at which it differs from the last key.
    at: usize,
    /// How many characters the last key has in common with the end.
    in_common: usize,
}

impl Range {
    /// `None` before the first page, and when there is nothing in between.
    fn middle(&self) -> Option<Middle> {
        let (first, last) = self.seen.as_ref()?;
        let chars = |text: &str| -> Vec<char> { text.chars().collect() };
        let (first, last) = (chars(first), chars(last));
        let end = self.end.as_deref().map(chars);
        let in_common = end.as_ref().map_or(0, |end| in_common(&last, end));
        // Before `in_common` all keys are the same. At `differs` they are known not to be, so the first place where they are not
        // lies between, and halving finds it.
        let differs = self.differs_at.unwrap_or(usize::MAX).min(in_common_of(&first, &last));
        let from = usize::midpoint(in_common, differs.max(in_common));
        let middle_at = |at: usize| {
            let below = match &end {
                Some(end) if at == in_common => Some(*end.get(at)?),
                _ => None,
            };
            let middle = between(*last.get(at)?, below)?;
            Some(last[..at].iter().copied().chain([middle]).collect())
        };
        (from..last.len()).find_map(|at| {
            Some(Middle {
                key: middle_at(at)?,
                at,
                in_common,
            })
        })
    }
}

fn in_common(a: &[char], b: &[char]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The same of two keys of which the first may be the second.
fn in_common_of(first: &[char], last: &[char]) -> usize {
    in_common(first, last).min(last.len().saturating_sub(1))
}

/// A character behind `from` and before `below`: in the middle of what is left of the digits or of the letters of one case, which is
/// what keys are made of.
fn between(from: char, below: Option<char>) -> Option<char> {
    let last = match from {
        '0'..='8' => '9',
        'A'..='Y' => 'Z',
        'a'..='y' => 'z',
        '9' => 'A',
        'Z' => 'a',
        other => char::from_u32(u32::from(other) + 1)?,
    };
    let last = match below {
        Some(below) => last.min(char::from_u32(u32::from(below).checked_sub(1)?)?),
        None => last,
    };
    let is_class = from.is_ascii_alphanumeric() && last.is_ascii_alphanumeric();
    let step = match u32::from(last).checked_sub(u32::from(from))? {
        0 => return None,
        left if is_class && !matches!(from, '9' | 'Z') => left.div_ceil(2),
        left => left,
    };
    char::from_u32(u32::from(from) + step)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Mutex;

    use futures::TryStreamExt;
    use penstock_revision::Version;
    use proptest::prelude::*;

    use super::*;

    /// A store in memory that answers in any order.
    struct Store {
        keys: Mutex<BTreeSet<String>>,
        /// Keys that are written while it is listed, one with each page.
        to_come: Mutex<Vec<String>>,
        page: usize,
        requests: Mutex<u64>,
        random: Mutex<u64>,
        fault: Fault,
        /// Most pages under way at the same time.
        at_once: Mutex<(usize, usize)>,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fault {
        None,
        /// Begins with the key that it was to begin behind, as GCS does.
        WithKey,
        /// Does not know that a listing may begin anywhere.
        FromTheStart,
        /// Lists folders before files whose names come before a slash.
        Folders,
    }

    impl Store {
        fn new(keys: impl IntoIterator<Item = String>, page: usize, fault: Fault) -> Self {
            Self {
                keys: Mutex::new(keys.into_iter().collect()),
                to_come: Mutex::default(),
                page,
                requests: Mutex::new(0),
                random: Mutex::new(1),
                fault,
                at_once: Mutex::default(),
            }
        }

        fn random(&self, of: u64) -> u64 {
            let mut random = self.random.lock().unwrap();
            *random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (*random >> 33) % of
        }

        fn requests(&self) -> u64 {
            *self.requests.lock().unwrap()
        }

        async fn listed(&self, splittable: &Splittable, limits: Limits) -> Result<Vec<String>, OriginError> {
            let pages: Vec<Vec<Listed>> = list(self, "", splittable, limits, "the store".into())
                .try_collect()
                .await?;
            Ok(pages.into_iter().flatten().map(|listed| listed.key).collect())
        }

        fn answer(&self, from: &PageStart) -> (Vec<Listed>, Option<String>) {
            let order = |key: &str| match self.fault {
                Fault::Folders => key.replace('/', "\0"),
                _ => key.to_owned(),
            };
            let keys = self.keys.lock().unwrap();
            let behind = from
                .token
                .as_ref()
                .or(from.behind.as_ref().filter(|_| self.fault != Fault::FromTheStart));
            let mut rest: Vec<&String> = keys
                .iter()
                .filter(|key| {
                    behind.is_none_or(|behind| {
                        order(key) > order(behind)
                            || self.fault == Fault::WithKey && from.token.is_none() && *key == behind
                    })
                })
                .collect();
            rest.sort_by_key(|key| order(key));
            let page: Vec<Listed> = rest
                .iter()
                .take(self.page)
                .map(|key| Listed {
                    key: (*key).clone(),
                    bytes: 1,
                    modified_unix_nanos: 0,
                    version: Version::None,
                })
                .collect();
            let next = (rest.len() > self.page).then(|| page.last().unwrap().key.clone());
            (page, next)
        }
    }

    #[async_trait]
    impl Paged for Store {
        async fn page(&self, from: &PageStart) -> Result<(Vec<Listed>, Option<String>), OriginError> {
            {
                let mut at_once = self.at_once.lock().unwrap();
                at_once.0 += 1;
                at_once.1 = at_once.1.max(at_once.0);
            }
            for _ in 0..self.random(5) {
                tokio::task::yield_now().await;
            }
            self.at_once.lock().unwrap().0 -= 1;
            *self.requests.lock().unwrap() += 1;
            let answer = self.answer(from);
            self.keys.lock().unwrap().extend(self.to_come.lock().unwrap().pop());
            Ok(answer)
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Requests that a listing may cost: those of a listing page by page, and one for each range. Where a page begins with the key that
    /// it should begin behind, it has a key less.
    fn requests_max(keys: usize, page: usize, limits: Limits, with_key: bool) -> u64 {
        let split = limits.pages_before_split as f64;
        let page = page as f64 - if with_key { 1.0 / split } else { 0.0 };
        (((keys as f64 / page).ceil() + 1.0) * split / (split - 1.0)).ceil() as u64 + 1
    }

    const LIMITS: Limits = Limits {
        ranges_max: 8,
        pages_before_split: 12,
    };

    fn key() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[0-9]{1,4}",
            3 => "[a-f0-9]{1,3}",
            2 => "n0[0-9]{3}",
            1 => "[ -~]{0,3}",
            1 => "\\PC{0,3}",
            1 => Just("\u{0}".to_owned()),
            1 => Just("\u{10ffff}".to_owned()),
            1 => Just("\u{d7ff}".to_owned()),
            1 => Just("9Zz~".to_owned()),
            1 => Just("x".repeat(300)),
        ];
        let long = prop_oneof![9 => Just(String::new()), 1 => Just("y".repeat(1000))];
        (long, prop::collection::vec(part, 1..4)).prop_map(|(long, parts)| {
            let mut key = long + &parts.join("/");
            while key.len() > 1024 {
                key.pop();
            }
            key
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 300, ..ProptestConfig::default() })]

        #[test]
        fn every_key_is_listed_once_with_few_requests_whatever_keys_there_are(
            keys in prop::collection::btree_set(key(), 0..600),
            prefix in prop_oneof![3 => Just(String::new()), 1 => "[ -~]{0,40}", 1 => Just("deep/".repeat(30))],
            to_come in prop::collection::vec(key(), 0..30),
            page in 2usize..8,
            pages_before_split in 3usize..13,
            with_key: bool,
            seed: u64,
        ) {
            let keys: BTreeSet<String> = keys.into_iter().map(|key| prefix.clone() + &key).collect();
            let store = Store::new(keys.clone(), page, if with_key { Fault::WithKey } else { Fault::None });
            *store.random.lock().unwrap() = seed;
            *store.to_come.lock().unwrap() = to_come.clone();
            let limits = Limits { ranges_max: 8, pages_before_split };
            let listed = run(store.listed(&Splittable::default(), limits)).unwrap();
            let mut counted: BTreeMap<&String, usize> = BTreeMap::new();
            for key in &listed {
                *counted.entry(key).or_default() += 1;
            }
            for (key, count) in &counted {
                prop_assert_eq!(*count, 1, "{:?}", key);
                prop_assert!(keys.contains(*key) || to_come.contains(key), "{:?}", key);
            }
            for key in &keys {
                prop_assert!(counted.contains_key(key), "{:?} was lost", key);
            }
            let max = requests_max(keys.len() + to_come.len(), page, limits, with_key);
            prop_assert!(store.requests() <= max, "{} requests of {}", store.requests(), max);
            prop_assert!(store.at_once.lock().unwrap().1 <= 8);
        }

        #[test]
        fn a_server_that_begins_where_it_likes_or_has_another_order_loses_nothing(
            keys in prop::collection::btree_set("[a-c][-!/0-9]{0,4}", 0..300),
            pages_before_split in 2usize..13,
            from_the_start: bool,
            seed: u64,
        ) {
            let store = Store::new(keys.clone(), 3, if from_the_start { Fault::FromTheStart } else { Fault::Folders });
            *store.random.lock().unwrap() = seed;
            let limits = Limits { ranges_max: 8, pages_before_split };
            let splittable = Splittable::default();
            let mut listed = run(store.listed(&splittable, limits));
            if let Err(error) = &listed {
                prop_assert!(!from_the_start && error.may_pass() && error.to_string().contains("out of their order"), "{}", error);
                listed = run(store.listed(&splittable, limits));
            }
            let mut listed = listed.unwrap();
            listed.sort();
            prop_assert_eq!(listed, keys.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_people_keep_is_listed_in_a_fraction_of_the_rounds() {
        let image_net = |i: u32| format!("train/n{:08}/n{:08}_{i:08}.JPEG", i % 1000 * 7919, i % 1000 * 7919);
        let flat = |i: u32| format!("img_{i:07}.jpg");
        let hashed = |i: u32| format!("data/{:016x}", u64::from(i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let shards = |i: u32| format!("set/part-{:05}-of-01024/{:06}.parquet", i % 1024, i);
        let dated = |i: u32| format!("logs/2026/{:02}/{:02}/{i}", i % 12 + 1, i % 28 + 1);
        for (name, key) in [
            ("folders", image_net as fn(u32) -> String),
            ("one folder", flat),
            ("hashes", hashed),
            ("shards", shards),
            ("dates", dated),
        ] {
            let store = Store::new((0..20_000).map(key), 50, Fault::None);
            let listed = run(store.listed(&Splittable::default(), LIMITS)).unwrap();
            assert_eq!(listed.len(), 20_000, "{name}");
            let fewest = 400u32;
            let rounds = rounds(&store);
            println!("{name}: {} requests for {fewest}, in {rounds} rounds", store.requests());
            assert!(
                store.requests() as f64 <= f64::from(fewest) * 1.1,
                "{name}: {} requests",
                store.requests()
            );
            assert!(rounds < u64::from(fewest) / 3, "{name}: {rounds} rounds");
        }
    }

    /// How many times an answer is waited for when each takes the same time.
    fn rounds(store: &Store) -> u64 {
        struct Rounds<'a> {
            store: &'a Store,
            round: tokio::sync::watch::Sender<u64>,
        }
        #[async_trait]
        impl Paged for Rounds<'_> {
            async fn page(&self, from: &PageStart) -> Result<(Vec<Listed>, Option<String>), OriginError> {
                let mut round = self.round.subscribe();
                let next = *round.borrow() + 1;
                round.wait_for(|round| *round >= next).await.unwrap();
                Ok(self.store.answer(from))
            }
        }
        run(async {
            let paced = Rounds {
                store,
                round: tokio::sync::watch::Sender::new(0),
            };
            let splittable = Splittable::default();
            let mut pages = list(&paced, "", &splittable, LIMITS, "the store".into());
            loop {
                // Everything that can be had in this round.
                while let Some(page) = pages.next().now_or_never() {
                    match page {
                        Some(page) => drop(page.unwrap()),
                        None => return *paced.round.borrow(),
                    }
                }
                paced.round.send_modify(|round| *round += 1);
                // Channels of tokio make a task pause that does not do so itself.
                tokio::task::yield_now().await;
            }
        })
    }
}
