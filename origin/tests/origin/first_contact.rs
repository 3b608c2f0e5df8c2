//! What a person hears at the first contact with an origin that cannot be used: one sentence, which names it and says what to do.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode, header};
use penstock_e2e::origin::{Nginx, NginxOptions};
use penstock_origin::{Contact, Network, OriginError, client_over, contact};
use penstock_protocol::control::cache_node as wire;
use penstock_tls::test_support::Authority;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wire::source::Origin;

use crate::stores::HERE;

const SECRET: &str = "aHVzaC1odXNoLW9mLXRoZS1maXJzdC1jb250YWN0";
const KEY: &str = "train/one.bin";
const BYTES: &[u8] = b"0123456789";
const VERSION: &str = "1700000000000001";
const TIME: &str = "Sat, 07 Nov 2026 10:00:00 GMT";

/// Kinds of origins that a server here answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
    Http,
    HuggingFace,
}

const KINDS: [Kind; 5] = [Kind::S3, Kind::Gcs, Kind::Azure, Kind::Http, Kind::HuggingFace];

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// All is well.
    Open,
    /// The keys are not known.
    WrongKeys,
    /// Who asks may list, and no more.
    ListsOnly,
    /// It looks at no condition, and says nothing of versions when it sends an object.
    NoConditions,
}

/// A source of this kind at an endpoint, with keys.
fn source(kind: Kind, endpoint: &str) -> wire::Source {
    let endpoint = endpoint.to_owned();
    let origin = match kind {
        Kind::S3 => Origin::S3(wire::S3 {
            bucket: "photos".into(),
            region: "us-east-1".into(),
            endpoint,
            keys: Some(wire::AwsKeys {
                access_key_id: "me".into(),
                secret_access_key: SECRET.into(),
                session_token: String::new(),
            }),
            ..Default::default()
        }),
        Kind::Gcs => Origin::Gcs(wire::Gcs {
            bucket: "photos".into(),
            key: Some(wire::GcsKey {
                json: json!({
                    "type": "authorized_user", "client_id": "me", "client_secret": SECRET, "refresh_token": SECRET,
                    "token_uri": format!("{endpoint}/token"),
                })
                .to_string(),
            }),
            endpoint,
            ..Default::default()
        }),
        Kind::Azure => Origin::Azure(wire::Azure {
            account: "acc".into(),
            container: "photos".into(),
            endpoint,
            key: Some(wire::AzureKey {
                account_key: SECRET.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        Kind::Http => Origin::Http(wire::Http {
            url: format!("{endpoint}/photos/"),
            files: vec![KEY.into()],
            login: Some(wire::HttpLogin {
                user: "me".into(),
                password: SECRET.into(),
                bearer: String::new(),
            }),
            ..Default::default()
        }),
        Kind::HuggingFace => Origin::HuggingFace(wire::HuggingFace {
            repository: "owner/photos".into(),
            endpoint,
            token: Some(wire::HuggingFaceToken { value: SECRET.into() }),
            ..Default::default()
        }),
    };
    wire::Source {
        origin: Some(origin),
        ..Default::default()
    }
}

/// What a person hears of a source.
async fn heard(source: &wire::Source) -> Result<Contact, OriginError> {
    let network = Network {
        authorities: source.authorities.clone(),
        ..Network::default()
    };
    contact(&*client_over(source, &network)?).await
}

/// One sentence: what it is about, what is wrong, what to do, and nothing that is secret.
fn is_said(what: &str, outcome: Result<Contact, OriginError>, names: &[&str]) -> OriginError {
    let error = outcome.err().unwrap_or_else(|| panic!("{what}: it may be used"));
    let said = error.to_string();
    for name in names {
        assert!(said.contains(name), "{what}: {name:?} is missing in: {said}");
    }
    assert!(!said.contains('\n') && !said.ends_with('.'), "{what}: {said}");
    // What is wrong, and behind it what to do.
    assert!(said.contains("; "), "{what}: nothing says what to do: {said}");
    assert!(!format!("{error:?} {said}").contains(SECRET), "{what}: {said}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_said_for_every_kind_of_origin() {
    let mut sources: Vec<(String, wire::Source)> = KINDS
        .map(|kind| (format!("{kind:?}"), source(kind, "http://store.invalid:9000")))
        .into();
    let of = |origin| wire::Source {
        origin: Some(origin),
        ..Default::default()
    };
    let hdfs = wire::Hdfs {
        name_nodes: vec!["store.invalid:8020".into()],
        path: "/photos".into(),
        ..Default::default()
    };
    sources.push(("Hdfs".into(), of(Origin::Hdfs(hdfs))));
    for (what, source) in sources {
        let error = is_said(&what, heard(&source).await, &["store.invalid", "name resolution"]);
        assert!(matches!(error, OriginError::Unreachable(_)), "{what}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_authority_that_is_not_known_is_said() {
    let (ours, others) = (Authority::new().unwrap(), Authority::new().unwrap());
    for kind in KINDS {
        let server = Server::that(kind, How::Open).await;
        let folder = tempfile::tempdir().unwrap();
        ours.identify(&[&HERE.to_string()], folder.path()).unwrap();
        let options = NginxOptions {
            tls: Some((&folder.path().join("tls.crt"), &folder.path().join("tls.key"))),
            behind: Some(server.address),
            ..Default::default()
        };
        let before = Nginx::on(HERE, options).unwrap();
        let mut source = source(kind, &format!("https://{}", before.address));
        source.authorities = others.pem();
        let error = is_said(&format!("{kind:?}"), heard(&source).await, &["caBundle"]);
        assert!(matches!(error, OriginError::Unreachable(_)), "{kind:?}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_wrong_rights_that_lack_and_conditions_that_nobody_looks_at_are_said() {
    for kind in KINDS {
        let server = Server::that(kind, How::Open).await;
        let met = heard(&source(kind, &server.endpoint())).await.unwrap();
        assert_eq!(met.read.map(|listed| listed.key).as_deref(), Some(KEY), "{kind:?}");
        let place = match kind {
            Kind::S3 | Kind::Azure | Kind::Http => "photos",
            // Who gives tokens is asked first.
            Kind::Gcs => "127.0.0.1",
            Kind::HuggingFace => "owner/photos",
        };
        for (how, wrong) in [
            (How::WrongKeys, "check"),
            (How::ListsOnly, "check"),
            (How::NoConditions, "cannot be an origin"),
        ] {
            let what = format!("{kind:?} {how:?}");
            let server = Server::that(kind, how).await;
            let outcome = heard(&source(kind, &server.endpoint())).await;
            let error = is_said(&what, outcome, &[place, wrong]);
            let is_expected = match how {
                How::NoConditions => matches!(error, OriginError::Invalid(_)),
                _ => matches!(error, OriginError::Denied(_)),
            };
            assert!(is_expected, "{what}: {error:?}");
        }
    }
}

/// A server of one object; ends when dropped.
struct Server {
    address: std::net::SocketAddr,
    serving: JoinHandle<()>,
}

impl Server {
    async fn that(kind: Kind, how: How) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::new((kind, how)));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, serving }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(state): State<Arc<(Kind, How)>>, request: Request<Body>) -> Response<Body> {
    let (kind, how) = *state;
    if how == How::WrongKeys {
        return refused(kind);
    }
    let is_object = request.headers().contains_key(header::RANGE);
    match listing(kind, &request) {
        Some(answer) if !is_object => answer,
        _ if how == How::ListsOnly => refused(kind),
        _ => object(kind, how, &request),
    }
}

/// Everything that is asked before an object is read; `None` if this is no such question.
fn listing(kind: Kind, request: &Request<Body>) -> Option<Response<Body>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let text = |text: String| Some(Response::new(Body::from(text)));
    match kind {
        Kind::S3 if query.contains("list-type=2") => text(format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>{KEY}</Key><Size>{}</Size><ETag>\"{VERSION}\"</ETag>\
             <LastModified>2026-11-07T10:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>",
            BYTES.len()
        )),
        Kind::Azure if query.contains("comp=list") => text(format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs><Blob><Name>{KEY}</Name><Properties>\
             <Last-Modified>{TIME}</Last-Modified><Etag>{VERSION}</Etag><Content-Length>{}</Content-Length><BlobType>BlockBlob</BlobType>\
             </Properties></Blob></Blobs><NextMarker/></EnumerationResults>",
            BYTES.len()
        )),
        Kind::Gcs if path == "/token" => text(json!({"access_token": "given", "expires_in": 3600}).to_string()),
        Kind::Gcs if path.ends_with("/o") => {
            let bytes = BYTES.len().to_string();
            let item =
                json!({"name": KEY, "size": bytes, "timeCreated": "2026-11-07T10:00:00Z", "generation": VERSION});
            text(json!({"items": [item]}).to_string())
        }
        Kind::Http if request.method() == Method::HEAD => {
            let answer = Response::builder()
                .header(header::CONTENT_LENGTH, BYTES.len())
                .header(header::ACCEPT_RANGES, "bytes")
                .header(header::ETAG, format!("\"{VERSION}\""));
            Some(answer.body(Body::empty()).unwrap())
        }
        Kind::HuggingFace if path.contains("/revision/") => {
            text(json!({"id": "owner/photos", "sha": "1".repeat(40)}).to_string())
        }
        Kind::HuggingFace if path.contains("/tree/") => {
            let file = json!({"type": "file", "oid": VERSION, "size": BYTES.len(), "path": KEY});
            text(json!([file]).to_string())
        }
        _ => None,
    }
}

fn object(kind: Kind, how: How, request: &Request<Body>) -> Response<Body> {
    let range = request.headers()[header::RANGE].to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(BYTES.len() - 1);
    let mut answer = Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", BYTES.len()));
    if how != How::NoConditions {
        answer = match kind {
            Kind::Gcs => answer.header("x-goog-generation", VERSION),
            Kind::HuggingFace => answer
                .header(header::ETAG, format!("\"{VERSION}\""))
                .header("X-Repo-Commit", "1".repeat(40)),
            Kind::S3 | Kind::Azure | Kind::Http => answer.header(header::ETAG, format!("\"{VERSION}\"")),
        };
    }
    answer.body(Body::from(&BYTES[first..=last])).unwrap()
}

fn refused(kind: Kind) -> Response<Body> {
    let body = match kind {
        Kind::S3 => "<Error><Code>AccessDenied</Code></Error>",
        Kind::Azure => "<Error><Code>AuthenticationFailed</Code></Error>",
        Kind::Gcs => "{\"error\":{\"errors\":[{\"reason\":\"forbidden\"}]}}",
        Kind::Http | Kind::HuggingFace => "no",
    };
    let answer = Response::builder().status(StatusCode::FORBIDDEN);
    answer.body(Body::from(body)).unwrap()
}
