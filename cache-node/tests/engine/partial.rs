//! Builds that list only what may have changed: they come to the same bytes as those that list everything, or to nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use penstock_cache_node::builder::{BuildFailure, Source, build_revision, refresh_below};
use penstock_origin::{Body, Origin, OriginError, Pages, selected};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{
    BuildOptions, Listed, ObjectVersion, Outcome, Package, Scratch, SourceListing, Version, build,
};
use proptest::prelude::*;

/// A bucket that is only listed.
#[derive(Clone)]
struct Bucket {
    name: String,
    objects: Arc<Mutex<BTreeMap<String, Object>>>,
    /// How the keys begin that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    /// Whether it can be listed in part.
    has_parts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    bytes: u64,
    modified_unix_nanos: i64,
    version: Version,
}

impl Bucket {
    fn new(name: &str, has_parts: bool) -> Self {
        Self {
            name: name.to_owned(),
            objects: Arc::default(),
            asked: Arc::default(),
            has_parts,
        }
    }

    fn put(&self, key: &str, bytes: u64, number: u64) {
        let object = Object {
            bytes,
            modified_unix_nanos: 1_767_323_045_678_000_001 + number as i64,
            version: match number % 7 {
                // Nothing proves that it stays the same.
                0 => Version::None,
                1 => Version::Id(number.to_string()),
                _ => Version::ETag(format!("{number:032x}")),
            },
        };
        self.objects.lock().unwrap().insert(key.to_owned(), object);
    }

    fn remove(&self, key: &str) {
        self.objects.lock().unwrap().remove(key);
    }

    fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    /// Nothing is asked before somebody wants a page.
    fn pages(&self, start: &str) -> Pages<'_> {
        let start = start.to_owned();
        futures::stream::once(async move {
            self.asked.lock().unwrap().push(start.clone());
            futures::stream::iter(self.listed(&start))
        })
        .flatten()
        .boxed()
    }

    fn listed(&self, start: &str) -> Vec<Result<Vec<Listed>, OriginError>> {
        let objects = self.objects.lock().unwrap();
        let below = objects.iter().filter(|(key, _)| key.starts_with(start));
        let listed = below.map(|(key, object)| Listed {
            key: key.clone(),
            bytes: object.bytes,
            modified_unix_nanos: object.modified_unix_nanos,
            version: object.version.clone(),
        });
        let listed: Vec<Listed> = listed.collect();
        listed.chunks(3).map(|page| Ok(page.to_vec())).collect()
    }
}

#[async_trait]
impl Origin for Bucket {
    fn identity(&self) -> String {
        self.name.clone()
    }

    fn place(&self) -> String {
        self.name.clone()
    }

    fn list(&self) -> Pages<'_> {
        self.pages("")
    }

    fn list_below(&self, start: &str) -> Option<Pages<'_>> {
        self.has_parts.then(|| self.pages(start))
    }

    async fn read(&self, object: &ObjectVersion, _: u64, _: Range<u64>) -> Result<Body, OriginError> {
        Err(OriginError::Other(format!("nobody reads {}", object.key)))
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap()
        .block_on(future)
}

fn dirty(path: &str, keys: &[&str]) -> wire::Dirty {
    wire::Dirty {
        path: path.to_owned(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn source(path: &str, bucket: &Bucket, exclude: &[&str]) -> Source {
    let patterns = wire::Source {
        exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..wire::Source::default()
    };
    Source {
        path: path.to_owned(),
        origin: selected(Arc::new(bucket.clone()), &patterns).unwrap(),
    }
}

/// The first revision; nothing is read for it. `None` when there is nothing in a source: then there is no revision.
async fn first(sources: &[Source]) -> Option<Package> {
    let mut listings = Vec::new();
    for Source { path, origin } in sources {
        listings.push(SourceListing {
            identity: origin.identity(),
            path: path.clone(),
            objects: origin.list_all().await.unwrap(),
        });
    }
    if listings.iter().any(|listing| listing.objects.is_empty()) {
        return None;
    }
    match build(SpaceId([7; 16]), None, &listings, &BuildOptions::default()).unwrap() {
        Outcome::New(package) => Some(package),
        Outcome::Unchanged => None,
    }
}

async fn whole(sources: &[Source], parent: &Package) -> Result<Outcome, BuildFailure> {
    let parent = Some(parent.clone());
    build_revision(sources, parent, BuildOptions::default(), Scratch::memory()).await
}

async fn partial(
    sources: &[Source],
    parent: &Package,
    dirty: &[wire::Dirty],
    scratch: Scratch,
) -> Result<Option<Outcome>, BuildFailure> {
    refresh_below(sources, parent, dirty, BuildOptions::default(), scratch).await
}

fn new(outcome: Outcome) -> Package {
    match outcome {
        Outcome::New(package) => package,
        Outcome::Unchanged => panic!("nothing differs"),
    }
}

/// What becomes of one key.
#[derive(Clone, Debug)]
struct Change {
    of_second: bool,
    key: String,
    /// `None`: it is removed.
    bytes: Option<u64>,
    /// How many of its folders are said to be dirty instead of the key itself.
    folders_up: usize,
}

/// Few names, so that folders have markers and lose all that they had; files have other names than folders.
fn plain_key() -> impl Strategy<Value = String> {
    let folders = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4);
    let name = prop::option::weighted(0.6, prop::sample::select(vec!["1", "2", "tmp", "x.bin"]));
    (folders, name).prop_filter_map("no key", |(folders, name)| {
        let folders: String = folders.iter().map(|folder| format!("{folder}/")).collect();
        let key = folders + name.unwrap_or_default();
        (!key.is_empty()).then_some(key)
    })
}

fn awkward_key() -> impl Strategy<Value = String> {
    let any = prop::sample::select(vec![
        "a", "b", "bb", "A", "B", "tmp", "a~object", "%2F", "", ".", "..", "n\0l", "%00", "\u{e4}",
    ]);
    let long = "x".repeat(300);
    let part = prop_oneof![30 => any.prop_map(str::to_owned), 1 => Just(long)];
    let parts = prop::collection::vec(part, 1..4);
    (parts, prop::bool::weighted(0.3)).prop_filter_map("no key", |(parts, is_folder)| {
        let key = parts.join("/") + if is_folder { "/" } else { "" };
        (!key.is_empty()).then_some(key)
    })
}

fn key(awkward: bool) -> BoxedStrategy<String> {
    if awkward {
        awkward_key().boxed()
    } else {
        plain_key().boxed()
    }
}

/// With so many bytes a marker has some.
const MARKED: u64 = 77;

fn bytes(awkward: bool) -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 1, 5000, if awkward { MARKED } else { 4096 }])
}

fn bytes_of(key: &str, bytes: u64) -> u64 {
    // Mostly markers, as real stores have them.
    if key.ends_with('/') && bytes != MARKED {
        0
    } else {
        bytes
    }
}

fn changes(awkward: bool, count: usize) -> impl Strategy<Value = Vec<Change>> {
    let bytes = prop_oneof![1 => Just(None), 1 => bytes(awkward).prop_map(Some)];
    let change = (any::<bool>(), key(awkward), bytes, 0..3usize);
    let change = change.prop_map(|(of_second, key, bytes, folders_up)| Change {
        of_second,
        key,
        bytes,
        folders_up,
    });
    prop::collection::vec(change, 0..count)
}

fn beginning(change: &Change) -> &str {
    let mut key = change.key.as_str();
    for _ in 0..change.folders_up {
        let end = key.strip_suffix('/').unwrap_or(key).rfind('/');
        key = end.map_or(key, |end| &key[..=end]);
    }
    key
}

/// Changes both buckets round after round; each partial build is as the whole one.
fn compare(
    is_told: bool,
    layout: usize,
    objects: &[(bool, String, u64)],
    rounds: &[Vec<Change>],
) -> Result<(), TestCaseError> {
    let paths = [["", "b"], ["", "a/b"], ["one", "two"], ["x/y", "x"], ["", "z"]][layout];
    // The last one cannot be listed in part.
    let buckets = [Bucket::new("first", true), Bucket::new("second", layout != 4)];
    let mut number = 0;
    let mut put = |of_second: bool, key: &str, bytes: u64| {
        number += 1;
        buckets[usize::from(of_second)].put(key, bytes_of(key, bytes), number);
    };
    for (of_second, key, bytes) in objects {
        put(*of_second, key, *bytes);
    }
    let sources = [
        source(paths[0], &buckets[0], &["tmp", "**/c/*"]),
        source(paths[1], &buckets[1], &[]),
    ];
    let folder = tempfile::tempdir().unwrap();
    run(async {
        let Some(mut parent) = first(&sources).await else {
            return Ok(());
        };
        for (round, changes) in rounds.iter().enumerate() {
            for change in changes {
                match change.bytes {
                    Some(bytes) => put(change.of_second, &change.key, bytes),
                    None => buckets[usize::from(change.of_second)].remove(&change.key),
                }
            }
            let of = |second| {
                let of_source = changes.iter().filter(move |change| change.of_second == second);
                of_source.map(beginning).collect::<Vec<_>>()
            };
            let marks = [dirty(paths[0], &of(false)), dirty(paths[1], &of(true))];
            let scratch = match round % 2 {
                0 => Scratch::memory(),
                _ => Scratch::folder_beyond(folder.path(), 100),
            };
            let (whole, partial) = (
                whole(&sources, &parent).await,
                partial(&sources, &parent, &marks, scratch).await,
            );
            prop_assert!(!is_told || !matches!(partial, Ok(None)), "all of it is told exactly");
            match (whole, partial) {
                // It cannot be told exactly, so all is listed.
                (Ok(Outcome::New(whole)), Ok(None)) => parent = whole,
                (Ok(Outcome::Unchanged), Ok(None | Some(Outcome::Unchanged))) => {}
                (Ok(Outcome::New(whole)), Ok(Some(Outcome::New(partial)))) => {
                    prop_assert_eq!(whole.summary(), partial.summary());
                    prop_assert!(whole.all_extents().eq(partial.all_extents()), "the extents differ");
                    prop_assert!(whole.bytes() == partial.bytes(), "the images differ");
                    prop_assert_eq!(whole.id(), partial.id());
                    parent = partial;
                }
                (Err(BuildFailure::Empty(_)), Ok(None) | Err(BuildFailure::Empty(_))) => return Ok(()),
                (whole, partial) => {
                    return Err(TestCaseError::fail(format!(
                        "{whole:?}\n{partial:?}\n{:?}",
                        buckets[0].keys()
                    )));
                }
            }
        }
        Ok(())
    })
}

fn objects(awkward: bool, count: usize) -> impl Strategy<Value = Vec<(bool, String, u64)>> {
    prop::collection::vec((any::<bool>(), key(awkward), bytes(awkward)), 1..count)
}

proptest! {
    #[test]
    fn a_partial_build_comes_to_the_bytes_of_a_whole_one(
        layout in 0..5usize,
        objects in objects(false, 30),
        rounds in prop::collection::vec(changes(false, 12), 1..4),
    ) {
        // In the other layouts one source covers what another has.
        compare(matches!(layout, 2 | 4), layout, &objects, &rounds)?;
    }

    #[test]
    fn a_partial_build_of_awkward_keys_comes_to_the_bytes_of_a_whole_one_or_to_nothing(
        layout in 0..5usize,
        objects in objects(true, 12),
        rounds in prop::collection::vec(changes(true, 6), 1..4),
    ) {
        compare(false, layout, &objects, &rounds)?;
    }
}

/// A bucket with plain keys, one source of it, and its first revision.
async fn plain(has_parts: bool) -> (Bucket, [Source; 1], Package) {
    let bucket = Bucket::new("bucket", has_parts);
    for (number, key) in ["raw/1", "raw/2", "deep/er/only", "top", "empty", "marked/", "a/b"]
        .iter()
        .enumerate()
    {
        let bytes = if matches!(*key, "empty" | "marked/") { 0 } else { 10 };
        bucket.put(key, bytes, 2 + number as u64);
    }
    let sources = [source("", &bucket, &[])];
    let parent = first(&sources).await.unwrap();
    bucket.asked.lock().unwrap().clear();
    (bucket, sources, parent)
}

#[tokio::test]
async fn only_what_is_dirty_is_listed() {
    let (bucket, sources, parent) = plain(true).await;
    bucket.put("raw/3", 10, 100);
    bucket.put("unseen", 10, 101);
    let marks = [dirty("", &["raw/3", "raw/"])];
    let package = partial(&sources, &parent, &marks, Scratch::memory()).await.unwrap();
    let package = new(package.expect("plain keys are told exactly"));
    assert_eq!(*bucket.asked.lock().unwrap(), ["raw/"]);
    assert_eq!(package.summary().files, 7, "what nobody told of is not there");
    assert_eq!(package.parent(), Some(parent.id()));
}

#[tokio::test]
async fn a_folder_that_lost_its_last_object_is_listed_for_its_marker() {
    for has_marker in [false, true] {
        let (bucket, sources, _) = plain(true).await;
        if has_marker {
            bucket.put("deep/", 0, 50);
        }
        let parent = first(&sources).await.unwrap();
        bucket.remove("deep/er/only");
        bucket.asked.lock().unwrap().clear();
        let marks = [dirty("", &["deep/er/only"])];
        let package = partial(&sources, &parent, &marks, Scratch::memory()).await.unwrap();
        let package = new(package.unwrap());
        assert_eq!(*bucket.asked.lock().unwrap(), ["deep/er/only", "deep/"]);
        // The root, raw, marked, a, and deep if it has a marker.
        assert_eq!(package.summary().directories, 4 + u64::from(has_marker));
        assert_eq!(package.id(), new(whole(&sources, &parent).await.unwrap()).id());
    }
}

#[tokio::test]
async fn what_cannot_be_told_exactly_is_listed_as_a_whole() {
    // A source that is listed as a whole only; an empty object with a changed name; one that is left out; marks of another source.
    for (what, put, path, has_parts, is_partial) in [
        ("plain", None, "", true, true),
        ("no parts", None, "", false, true),
        ("an awkward key with bytes", Some(("raw/", 10)), "", true, true),
        ("an awkward folder", Some(("raw//x", 10)), "", true, false),
        ("an awkward key without", Some(("n\0l", 0)), "", true, false),
        ("one left out", Some(("raw/../x", 10)), "", true, false),
        ("another source", None, "elsewhere", true, false),
    ] {
        let (bucket, sources, _) = plain(has_parts).await;
        if let Some((key, bytes)) = put {
            bucket.put(key, bytes, 60);
        }
        let parent = first(&sources).await.unwrap();
        bucket.asked.lock().unwrap().clear();
        bucket.put("top", 11, 61);
        let marks = [dirty(path, &["top"])];
        let package = partial(&sources, &parent, &marks, Scratch::memory()).await.unwrap();
        assert_eq!(package.is_some(), is_partial, "{what}");
        let expected: &[&str] = match (is_partial, has_parts) {
            (false, _) => &[],
            (true, true) => &["top"],
            (true, false) => &[""],
        };
        assert_eq!(*bucket.asked.lock().unwrap(), expected, "{what}");
        if let Some(package) = package {
            assert_eq!(
                new(package).id(),
                new(whole(&sources, &parent).await.unwrap()).id(),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn a_source_that_was_emptied_is_said_to_be_empty() {
    let bucket = Bucket::new("bucket", true);
    bucket.put("only/one", 5, 2);
    let sources = [source("", &bucket, &[])];
    let parent = first(&sources).await.unwrap();
    bucket.remove("only/one");
    let failed = partial(&sources, &parent, &[dirty("", &["only/one"])], Scratch::memory()).await;
    assert!(matches!(failed, Err(BuildFailure::Empty(_))), "{failed:?}");
}
