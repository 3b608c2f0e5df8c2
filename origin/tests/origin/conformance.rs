//! What each kind of origin has to do, against a real server of its kind, with a proxy between that does what networks do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use penstock_origin::meter::Tally;
use penstock_origin::{Environment, Network, Origin, OriginError, Reach, client_over, client_within};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion};

use crate::proxy::{Fault, Proxy};
use crate::tls::certificates_are_looked_at;

/// A real server with a place of its own for one test.
#[async_trait]
pub trait Store: Send + Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// The source that holds what was put, as if the server were at `address`.
    fn source(&self, address: SocketAddr) -> wire::Source;

    /// The same with keys that are wrong, and the secret in them; `None` where there are none.
    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)>;

    /// The same of a bucket or folder that does not exist.
    fn nowhere(&self, address: SocketAddr) -> wire::Source;

    /// Makes an object, or overwrites it with another version.
    async fn put(&self, key: &str, bytes: &[u8]);

    /// Removes one.
    async fn remove(&self, key: &str);

    /// Keys that few know how to treat, and that the server can hold.
    fn odd_keys(&self) -> Vec<&'static str>;

    /// Whether the version that was listed can still be read when another one took its place, or none.
    fn keeps_versions(&self) -> bool {
        false
    }

    /// Whether it says when objects changed.
    fn has_times(&self) -> bool {
        true
    }

    /// When an object that was put changed, nanoseconds since 1970; `None` when only the server knows.
    fn time_of(&self, _key: &str) -> Option<i64> {
        None
    }

    /// Objects that are more than a page of a listing; 0 where they take too long to put.
    fn more_than_a_page(&self) -> usize {
        0
    }

    /// Whether all that a client is told passes the proxy, and as HTTP.
    fn is_http(&self) -> bool {
        true
    }

    /// Whether a client can be told to speak TLS.
    fn has_tls(&self) -> bool {
        self.is_http()
    }
}

/// Long enough for any server on this machine, short for a test that waits for it.
const SILENCE_MAX: Duration = Duration::from_millis(1500);

const THROTTLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const ERROR: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

pub fn client(source: &wire::Source) -> std::sync::Arc<dyn Origin> {
    let network = Network {
        silence_max: SILENCE_MAX,
        authorities: source.authorities.clone(),
        ..Network::default()
    };
    client_over(source, &network).unwrap()
}

pub fn content(key: &str, bytes: usize) -> Vec<u8> {
    let seed = key
        .bytes()
        .fold(7u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte));
    (0..bytes).map(|at| seed.wrapping_add((at % 251) as u8)).collect()
}

async fn read_range(origin: &dyn Origin, listed: &Listed, range: std::ops::Range<u64>) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

pub async fn read(origin: &dyn Origin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    read_range(origin, listed, 0..listed.bytes).await
}

pub async fn one(origin: &dyn Origin, key: &str) -> Listed {
    let listed = origin.list_all().await.unwrap();
    listed.into_iter().find(|listed| listed.key == key).unwrap()
}

/// The whole suite. One server for all of it: some take seconds to start.
pub async fn conforms(store: &dyn Store) {
    lists_and_reads_what_is_there(store).await;
    a_change_is_never_read_as_what_was_listed(store).await;
    what_is_not_there_and_what_is_not_allowed_is_said(store).await;
    networks_break_and_nothing_is_half_read(store).await;
    a_change_under_a_read_is_never_mixed_in(store).await;
    a_limit_is_kept(store).await;
    if store.has_tls() {
        certificates_are_looked_at(store).await;
    }
    // The last, for the objects stay.
    all_pages_are_listed(store).await;
}

/// As many bytes as stores take at the most below the prefix, in parts that file systems take.
fn longest_key() -> String {
    let part = "k".repeat(254);
    [part.as_str(); 4].join("/")
}

fn unix_nanos() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

async fn lists_and_reads_what_is_there(store: &dyn Store) {
    let mut expected = BTreeMap::new();
    for key in store.odd_keys() {
        expected.insert(key.to_owned(), content(key, 40));
    }
    for (key, bytes) in [
        ("deep/er/file.bin", 300_000),
        ("empty", 0),
        ("large.bin", 2_500_000),
        ("one", 1),
        (&longest_key(), 1),
    ] {
        expected.insert(key.to_owned(), content(key, bytes));
    }
    // Servers say whole seconds, and their clocks may be some milliseconds behind.
    let before = unix_nanos() - 2_000_000_000;
    for (key, bytes) in &expected {
        store.put(key, bytes).await;
    }
    let after = unix_nanos() + 1_000_000_000;
    let origin = client(&store.source(store.address()));
    let mut pages: Vec<Vec<Listed>> = origin.list().try_collect().await.unwrap();
    let mut listed: Vec<Listed> = pages.drain(..).flatten().collect();
    // Folders as such are no objects.
    listed.retain(|listed| !listed.key.ends_with('/') || expected.contains_key(&listed.key));
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    let keys: Vec<_> = listed.iter().map(|listed| &listed.key).collect();
    assert_eq!(keys, expected.keys().collect::<Vec<_>>());
    for listed in &listed {
        let expected = &expected[&listed.key];
        assert_eq!(listed.bytes, expected.len() as u64, "{}", listed.key);
        let times = match store.time_of(&listed.key) {
            Some(time) => time..=time,
            None => before..=after,
        };
        assert!(
            times.contains(&listed.modified_unix_nanos) || !store.has_times(),
            "{}: changed at {} and not in {times:?}",
            listed.key,
            listed.modified_unix_nanos
        );
        if listed.bytes > 0 {
            assert!(read(&*origin, listed).await.unwrap() == *expected, "{}", listed.key);
        }
    }
    let large = one(&*origin, "large.bin").await;
    for range in [0..1, 1..2, 4095..4097, 1_000_000..2_100_000, 2_499_999..2_500_000] {
        let got = read_range(&*origin, &large, range.clone()).await.unwrap();
        let expected = &expected["large.bin"][range.start as usize..range.end as usize];
        assert!(got == expected, "{range:?}");
    }
    for start in ["deep/", "deep/er/f", "l", "nothing"] {
        let Some(below) = origin.list_below(start) else {
            continue;
        };
        let below: Vec<Listed> = below.try_concat().await.unwrap();
        let keys: BTreeSet<&String> = below.iter().map(|listed| &listed.key).collect();
        let expected: BTreeSet<&String> = expected.keys().filter(|key| key.starts_with(start)).collect();
        assert!(keys.len() == below.len() && keys == expected, "{start}: {keys:?}");
    }
    let again = origin.list_all().await.unwrap();
    let same = |listed: &Listed| again.iter().any(|other| other == listed);
    assert!(listed.iter().all(same), "what does not change is listed as it was");
    for key in expected.keys() {
        store.remove(key).await;
    }
}

async fn a_change_is_never_read_as_what_was_listed(store: &dyn Store) {
    let (first, second) = (content("a", 5000), content("b", 5000));
    store.put("changes", &first).await;
    store.put("goes", &first).await;
    let origin = client(&store.source(store.address()));
    let (changes, goes) = (one(&*origin, "changes").await, one(&*origin, "goes").await);
    store.put("changes", &second).await;
    store.remove("goes").await;
    let is_there = store.keeps_versions();
    for listed in [&changes, &goes] {
        match read(&*origin, listed).await {
            Ok(bytes) => assert!(is_there && bytes == first, "{} was read", listed.key),
            Err(OriginError::Drifted(text)) => {
                assert!(!is_there && text.contains(&listed.key), "{text}");
            }
            Err(other) => panic!("{}: {other:?}", listed.key),
        }
    }
    let changed = one(&*origin, "changes").await;
    assert_ne!(changed.version, changes.version);
    assert!(read(&*origin, &changed).await.unwrap() == second);
    // Longer and shorter.
    for bytes in [5001, 4999] {
        store.put("changes", &content("c", bytes)).await;
        let error = read(&*origin, &changed).await;
        assert!(
            store.keeps_versions() || matches!(error, Err(OriginError::Drifted(_))),
            "{error:?}"
        );
    }
    store.remove("changes").await;
}

async fn what_is_not_there_and_what_is_not_allowed_is_said(store: &dyn Store) {
    let nowhere = client(&store.nowhere(store.address()));
    let error = nowhere.list_all().await.unwrap_err();
    assert!(matches!(error, OriginError::NotFound(_)), "{error:?}");
    if let Some((source, secret)) = store.wrong_keys(store.address()) {
        store.put("there", b"x").await;
        let right = client(&store.source(store.address()));
        let there = one(&*right, "there").await;
        let wrong = client(&source);
        for error in [
            wrong.list_all().await.unwrap_err(),
            read(&*wrong, &there).await.unwrap_err(),
        ] {
            assert!(matches!(error, OriginError::Denied(_)), "{error:?}");
            assert!(!format!("{error:?}{source:?}").contains(secret), "{error:?}");
        }
        assert_eq!(read(&*right, &there).await.unwrap(), b"x");
        store.remove("there").await;
    }
}

async fn networks_break_and_nothing_is_half_read(store: &dyn Store) {
    let bytes = content("file", 900_000);
    store.put("file", &bytes).await;
    let proxy = Proxy::to(store.address()).await;
    let source = store.source(proxy.address);
    let listed = one(&*client(&source), "file").await;
    assert!(proxy.connections() > 0, "the proxy is on the way");
    let unreachable = |error: &OriginError| matches!(error, OriginError::Unreachable(_));
    for fault in [Fault::Refused, Fault::SilentAfter(0), Fault::CutAfter(20)] {
        proxy.set(fault);
        let error = client(&source).list_all().await.unwrap_err();
        assert!(unreachable(&error) && error.may_pass(), "{fault:?}: {error:?}");
    }
    if store.is_http() {
        for (fault, wait) in [(Fault::Answer(THROTTLE), Some(7)), (Fault::Answer(ERROR), None)] {
            proxy.set(fault);
            let origin = client(&source);
            let listing = origin.list_all().await.unwrap_err();
            let reading = read(&*origin, &listed).await.unwrap_err();
            for error in [listing, reading] {
                assert!(error.may_pass(), "{error:?}");
                let asked = match &error {
                    OriginError::Throttled { wait, .. } => wait.map(|wait| wait.as_secs()),
                    _ => None,
                };
                assert_eq!(asked, wait, "{error:?}");
            }
        }
        for fault in [Fault::CutAfter(300_000), Fault::SilentAfter(300_000)] {
            proxy.set(fault);
            let error = read(&*client(&source), &listed).await.unwrap_err();
            assert!(unreachable(&error), "{fault:?}: {error:?}");
        }
    }
    proxy.set(Fault::Trickle);
    let origin = client(&source);
    assert!(read(&*origin, &listed).await.unwrap() == bytes, "slowly, but all of it");
    proxy.set(Fault::None);
    assert!(read(&*client(&source), &listed).await.unwrap() == bytes, "as before");
    store.remove("file").await;
}

async fn a_change_under_a_read_is_never_mixed_in(store: &dyn Store) {
    let (first, second) = (content("a", 400_000), content("b", 400_000));
    store.put("written", &first).await;
    let direct = client(&store.source(store.address()));
    let listed = one(&*direct, "written").await;
    let proxy = Proxy::to(store.address()).await;
    proxy.set(Fault::Trickle);
    let origin = client(&store.source(proxy.address));
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let mut body = origin.read(&object, listed.bytes, 0..listed.bytes).await.unwrap();
    let mut came = body.next().await.unwrap().unwrap().to_vec();
    store.put("written", &second).await;
    let end = loop {
        match body.next().await {
            Some(Ok(piece)) => came.extend(piece),
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    assert!(came == first[..came.len()], "a byte of another version was read");
    match end {
        Ok(()) => assert_eq!(came.len(), first.len()),
        // Whoever asks again is told that it is another one.
        Err(error) => assert!(
            error.may_pass() || matches!(error, OriginError::Drifted(_)),
            "{error:?}"
        ),
    }
    match read(&*direct, &listed).await {
        Ok(bytes) => assert!(store.keeps_versions() && bytes == first),
        Err(error) => assert!(
            !store.keeps_versions() && matches!(error, OriginError::Drifted(_)),
            "{error:?}"
        ),
    }
    store.remove("written").await;
}

async fn a_limit_is_kept(store: &dyn Store) {
    store.put("limited", b"x").await;
    let mut source = store.source(store.address());
    let listed = one(&*client(&source), "limited").await;
    source.limits = Some(wire::Limits {
        requests_per_thousand_seconds: 5000,
        bytes_per_second: 0,
    });
    let limited = client_within(&source, &Environment::default(), &Reach::default(), &Tally::default());
    let (origin, began) = (limited.unwrap(), Instant::now());
    for _ in 0..15 {
        let meter = origin.meter().unwrap();
        assert!(meter.turn(began + Duration::from_secs(60)).await);
        assert_eq!(read(&*origin, &listed).await.unwrap(), b"x");
    }
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1900),
        "15 requests of 5 a second took {took:?}"
    );
    store.remove("limited").await;
}

async fn all_pages_are_listed(store: &dyn Store) {
    let names = (0..store.more_than_a_page()).map(|number| format!("many/{number:05}"));
    let expected: Vec<String> = names.collect();
    let Some(last) = expected.last() else { return };
    let puts = expected.iter().map(|key| store.put(key, key.as_bytes()));
    futures::stream::iter(puts)
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
    let origin = client(&store.source(store.address()));
    let mut pages: Vec<Vec<Listed>> = origin.list().try_collect().await.unwrap();
    pages.retain(|page| !page.is_empty());
    assert!(pages.len() > 1, "more than a page");
    let listed = pages.into_iter().flatten();
    let mut keys: Vec<String> = listed.map(|listed| listed.key).collect();
    keys.retain(|key| key.starts_with("many/"));
    keys.sort_unstable();
    assert!(keys == expected, "{} of {}", keys.len(), expected.len());
    let listed = one(&*origin, last).await;
    assert_eq!(read(&*origin, &listed).await.unwrap(), last.as_bytes());
}
