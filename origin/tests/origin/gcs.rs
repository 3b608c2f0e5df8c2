//! Google Cloud Storage as an origin: a server that speaks its API, and one that does what that one does not.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, header};
use futures::{StreamExt, TryStreamExt};
use penstock_e2e::origin::GcsServer;
use penstock_origin::gcs::GcsOrigin;
use penstock_origin::{Network, Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What clients are known to spoil.
const NAMES: [&str; 12] = [
    "a b",
    "é",
    "q?a&b=c;d",
    "100%25 #1",
    "a//b",
    "folder/",
    "/leading",
    "a+b",
    "<b>'\"~",
    "p/x",
    "p/y/z",
    "..a/..b",
];

/// Made for tests; opens nothing.
const PEM: &str = include_str!("service-account.pem");

fn content(name: &str) -> Vec<u8> {
    if name.ends_with('/') {
        Vec::new()
    } else {
        format!("the bytes of {name}").repeat(40).into_bytes()
    }
}

fn origin(endpoint: &str, bucket: &str, prefix: &str, key: Option<String>) -> Result<GcsOrigin, OriginError> {
    let config = wire::Gcs {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: endpoint.to_owned(),
        key: key.map(|json| wire::GcsKey { json }),
        workload_identity: false,
    };
    GcsOrigin::new(config, &Network::default())
}

fn object(listed: &Listed) -> ObjectVersion {
    ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    }
}

async fn read(origin: &GcsOrigin, listed: &Listed, range: std::ops::Range<u64>) -> Result<Vec<u8>, OriginError> {
    let body = origin.read(&object(listed), listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn listed(origin: &GcsOrigin) -> BTreeMap<String, Listed> {
    let all = origin.list_all().await.unwrap();
    all.into_iter().map(|one| (one.key.clone(), one)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_name_is_listed_as_it_is_and_can_be_read() {
    let server = GcsServer::on(Ipv4Addr::LOCALHOST.into(), "bucket").unwrap();
    let mut generations = BTreeMap::new();
    for name in NAMES {
        generations.insert(name, server.put("bucket", name, &content(name)).unwrap());
    }
    let whole = origin(&server.endpoint(), "bucket", "", None).unwrap();
    let all = listed(&whole).await;
    assert_eq!(
        all.keys().map(String::as_str).collect::<Vec<_>>(),
        generations.keys().copied().collect::<Vec<_>>()
    );
    for (name, one) in &all {
        let content = content(name);
        assert_eq!(one.bytes, content.len() as u64, "{name}");
        assert_eq!(
            one.version,
            Version::Id(generations[name.as_str()].to_string()),
            "{name}"
        );
        assert!(one.modified_unix_nanos > 1_700_000_000_000_000_000, "{one:?}");
        if content.is_empty() {
            continue;
        }
        assert_eq!(read(&whole, one, 0..one.bytes).await.unwrap(), content, "{name}");
        assert_eq!(read(&whole, one, 3..17).await.unwrap(), content[3..17], "{name}");
        let last = one.bytes - 1;
        assert_eq!(
            read(&whole, one, last..one.bytes).await.unwrap(),
            content[last as usize..],
            "{name}"
        );
    }
    for prefix in ["a", "a/", "p/", "/", "q?a&", "100%", "folder/"] {
        let below = origin(&server.endpoint(), "bucket", prefix, None).unwrap();
        let got = listed(&below).await;
        let names = NAMES.iter().filter_map(|name| name.strip_prefix(prefix));
        let mut expected: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        expected.sort_unstable();
        assert_eq!(got.keys().collect::<Vec<_>>(), expected, "{prefix}");
        for (name, one) in &got {
            let content = content(&format!("{prefix}{name}"));
            assert_eq!(
                read(&below, one, 0..one.bytes).await.unwrap(),
                content,
                "{prefix}{name}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_more_than_a_page_comes_in_pages() {
    let server = GcsServer::on(Ipv4Addr::LOCALHOST.into(), "bucket").unwrap();
    for number in 0..1001 {
        server.put("bucket", &format!("{number:04}"), b"1").unwrap();
    }
    let origin = origin(&server.endpoint(), "bucket", "", None).unwrap();
    let pages: Vec<_> = origin.list().try_collect().await.unwrap();
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1]);
    assert_eq!(pages[1][0].key, "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changed_or_went_is_never_read_as_the_one_that_was_listed() {
    let server = GcsServer::on(Ipv4Addr::LOCALHOST.into(), "bucket").unwrap();
    server.put("bucket", "p/file", b"before").unwrap();
    let origin = origin(&server.endpoint(), "bucket", "p/", None).unwrap();
    let before = listed(&origin).await.remove("file").unwrap();
    assert_eq!(read(&origin, &before, 0..6).await.unwrap(), b"before");
    // As long as before.
    server.put("bucket", "p/file", b"behind").unwrap();
    let error = read(&origin, &before, 0..6).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Drifted(text) if text.contains("file")),
        "{error:?}"
    );
    let after = listed(&origin).await.remove("file").unwrap();
    assert_eq!(read(&origin, &after, 0..6).await.unwrap(), b"behind");
    server.delete("bucket", "p/file").unwrap();
    let error = read(&origin, &after, 0..6).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_named() {
    let server = GcsServer::on(Ipv4Addr::LOCALHOST.into(), "bucket").unwrap();
    let error = origin(&server.endpoint(), "nowhere", "p/", None)
        .unwrap()
        .list_all()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, OriginError::NotFound(text) if text.contains("gs://nowhere/p/")),
        "{error:?}"
    );
}

/// What the server does.
#[derive(Clone, Debug)]
enum How {
    /// Lets only this token in.
    Asks(&'static str),
    /// Lets everybody in and remembers with what they came.
    Open,
    /// Another header instead of one of the answer, or none.
    Says(&'static str, Option<&'static str>),
    /// A status other than 206 for content.
    Status(u16),
    /// Refuses content.
    Refuses(u16, &'static str),
    /// Lists the same page again and again.
    SamePage,
    /// Lists what was not asked for.
    OtherNames,
}

/// A server of one object, as the real one answers; ends when dropped.
struct Strict {
    endpoint: String,
    came: Came,
    server: JoinHandle<()>,
}

/// The headers of requests.
type Came = Arc<Mutex<Vec<axum::http::HeaderMap>>>;

impl Strict {
    async fn that(how: How) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let came = Came::default();
        let router = Router::new().fallback(answer).with_state((how, came.clone()));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, came, server }
    }

    fn origin(&self, key: Option<String>) -> GcsOrigin {
        origin(&self.endpoint, "bucket", "", key).unwrap()
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The check value of the catalogue of parametrised CRC algorithms is of this.
const BYTES: &str = "123456789";

async fn answer(State((how, came)): State<(How, Came)>, request: Request<Body>) -> Response<Body> {
    let status = |status: u16, body: String| Response::builder().status(status).body(body.into()).unwrap();
    came.lock().unwrap().push(request.headers().clone());
    let refusal = |code: u16, reason: &str| {
        let error =
            json!({"error": {"code": code, "message": "hush", "errors": [{"reason": reason, "message": "hush"}]}});
        status(code, error.to_string())
    };
    if request.uri().path() == "/token" {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let is_right = body == "grant_type=refresh_token&client_id=me&client_secret=s%26%2B&refresh_token=right";
        return if is_right {
            status(
                200,
                json!({"access_token": "given", "expires_in": 3599, "token_type": "Bearer"}).to_string(),
            )
        } else {
            status(
                400,
                json!({"error": "invalid_grant", "error_description": "hush"}).to_string(),
            )
        };
    }
    if let How::Asks(token) = how {
        let is_right = request
            .headers()
            .get(header::AUTHORIZATION)
            .is_some_and(|sent| sent == token);
        if !is_right {
            return refusal(401, "authError");
        }
    }
    let query = request.uri().query().unwrap_or_default();
    if !query.contains("alt=media") {
        let name = if matches!(how, How::OtherNames) {
            "hidden"
        } else {
            "a/file"
        };
        let mut page = json!({"items": [{"name": name, "size": "9", "generation": "17"}]});
        if matches!(how, How::SamePage) {
            page["nextPageToken"] = "again".into();
        }
        return status(200, page.to_string());
    }
    assert_eq!(request.uri().path(), "/storage/v1/b/bucket/o/a%2Ffile");
    assert!(query.contains("generation=17"), "{query}");
    let range = request.headers()[header::RANGE].to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let mut headers = BTreeMap::from([
        ("x-goog-generation", "17".to_owned()),
        ("x-goog-hash", "crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw==".to_owned()),
        ("content-range", format!("bytes {first}-{last}/{}", BYTES.len())),
    ]);
    let mut code = 206;
    match how {
        How::Says(name, Some(value)) => drop(headers.insert(name, value.to_owned())),
        How::Says(name, None) => drop(headers.remove(name)),
        How::Status(status) => code = status,
        How::Refuses(code, reason) => return refusal(code, reason),
        _ => {}
    }
    let mut response = status(code, BYTES[first..=last].to_owned());
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

fn user(endpoint: &str, refresh_token: &str) -> String {
    json!({
        "type": "authorized_user", "client_id": "me", "client_secret": "s&+", "refresh_token": refresh_token,
        "token_uri": format!("{endpoint}/token"),
    })
    .to_string()
}

async fn only(origin: &GcsOrigin) -> Listed {
    origin.list_all().await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_sent_with_each_request() {
    let server = Strict::that(How::Asks("Bearer given")).await;
    let key = user(&server.endpoint, "right");
    let origin = server.origin(Some(key));
    let file = only(&origin).await;
    assert_eq!(read(&origin, &file, 0..9).await.unwrap(), BYTES.as_bytes());
    let came = server.came.lock().unwrap();
    let with_token = came
        .iter()
        .filter(|headers| headers.contains_key(header::AUTHORIZATION));
    assert_eq!((came.len(), with_token.count()), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_open_nothing_are_refused_without_showing_them() {
    let server = Strict::that(How::Asks("Bearer given")).await;
    let account = json!({"type": "service_account", "client_email": "me@project", "private_key": PEM});
    let token_elsewhere = user("http://169.254.169.254", "right");
    for (key, kind, says) in [
        (None, "denied", "is not open to everybody (authError)"),
        (
            Some(user(&server.endpoint, "wrong-hush")),
            "denied",
            "127.0.0.1 gives no token (invalid_grant)",
        ),
        (Some(account.to_string()), "denied", "refuses access (authError)"),
        (
            Some(token_elsewhere),
            "not allowed",
            "169.254.169.254, which gives the tokens for it, may not be reached: its address is",
        ),
    ] {
        let error = server.origin(key).list_all().await.unwrap_err();
        let text = format!("{error} {error:?}");
        let got = match error {
            OriginError::Denied(_) => "denied",
            OriginError::NotAllowed(_) => "not allowed",
            _ => "other",
        };
        assert_eq!(got, kind, "{text}");
        assert!(
            text.contains(says) && !text.contains("hush") && !text.contains("s&+"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_comes_with_a_token_of_its_own() {
    let server = Strict::that(How::Open).await;
    let account = json!({"type": "service_account", "client_email": "me@project", "private_key": PEM});
    let origin = server.origin(Some(account.to_string()));
    let file = only(&origin).await;
    assert_eq!(read(&origin, &file, 2..5).await.unwrap(), b"345");
    let came = server.came.lock().unwrap();
    let tokens: Vec<_> = came.iter().map(|headers| &headers[header::AUTHORIZATION]).collect();
    assert_eq!((tokens.len(), tokens[0]), (2, tokens[1]));
    assert_eq!(tokens[0].to_str().unwrap().split('.').count(), 3);
    assert_eq!(came[1][header::ACCEPT_ENCODING], "gzip", "stored bytes are asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_proven_to_be_those_that_were_listed_are_not_passed_on() {
    for (how, says) in [
        (How::Says("x-goog-generation", Some("18")), "changed"),
        (
            How::Says("x-goog-generation", None),
            "without the version by which it was listed",
        ),
        (
            How::Says("content-range", Some("bytes 0-8/10")),
            "lists a/file with another length than it has",
        ),
        (How::Says("content-range", Some("bytes 1-9/9")), "another range"),
        (How::Says("content-range", None), "does not say which range"),
        (
            How::Says("x-goog-hash", Some("crc32c=AAAAAA==")),
            "do not match its own checksum",
        ),
        (How::Status(200), "sends whole objects"),
    ] {
        let server = Strict::that(how.clone()).await;
        let origin = server.origin(None);
        let file = only(&origin).await;
        let error = read(&origin, &file, 0..9).await.unwrap_err().to_string();
        assert!(error.contains(says), "{how:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_instead_of_bytes_is_told_apart() {
    for (status, reason, expected) in [
        (429, "rateLimitExceeded", "throttled"),
        (503, "backendError", "throttled"),
        (403, "userRateLimitExceeded", "throttled"),
        (403, "forbidden", "denied"),
        (401, "required", "denied"),
        (404, "notFound", "drifted"),
        (412, "conditionNotMet", "drifted"),
        (416, "requestedRangeNotSatisfiable", "drifted"),
        (400, "required", "invalid"),
        (302, "", "not found"),
        (502, "", "unreachable"),
        (504, "", "unreachable"),
        (500, "backendError", "other"),
    ] {
        let server = Strict::that(How::Refuses(status, reason)).await;
        let origin = server.origin(None);
        let file = only(&origin).await;
        let error = read(&origin, &file, 0..9).await.unwrap_err();
        let text = error.to_string();
        let got = match error {
            OriginError::Throttled { .. } => "throttled",
            OriginError::Denied(_) => "denied",
            OriginError::Drifted(_) => "drifted",
            OriginError::Invalid(_) => "invalid",
            OriginError::NotAllowed(_) => "not allowed",
            OriginError::NotFound(_) => "not found",
            OriginError::Unreachable(_) => "unreachable",
            OriginError::Other(_) => "other",
        };
        assert_eq!(got, expected, "{status} {reason}: {text}");
        assert!(text.contains("gs://bucket/") && !text.contains("hush"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_make_no_sense_are_errors_and_have_an_end() {
    for (how, says) in [
        (How::SamePage, "the same page again and again"),
        (How::OtherNames, "names that do not begin with the prefix"),
    ] {
        let server = Strict::that(how).await;
        let origin = origin(&server.endpoint, "bucket", "a/", None).unwrap();
        let error = origin.list().take(5).try_concat().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::Invalid(text) if text.contains(says)),
            "{error:?}"
        );
    }
}
