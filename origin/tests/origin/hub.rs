//! Repositories of the Hugging Face hub as origins: a server that answers as the hub does, and a storage to which it leads.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::response::Builder;
use axum::http::{Request, Response, StatusCode, header};
use futures::TryStreamExt;
use penstock_origin::fake_bucket::tag;
use penstock_origin::hugging_face::HuggingFaceOrigin;
use penstock_origin::meter::Tally;
use penstock_origin::{Environment, Network, Origin, OriginError, Reach, client_within, proven};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wire::hugging_face::Kind;

const TOKEN: &str = "hf_hushhush";
const SIGNATURE: &str = "signature-hushhush";
const ODD_NAMES: [&str; 8] = [
    "a b",
    "data/é",
    "data/q?a&b=c;d",
    "100%25 #1",
    "<b>'\"+~",
    "back\\slash",
    "%2E%2E",
    "data/deep/er.bin",
];

/// What the hub or the storage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Everything is open.
    Open,
    /// Everything needs the token.
    Private,
    /// Names are open, files are for who accepted the terms.
    Gated,
    /// The hub sends whole files, whatever is asked for.
    WholeFiles,
    /// ... the storage does.
    WholeContents,
    /// The storage sends another range than was asked for, and says so.
    OtherRange,
    /// The storage has less of each content than was listed.
    Shorter,
    /// The hub does not say what it sends.
    NoTag,
    /// ... says something else than it lists.
    OtherTag,
    /// Each address leads to the next.
    Circle,
    /// Files lead to an address for the machine itself.
    Metadata,
    /// Files lead to an address with a user in it.
    User,
    /// Files lead to what is no web server.
    Ftp,
    /// The second page is on another server.
    OtherHub,
    /// There is always one more page, the same.
    SamePage,
    /// What is said of the repository is on another server.
    OtherApi,
    /// Answers with this status, for a minute.
    Refuses(u16),
    /// Its storage does.
    StorageRefuses(u16),
}

/// The hub and its storage; they end when dropped.
struct Hub {
    endpoint: String,
    shared: Arc<Shared>,
    servers: [JoinHandle<()>; 2],
}

struct Shared {
    how: Mutex<How>,
    /// Files of each commit.
    commits: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    branches: Mutex<BTreeMap<String, String>>,
    /// Paths, and "leak" for a token that the storage was sent.
    asked: Mutex<Vec<String>>,
    storage: String,
    /// Which signature is good now.
    signatures: Mutex<usize>,
}

impl Hub {
    async fn with(how: How, names: &[&str]) -> Self {
        let hub = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let storage = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let shared = Arc::new(Shared {
            how: Mutex::new(how),
            commits: Mutex::default(),
            branches: Mutex::default(),
            asked: Mutex::default(),
            storage: format!("http://{}", storage.local_addr().unwrap()),
            signatures: Mutex::new(1),
        });
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let hub_router = Router::new().fallback(of_hub).with_state(shared.clone());
        let storage_router = Router::new().fallback(of_storage).with_state(shared.clone());
        let servers = [
            tokio::spawn(async move { axum::serve(hub, hub_router).await.unwrap() }),
            tokio::spawn(async move { axum::serve(storage, storage_router).await.unwrap() }),
        ];
        let made = Self {
            endpoint,
            shared,
            servers,
        };
        let files = names.iter().map(|name| ((*name).to_owned(), content(name))).collect();
        made.commit("main", files);
        made
    }

    /// A branch has these files now. The commit.
    fn commit(&self, branch: &str, files: BTreeMap<String, Vec<u8>>) -> String {
        let mut commits = self.shared.commits.lock().unwrap();
        let commit = format!("{:040x}", commits.len() + 1);
        commits.insert(commit.clone(), files);
        let mut branches = self.shared.branches.lock().unwrap();
        branches.insert(branch.to_owned(), commit.clone());
        commit
    }

    fn config(&self) -> wire::HuggingFace {
        wire::HuggingFace {
            repository: "owner/name".to_owned(),
            endpoint: self.endpoint.clone(),
            ..Default::default()
        }
    }

    fn origin(&self) -> HuggingFaceOrigin {
        origin(self.config()).unwrap()
    }

    fn asked(&self, part: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|path| path.contains(part)).count()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

fn origin(config: wire::HuggingFace) -> Result<HuggingFaceOrigin, OriginError> {
    HuggingFaceOrigin::new(config, &Network::default())
}

fn token(value: &str) -> Option<wire::HuggingFaceToken> {
    Some(wire::HuggingFaceToken {
        value: value.to_owned(),
    })
}

fn content(name: &str) -> Vec<u8> {
    format!("the bytes of {name}").repeat(40).into_bytes()
}

/// Large files are not in git.
fn is_large(name: &str) -> bool {
    name.ends_with(".bin")
}

/// The id of what a file has in it.
fn id(name: &str, bytes: &[u8]) -> String {
    format!("{}{}", if is_large(name) { "sha256-" } else { "git-" }, tag(bytes))
}

fn status(status: u16) -> Builder {
    Response::builder().status(StatusCode::from_u16(status).unwrap())
}

fn refusal(code: u16, why: &str) -> Response<Body> {
    let answer = status(code).header("X-Error-Code", why);
    answer.body(Body::from("{\"error\":\"no\"}")).unwrap()
}

fn redirect(code: u16, target: &str) -> Builder {
    status(code).header(header::LOCATION, target)
}

fn ranged(request: &Request<Body>, bytes: &[u8], how: How, answer: Builder) -> Response<Body> {
    let range = request.headers().get(header::RANGE).unwrap().to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (mut first, mut last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    if matches!(how, How::WholeFiles | How::WholeContents) {
        return answer.body(Body::from(bytes.to_vec())).unwrap();
    }
    if how == How::OtherRange {
        (first, last) = (first + 1, last + 1);
    }
    let answer = answer
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", bytes.len()));
    answer.body(Body::from(bytes[first..=last].to_vec())).unwrap()
}

async fn of_storage(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    shared.asked.lock().unwrap().push(format!("storage {path}"));
    if request.headers().contains_key(header::AUTHORIZATION) {
        shared.asked.lock().unwrap().push("leak".to_owned());
        return refusal(400, "Leak");
    }
    let how = *shared.how.lock().unwrap();
    if let How::StorageRefuses(code) = how {
        return refusal(code, "");
    }
    let good = format!("{SIGNATURE}-{}", shared.signatures.lock().unwrap());
    if request.uri().query() != Some(&good) {
        return refusal(403, "");
    }
    let commits = shared.commits.lock().unwrap();
    let mut files = commits.values().flatten();
    let found = files.find(|(name, bytes)| path == format!("/{}", id(name, bytes)));
    let Some((_, bytes)) = found else {
        return refusal(404, "");
    };
    let bytes = if how == How::Shorter {
        &bytes[..bytes.len() - 1]
    } else {
        bytes
    };
    let how = if how == How::WholeFiles { How::Open } else { how };
    ranged(
        &request,
        bytes,
        how,
        status(200).header(header::ETAG, "\"of the storage\""),
    )
}

async fn of_hub(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    shared.asked.lock().unwrap().push(path.clone());
    let how = *shared.how.lock().unwrap();
    let sent = request.headers().get(header::AUTHORIZATION);
    let is_known = sent.is_some_and(|sent| sent.as_bytes() == format!("Bearer {TOKEN}").as_bytes());
    if sent.is_some() && !is_known {
        return refusal(401, "");
    }
    match how {
        How::Private if !is_known => return refusal(401, "RepoNotFound"),
        How::Refuses(code) => {
            let answer = status(code).header("RateLimit", "\"api\";r=0;t=60");
            return answer.body(Body::empty()).unwrap();
        }
        How::Circle => return redirect(307, &path).body(Body::empty()).unwrap(),
        _ => {}
    }
    if path.contains("/old-name/") {
        let target = request.uri().to_string().replace("/old-name/", "/owner/name/");
        return redirect(307, &target).body(Body::empty()).unwrap();
    }
    if let Some(question) = path.strip_prefix("/api/datasets/owner/name/") {
        return shared.say(
            question,
            request.uri().query().unwrap_or_default(),
            how,
            request.headers()[header::HOST].to_str().unwrap(),
        );
    }
    let cached = path.strip_prefix("/api/resolve-cache/datasets/owner/name/");
    let resolved = path.strip_prefix("/datasets/owner/name/resolve/");
    let Some((commit, name)) = cached.or(resolved).and_then(|rest| rest.split_once('/')) else {
        return refusal(404, "RepoNotFound");
    };
    if how == How::Gated && !is_known {
        return refusal(403, "GatedRepo");
    }
    let decoded = percent_decode_str(name).decode_utf8().unwrap();
    let commits = shared.commits.lock().unwrap();
    let Some(files) = commits.get(commit) else {
        return refusal(404, "RevisionNotFound");
    };
    let Some(bytes) = files.get(&*decoded) else {
        return refusal(404, "EntryNotFound");
    };
    let id = match how {
        How::OtherTag => "another".to_owned(),
        _ => id(&decoded, bytes),
    };
    let tagged = |answer: Builder, name| match how {
        How::NoTag => answer,
        _ => answer.header(name, format!("\"{id}\"")),
    };
    if cached.is_some() {
        return ranged(&request, bytes, how, tagged(status(200), "ETag"));
    }
    let signed = format!(
        "{}/{id}?{SIGNATURE}-{}",
        shared.storage,
        shared.signatures.lock().unwrap()
    );
    let elsewhere = match how {
        How::Metadata => "http://169.254.169.254/latest/".to_owned(),
        How::User => signed.replace("://", "://me:secret@"),
        How::Ftp => signed.replace("http://", "ftp://"),
        _ => signed,
    };
    let answer = if is_large(&decoded) {
        tagged(redirect(302, &elsewhere), "X-Linked-ETag")
    } else {
        redirect(
            307,
            &format!("/api/resolve-cache/datasets/owner/name/{commit}/{name}?etag=%22{id}%22"),
        )
    };
    answer.header("X-Repo-Commit", commit).body(Body::empty()).unwrap()
}

impl Shared {
    /// What the hub says of the repository: three files in a page.
    fn say(&self, question: &str, query: &str, how: How, host: &str) -> Response<Body> {
        if how == How::OtherApi {
            return redirect(307, &self.storage).body(Body::empty()).unwrap();
        }
        if let Some(revision) = question.strip_prefix("revision/") {
            assert!(!revision.contains('/'), "a slash in a revision is written as %2F");
            let revision = percent_decode_str(revision).decode_utf8().unwrap();
            return match self.branches.lock().unwrap().get(&*revision) {
                Some(commit) => Response::new(Body::from(format!("{{\"id\":\"owner/name\",\"sha\":\"{commit}\"}}"))),
                None => refusal(404, "RevisionNotFound"),
            };
        }
        let rest = question.strip_prefix("tree/").unwrap();
        let (commit, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let folder = percent_decode_str(folder).decode_utf8().unwrap();
        let below = if folder.is_empty() {
            String::new()
        } else {
            format!("{folder}/")
        };
        let commits = self.commits.lock().unwrap();
        let Some(files) = commits.get(commit) else {
            return refusal(404, "RevisionNotFound");
        };
        let found: Vec<_> = files.iter().filter(|(name, _)| name.starts_with(&below)).collect();
        if found.is_empty() {
            return refusal(404, "EntryNotFound");
        }
        assert!(query.starts_with("recursive=true&expand=false"), "{query}");
        let from = query
            .split_once("cursor=")
            .map_or(0, |(_, cursor)| cursor.parse().unwrap());
        let upto = found.len().min(from + 3);
        let mut entries = vec![serde_json::json!({"type": "directory", "oid": "d", "size": 0, "path": "data"})];
        entries.extend(found[from..upto].iter().map(|(name, bytes)| {
            let (id, bytes) = (id(name, bytes), bytes.len());
            if is_large(name) {
                let linked = serde_json::json!({"oid": id, "size": bytes, "pointerSize": 135});
                serde_json::json!({"type": "file", "oid": "note", "size": bytes, "path": name, "lfs": linked})
            } else {
                serde_json::json!({"type": "file", "oid": id, "size": bytes, "path": name})
            }
        }));
        let answer = match how {
            How::SamePage => status(200).header(
                "Link",
                format!("</api/datasets/owner/name/{question}?{query}>; rel=\"next\""),
            ),
            How::OtherHub => status(200).header("Link", format!("<{}/?{query}&cursor=3>; rel=\"next\"", self.storage)),
            _ if upto < found.len() => {
                let next = format!(
                    "http://{host}/api/datasets/owner/name/tree/{commit}/{}",
                    utf8_percent_encode(&folder, NON_ALPHANUMERIC)
                );
                let next = next.trim_end_matches('/');
                status(200).header(
                    "Link",
                    format!("<{next}?recursive=true&expand=false&cursor={upto}>; rel=\"next\""),
                )
            }
            _ => status(200),
        };
        answer
            .body(Body::from(serde_json::Value::from(entries).to_string()))
            .unwrap()
    }
}

async fn read_range(
    origin: &HuggingFaceOrigin,
    listed: &Listed,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn read(origin: &HuggingFaceOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    read_range(origin, listed, 0..listed.bytes).await
}

async fn listed(origin: &HuggingFaceOrigin) -> BTreeMap<String, Listed> {
    let listed = origin.list_all().await.unwrap();
    listed.into_iter().map(|one| (one.key.clone(), one)).collect()
}

fn files(names: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    let files = names.iter().map(|(name, of)| ((*name).to_owned(), content(of)));
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_repository_is_listed_page_by_page_and_can_be_read() {
    let hub = Hub::with(How::Open, &ODD_NAMES).await;
    for path in ["", "data", "data/deep"] {
        let origin = origin(wire::HuggingFace {
            path: path.to_owned(),
            ..hub.config()
        })
        .unwrap();
        let below = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let expected: Vec<_> = ODD_NAMES
            .iter()
            .filter_map(|name| Some((*name, name.strip_prefix(&below)?)))
            .collect();
        let listed = listed(&origin).await;
        assert_eq!(listed.len(), expected.len(), "{path:?}");
        for (name, key) in expected {
            let one = &listed[key];
            let bytes = content(name);
            assert_eq!(one.bytes, bytes.len() as u64, "{name}");
            assert_eq!(one.version, Version::ETag(id(name, &bytes)), "{name}");
            assert_eq!(read(&origin, one).await.unwrap(), bytes, "{name}");
            assert_eq!(read_range(&origin, one, 7..30).await.unwrap(), bytes[7..30], "{name}");
        }
    }
    let pages = 3 + 1 + 1;
    assert_eq!(hub.asked("/tree/"), pages);
    // Not even where a folder's files are read.
    assert_eq!(hub.asked("/revision/"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kinds_of_repositories_and_their_old_names_are_found() {
    let hub = Hub::with(How::Open, &["a.bin", "b"]).await;
    let old = origin(wire::HuggingFace {
        repository: "old-name".to_owned(),
        ..hub.config()
    });
    let old = old.unwrap();
    for (name, one) in listed(&old).await {
        assert_eq!(read(&old, &one).await.unwrap(), content(&name));
    }
    for (kind, api, place) in [
        (Kind::Model, "/api/models/owner/name/", "hf://owner/name@main/"),
        (Kind::Space, "/api/spaces/owner/name/", "hf://spaces/owner/name@main/"),
    ] {
        let origin = origin(wire::HuggingFace {
            kind: kind.into(),
            ..hub.config()
        });
        let error = origin.unwrap().list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotFound(text) if text.contains(place)),
            "{error}"
        );
        assert_eq!(hub.asked(api), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_is_a_branch_or_a_commit() {
    let hub = Hub::with(How::Open, &["a.bin", "b"]).await;
    let commit = hub.commit("refs/pr/1", files(&[("b", "of a branch")]));
    hub.commit("refs/pr/1", files(&[("b", "of a branch, later")]));
    for (revision, expected) in [("refs/pr/1", "of a branch, later"), (&commit, "of a branch"), ("", "b")] {
        let origin = origin(wire::HuggingFace {
            revision: revision.to_owned(),
            ..hub.config()
        });
        let origin = origin.unwrap();
        let listed = listed(&origin).await;
        assert_eq!(
            read(&origin, &listed["b"]).await.unwrap(),
            content(expected),
            "{revision}"
        );
    }
    assert_eq!(hub.asked("/revision/"), 2, "a commit is not looked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_its_version_while_its_content_stays_and_is_drift_when_it_changed_or_went() {
    let hub = Hub::with(
        How::Open,
        &["large.bin", "small", "gone.bin", "gone", "same.bin", "same"],
    )
    .await;
    let lister = hub.origin();
    let before = listed(&lister).await;
    // As long as before.
    hub.commit(
        "main",
        files(&[
            ("large.bin", "LARGE.BIN"),
            ("small", "SMALL"),
            ("same.bin", "same.bin"),
            ("same", "same"),
        ]),
    );
    let reader = hub.origin();
    for name in ["large.bin", "small", "gone.bin", "gone"] {
        let error = read(&reader, &before[name]).await.unwrap_err();
        assert!(
            matches!(&error, OriginError::Drifted(text) if text.contains(name)),
            "{error}"
        );
        // Whoever listed it knows a commit that has it.
        assert_eq!(read(&lister, &before[name]).await.unwrap(), content(name));
    }
    for name in ["same.bin", "same"] {
        assert_eq!(read(&reader, &before[name]).await.unwrap(), content(name));
    }
    assert_eq!(
        hub.asked("/revision/"),
        2,
        "of drift the hub is not asked again and again"
    );
    let after = listed(&lister).await;
    assert_eq!(after["same"], before["same"]);
    assert_eq!(after["same.bin"], before["same.bin"]);
    for (name, of) in [("large.bin", "LARGE.BIN"), ("small", "SMALL")] {
        assert_ne!(after[name].version, before[name].version);
        assert_eq!(read(&lister, &after[name]).await.unwrap(), content(of));
        assert_eq!(read(&lister, &before[name]).await.unwrap(), content(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_lists_follows_a_branch() {
    let hub = Hub::with(How::Open, &["b"]).await;
    let reader = hub.origin();
    let missing = Listed {
        key: "later".to_owned(),
        bytes: 40,
        modified_unix_nanos: 0,
        version: Version::ETag("any".to_owned()),
    };
    let before = listed(&hub.origin()).await;
    assert_eq!(read(&reader, &before["b"]).await.unwrap(), content("b"));
    hub.commit("main", files(&[("later.bin", "later")]));
    let after = listed(&hub.origin()).await;
    // The revision was looked up just now, which is not done again for a while, so another client it is.
    let error = read(&reader, &missing).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
    assert_eq!(
        read(&hub.origin(), &after["later.bin"]).await.unwrap(),
        content("later")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_for_the_hub_alone_and_stands_in_no_text() {
    let hub = Hub::with(How::Private, &["large.bin", "small"]).await;
    let with = |token| wire::HuggingFace { token, ..hub.config() };
    let origin = |token| origin(with(token)).unwrap();
    let known = origin(token(TOKEN));
    for (name, one) in listed(&known).await {
        assert_eq!(read(&known, &one).await.unwrap(), content(&name));
    }
    assert!(hub.asked("storage") > 0);
    assert_eq!(hub.asked("leak"), 0, "the storage was sent the token");
    let error = origin(None).list_all().await.unwrap_err().to_string();
    assert!(
        error.contains("is not open to everybody (401 RepoNotFound)") && error.contains("name a Secret"),
        "{error}"
    );
    let wrong = "hf_wrong-hushhush";
    let error = origin(token(wrong)).list_all().await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("refuses the token (401)")),
        "{error}"
    );
    *hub.shared.how.lock().unwrap() = How::Gated;
    let error = origin(None).list_all().await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Denied(text) if text.contains("accept them on the hub, and name a Secret")),
        "{error}"
    );
    assert_eq!(listed(&known).await.len(), 2);
    let config = format!("{:?}", with(token(TOKEN)));
    assert!(
        !config.contains("hushhush") && !error.to_string().contains("hushhush"),
        "{config}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_says_what_opens_a_file() {
    for how in [
        How::StorageRefuses(403),
        How::StorageRefuses(429),
        How::StorageRefuses(500),
        How::WholeContents,
        How::OtherRange,
        How::User,
        How::Ftp,
        How::Circle,
        How::Refuses(403),
    ] {
        let hub = Hub::with(how, &["large.bin"]).await;
        let origin = origin(wire::HuggingFace {
            token: token(TOKEN),
            ..hub.config()
        });
        let error = origin.unwrap().list_all().await.unwrap_err();
        let texts = format!("{error} {error:?}");
        assert!(
            !texts.contains("hushhush") && !texts.contains("secret"),
            "{how:?}: {texts}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_large_file_lies_is_asked_once_and_again_when_the_storage_refuses() {
    let hub = Hub::with(How::Open, &["large.bin"]).await;
    let origin = hub.origin();
    let listed = listed(&origin).await;
    for _ in 0..5 {
        assert_eq!(read(&origin, &listed["large.bin"]).await.unwrap(), content("large.bin"));
    }
    assert_eq!(hub.asked("/resolve/"), 1);
    *hub.shared.signatures.lock().unwrap() += 1;
    for _ in 0..5 {
        assert_eq!(read(&origin, &listed["large.bin"]).await.unwrap(), content("large.bin"));
    }
    assert_eq!(hub.asked("/resolve/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_that_a_hub_sends_whole_are_cut() {
    let hub = Hub::with(How::WholeFiles, &["small"]).await;
    let origin = hub.origin();
    let listed = listed(&origin).await;
    let bytes = content("small");
    let length = bytes.len();
    for (from, upto) in [(0, 1), (0, length), (5, 17), (length - 1, length)] {
        let read = read_range(&origin, &listed["small"], from as u64..upto as u64)
            .await
            .unwrap();
        assert_eq!(read, bytes[from..upto], "{from}..{upto}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_an_origin_is_refused_when_it_is_listed() {
    for (how, says) in [
        (How::WholeContents, "sends whole objects where parts are asked for"),
        (How::OtherRange, "sends another range of large.bin than was asked for"),
        (How::Shorter, "sends files with other ids than it lists"),
        (How::NoTag, "sends large.bin without the version by which it was listed"),
        (How::OtherTag, "sends files with other ids than it lists"),
        (How::Circle, "leads from one address to the next without end"),
        (How::Metadata, "is for the machine itself"),
        (How::User, "leads to an address with a user in it"),
        (How::Ftp, "leads from https to http, or to what is no web server"),
        (How::OtherHub, "leads to another server for the rest of its files"),
        (How::SamePage, "lists the same page again and again"),
        (
            How::OtherApi,
            "leads to another server for what it says of the repository",
        ),
    ] {
        let hub = Hub::with(how, &["large.bin"]).await;
        let error = hub.origin().list_all().await.unwrap_err().to_string();
        assert!(error.contains(says), "{how:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_who_asks_too_much_is_told_so() {
    let hub = Hub::with(How::Open, &["large.bin"]).await;
    let of = |change: fn(&mut wire::HuggingFace)| {
        let mut config = hub.config();
        change(&mut config);
        origin(config).unwrap()
    };
    for (origin, says) in [
        (
            of(|config| config.repository = "no/where".to_owned()),
            "does not exist (404 RepoNotFound)",
        ),
        (
            of(|config| config.revision = "v9".to_owned()),
            "no such branch, tag or commit (404 RevisionNotFound)",
        ),
        (
            of(|config| config.revision = "f".repeat(40)),
            "no such branch, tag or commit (404 RevisionNotFound)",
        ),
        (
            of(|config| config.path = "no/folder".to_owned()),
            "no such folder (404 EntryNotFound)",
        ),
    ] {
        let error = origin.list_all().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotFound(text) if text.contains(says)),
            "{error}"
        );
    }
    *hub.shared.how.lock().unwrap() = How::Refuses(429);
    let error = hub.origin().list_all().await.unwrap_err();
    let OriginError::Throttled { text, wait } = error else {
        panic!("{error}")
    };
    assert!(text.contains("name a Secret with HF_TOKEN"), "{text}");
    assert_eq!(wait, Some(Duration::from_secs(60)));
    *hub.shared.how.lock().unwrap() = How::Refuses(500);
    let error = hub.origin().list_all().await.unwrap_err();
    assert!(matches!(error, OriginError::Other(_)), "{error}");
    let nobody = wire::HuggingFace {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..hub.config()
    };
    let error = origin(nobody).unwrap().list_all().await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable(_)), "{error}");
}

#[test]
fn what_names_no_folder_of_a_repository_is_refused() {
    let config = |repository: &str, path: &str, endpoint: &str, value: &str| wire::HuggingFace {
        repository: repository.to_owned(),
        path: path.to_owned(),
        endpoint: endpoint.to_owned(),
        token: token(value),
        ..Default::default()
    };
    for (config, says) in [
        (config("../..", "", "", "t"), "is `owner/name`"),
        (config("a/b/c", "", "", "t"), "is `owner/name`"),
        (config("a/b", "c/../d", "", "t"), "no part `.` or `..`"),
        (config("a/b", "c/", "", "t"), "no slash at an end"),
        (config("a/b", "", "no url", "t"), "write one like https://host"),
        (config("a/b", "", "ftp://host", "t"), "begins with http://"),
        (config("a/b", "", "https://me:secret@host", "t"), "must not have a user"),
        (config("a/b", "", "", ""), "its token is empty"),
        (
            config("a/b", "", "", "secret\nsecret"),
            "characters that no header can hold",
        ),
    ] {
        let error = origin(config).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_may_be_reached_leads_to_no_address_that_may_not() {
    let hub = Hub::with(How::Open, &["large.bin"]).await;
    let source = wire::Source {
        origin: Some(wire::source::Origin::HuggingFace(hub.config())),
        ..Default::default()
    };
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let (of_hub, of_storage) = (address(&hub.endpoint), address(&hub.shared.storage));
    for (granted, is_allowed) in [(vec![of_hub.clone()], false), (vec![of_hub, of_storage.clone()], true)] {
        let reach = Reach::default();
        reach.set(&["127.0.0.0/8".to_owned()], &granted);
        let origin = client_within(&source, &Environment::default(), &reach, &Tally::default()).unwrap();
        let listed = proven(&*origin).try_concat().await;
        match listed {
            Ok(_) => assert!(is_allowed),
            Err(error) => {
                let text = error.to_string();
                assert!(!is_allowed, "{text}");
                assert!(
                    matches!(error, OriginError::NotAllowed(_)) && text.contains(&of_storage),
                    "{text}"
                );
            }
        }
    }
}
