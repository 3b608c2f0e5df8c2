//! A server that answers as the Hugging Face hub does, and a storage to which it leads.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::response::Builder;
use axum::http::{Request, Response, StatusCode, header};
use penstock_origin::Network;
use penstock_origin::fake_bucket::tag;
use penstock_origin::hugging_face::HuggingFaceOrigin;
use penstock_protocol::control::cache_node as wire;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const TOKEN: &str = "hf_hushhush";
const SIGNATURE: &str = "signature-hushhush";

/// What the hub or the storage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
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
pub struct Hub {
    pub endpoint: String,
    pub shared: Arc<Shared>,
    servers: [JoinHandle<()>; 2],
}

pub struct Shared {
    pub how: Mutex<How>,
    /// Files of each commit.
    pub commits: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    pub branches: Mutex<BTreeMap<String, String>>,
    /// Paths, and "leak" for a token that the storage was sent.
    pub asked: Mutex<Vec<String>>,
    pub storage: String,
    /// Which signature is good now.
    pub signatures: Mutex<usize>,
}

impl Hub {
    pub async fn with(how: How, names: &[&str]) -> Self {
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
    pub fn commit(&self, branch: &str, files: BTreeMap<String, Vec<u8>>) -> String {
        let mut commits = self.shared.commits.lock().unwrap();
        let commit = format!("{:040x}", commits.len() + 1);
        commits.insert(commit.clone(), files);
        let mut branches = self.shared.branches.lock().unwrap();
        branches.insert(branch.to_owned(), commit.clone());
        commit
    }

    pub fn config(&self) -> wire::HuggingFace {
        wire::HuggingFace {
            repository: "owner/name".to_owned(),
            endpoint: self.endpoint.clone(),
            ..Default::default()
        }
    }

    pub fn origin(&self) -> HuggingFaceOrigin {
        HuggingFaceOrigin::new(self.config(), &Network::default()).unwrap()
    }

    pub fn asked(&self, part: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|path| path.contains(part)).count()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

pub fn content(name: &str) -> Vec<u8> {
    format!("the bytes of {name}").repeat(40).into_bytes()
}

/// Large files are not in git.
pub fn is_large(name: &str) -> bool {
    name.ends_with(".bin")
}

/// The id of what a file has in it.
pub fn id(name: &str, bytes: &[u8]) -> String {
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
