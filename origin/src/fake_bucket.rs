//! A bucket on a small S3 server in this process: holds keys that no server on a file system can hold, and lies on demand.

use penstock_protocol::checksum::crc32c;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_protocol::control::cache_node as wire;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::Network;
use crate::s3::S3Origin;

/// Objects in a page of a listing.
pub const PAGE_OBJECTS: usize = 3;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    /// Answers with the whole object, whatever range was asked for.
    WholeObjects,
    /// Gives no ETag with the bytes.
    NoTag,
    /// Sends the bytes that stand a block further on, and says so.
    OtherRange,
    /// Does not say which range it sends.
    NoRange,
    /// The last byte is another one than that of which it has the checksum.
    WrongByte,
    /// Lists keys as they are, though they were asked for encoded.
    PlainKeys,
    /// Lists the whole bucket, whatever prefix was asked for.
    IgnoresPrefix,
    /// Begins a listing and then sends nothing more.
    FallsSilent,
    /// Says that there is more and gives the same token again and again.
    SamePage,
    /// Nothing, and it keeps what was overwritten or deleted.
    KeepsVersions,
    /// ... and asks to slow down whoever asks for versions.
    VersionsBusy,
    /// ... and does not let them be read.
    VersionsClosed,
    /// Answers each request for an object with this status and code, and says when to come back.
    Refuses(u16, &'static str),
    /// ... for one whose key begins with "cold".
    RefusesCold(u16, &'static str),
    /// Lists each object with one byte more than it has.
    ListsLonger,
}

/// The bucket; its server ends with it.
pub struct Bucket {
    endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Every object that there ever was; the number of each is its id.
    versions: Mutex<Vec<(String, Vec<u8>)>>,
    /// Questions for versions.
    looked_up: AtomicUsize,
    /// Pages of listings.
    listed: AtomicUsize,
    /// Requests of any kind.
    asked: AtomicUsize,
    lie: Lie,
    /// Objects in one page of a listing.
    page: usize,
}

impl Bucket {
    /// An honest one.
    pub async fn with(keys: &[&str]) -> Self {
        Self::lying(Lie::None, keys).await
    }

    /// Each object holds its own key.
    pub async fn lying(lie: Lie, keys: &[&str]) -> Self {
        let objects = keys
            .iter()
            .map(|key| ((*key).to_owned(), key.as_bytes().to_vec()))
            .collect();
        Self::of(lie, objects).await
    }

    /// With these objects.
    pub async fn of(lie: Lie, objects: BTreeMap<String, Vec<u8>>) -> Self {
        let shared = Arc::new(Shared {
            versions: Mutex::new(objects.clone().into_iter().collect()),
            looked_up: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            objects: Mutex::new(objects),
            lie,
            page: PAGE_OBJECTS,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            endpoint,
            shared,
            server,
        }
    }

    /// Writes an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let object = (key.to_owned(), bytes.to_vec());
        self.shared.versions.lock().unwrap().push(object.clone());
        self.shared.objects.lock().unwrap().extend([object]);
    }

    /// How often somebody asked for the versions of an object.
    pub fn looked_up(&self) -> usize {
        self.shared.looked_up.load(Ordering::Relaxed)
    }

    /// How many pages of listings somebody asked for.
    pub fn listed(&self) -> usize {
        self.shared.listed.load(Ordering::Relaxed)
    }

    /// How many requests of any kind came.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        self.shared.objects.lock().unwrap().remove(key);
    }

    /// What a client of a prefix is made of.
    pub fn config(&self, prefix: &str) -> wire::S3 {
        wire::S3 {
            bucket: "bucket".into(),
            prefix: prefix.into(),
            region: String::new(),
            endpoint: self.endpoint.clone(),
            keys: None,
            virtual_host_style: false,
            workload_identity: false,
        }
    }

    /// A client of a prefix.
    pub fn origin(&self, prefix: &str) -> S3Origin {
        S3Origin::new(self.config(prefix), &Network::default()).unwrap()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The ETag of an object.
pub fn tag(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c(bytes))
}

async fn answer(State(bucket): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    bucket.asked.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path();
    let Some(path) = path.strip_prefix("/bucket") else {
        return refusal(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    let query = request.uri().query().unwrap_or("");
    if query.contains("list-type=2") {
        bucket.list(query)
    } else if query.contains("versions=") {
        bucket.list_versions()
    } else {
        let key = decoded(path.strip_prefix('/').unwrap_or(path));
        bucket.get(&key, &request)
    }
}

impl Shared {
    fn list(&self, query: &str) -> Response<Body> {
        let argument = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
        };
        let prefix = match self.lie {
            Lie::IgnoresPrefix => String::new(),
            _ => argument("prefix").unwrap_or_default(),
        };
        self.listed.fetch_add(1, Ordering::Relaxed);
        // A token is the last key of the page before, and something that makes it none.
        let token = argument("continuation-token");
        let behind = match &token {
            Some(token) => Some(token.strip_prefix("behind ").unwrap().to_owned()),
            None => argument("start-after"),
        };
        let objects = self.objects.lock().unwrap();
        let mut found = objects
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && behind.as_ref().is_none_or(|behind| *key > behind));
        let page: Vec<_> = found.by_ref().take(self.page).collect();
        let is_last = found.next().is_none();
        let plain = self.lie == Lie::PlainKeys;
        let mut text = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
        if !plain {
            text += "<EncodingType>url</EncodingType>";
        }
        for (key, bytes) in &page {
            let key = if plain {
                key.replace('&', "&amp;").replace('<', "&lt;")
            } else {
                encoded(key)
            };
            write!(
                text,
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
                tag(bytes),
                bytes.len() + usize::from(self.lie == Lie::ListsLonger)
            )
            .unwrap();
        }
        let last = page.last().map_or("", |(key, _)| key.as_str());
        let next = match token {
            Some(token) if self.lie == Lie::SamePage => token,
            _ => format!("behind {last}"),
        };
        let truncated = !is_last || self.lie == Lie::SamePage;
        write!(text, "<IsTruncated>{truncated}</IsTruncated>").unwrap();
        if truncated {
            // Any text may be a token, and XML cannot hold any text.
            let next = next.replace('&', "&amp;").replace('<', "&lt;");
            write!(text, "<NextContinuationToken>{next}</NextContinuationToken>").unwrap();
        }
        text += "</ListBucketResult>";
        if self.lie == Lie::FallsSilent {
            let half = text.as_bytes()[..text.len() / 2].to_vec();
            let begun = futures::stream::iter([Ok::<_, std::io::Error>(half)]);
            let body = futures::StreamExt::chain(begun, futures::stream::pending());
            return Response::new(Body::from_stream(body));
        }
        Response::new(Body::from(text))
    }

    fn list_versions(&self) -> Response<Body> {
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        if self.lie == Lie::VersionsBusy {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
        }
        if !matches!(self.lie, Lie::KeepsVersions | Lie::VersionsClosed) {
            return refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented");
        }
        let versions = self.versions.lock().unwrap();
        let mut text = String::from("<ListVersionsResult><EncodingType>url</EncodingType>");
        for (id, (key, bytes)) in versions.iter().enumerate() {
            let (key, tag) = (encoded(key), tag(bytes));
            write!(
                text,
                "<Version><Key>{key}</Key><VersionId>v {id}</VersionId><ETag>&quot;{tag}&quot;</ETag></Version>"
            )
            .unwrap();
        }
        Response::new(Body::from(text + "</ListVersionsResult>"))
    }

    fn get(&self, key: &str, request: &Request<Body>) -> Response<Body> {
        let refused = match self.lie {
            Lie::Refuses(status, code) => Some((status, code)),
            Lie::RefusesCold(status, code) if key.starts_with("cold") => Some((status, code)),
            _ => None,
        };
        if let Some((status, code)) = refused {
            let mut response = refusal(StatusCode::from_u16(status).unwrap(), code);
            response.headers_mut().insert(header::RETRY_AFTER, "7".parse().unwrap());
            return response;
        }
        let (objects, versions) = (self.objects.lock().unwrap(), self.versions.lock().unwrap());
        let query = request.uri().query().unwrap_or("");
        if self.lie == Lie::VersionsClosed && query.starts_with("versionId=") {
            return refusal(StatusCode::FORBIDDEN, "AccessDenied");
        }
        let bytes = match query.strip_prefix("versionId=v%20") {
            Some(id) => versions.get(id.parse::<usize>().unwrap()).map(|(_, bytes)| bytes),
            None => objects.get(key),
        };
        let Some(bytes) = bytes else {
            return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
        if header(header::IF_MATCH).is_some_and(|wanted| wanted != format!("\"{}\"", tag(bytes))) {
            return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let response = Response::builder();
        let response = match self.lie {
            Lie::NoTag => response,
            _ => response.header(header::ETAG, format!("\"{}\"", tag(bytes))),
        };
        if self.lie == Lie::WholeObjects {
            return response.body(Body::from(bytes.clone())).unwrap();
        }
        let range = header(header::RANGE).unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (mut first, mut last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        last = last.min(bytes.len() - 1);
        if self.lie == Lie::OtherRange {
            (first, last) = (first + 4096, last + 4096);
        }
        let response = match header("x-amz-checksum-mode".parse().unwrap()) {
            Some("ENABLED") => response.header("x-amz-checksum-crc32c", STANDARD.encode(crc32c(bytes).to_be_bytes())),
            _ => response,
        };
        let mut sent = bytes[first..=last].to_vec();
        if self.lie == Lie::WrongByte {
            *sent.last_mut().unwrap() ^= 1;
        }
        let response = match self.lie {
            Lie::NoRange => response,
            _ => response.header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", bytes.len())),
        };
        response
            .status(StatusCode::PARTIAL_CONTENT)
            .body(Body::from(sent))
            .unwrap()
    }
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    Response::builder().status(status).body(Body::from(text)).unwrap()
}

/// As AWS does it: a blank is a plus sign.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) => (byte as char).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let (text, mut bytes, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < text.len() {
        if text[at] == b'%' {
            let digits = std::str::from_utf8(&text[at + 1..at + 3]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            at += 3;
        } else {
            bytes.push(text[at]);
            at += 1;
        }
    }
    String::from_utf8(bytes).unwrap()
}
