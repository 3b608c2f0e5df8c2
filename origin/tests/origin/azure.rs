//! Azure Blob Storage as an origin: a server that speaks its API, and one that does what that one does not.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, header};
use futures::{StreamExt, TryStreamExt};
use penstock_e2e::origin::{AZURE_ACCOUNT, AZURE_KEY, AZURE_READER, AzureServer};
use penstock_origin::azure::AzureOrigin;
use penstock_origin::{Network, Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What clients are known to spoil.
const NAMES: [&str; 13] = [
    "a b",
    " blanks ",
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

fn content(name: &str) -> Vec<u8> {
    if name.ends_with('/') {
        Vec::new()
    } else {
        format!("the bytes of {name}").repeat(40).into_bytes()
    }
}

fn account_key(key: &str) -> Option<wire::AzureKey> {
    Some(wire::AzureKey {
        account_key: key.to_owned(),
        ..wire::AzureKey::default()
    })
}

fn signed_query(query: &str) -> Option<wire::AzureKey> {
    Some(wire::AzureKey {
        sas_token: query.to_owned(),
        ..wire::AzureKey::default()
    })
}

fn origin(endpoint: &str, container: &str, prefix: &str, key: Option<wire::AzureKey>) -> AzureOrigin {
    let config = wire::Azure {
        account: AZURE_ACCOUNT.to_owned(),
        container: container.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: endpoint.to_owned(),
        key,
        workload_identity: false,
    };
    AzureOrigin::new(config, &Network::default()).unwrap()
}

async fn read(origin: &AzureOrigin, listed: &Listed, range: std::ops::Range<u64>) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, range).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn listed(origin: &AzureOrigin) -> BTreeMap<String, Listed> {
    let all = origin.list_all().await.unwrap();
    all.into_iter().map(|one| (one.key.clone(), one)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_name_is_listed_as_it_is_and_can_be_read_with_each_kind_of_key() {
    let server = AzureServer::on(Ipv4Addr::LOCALHOST.into(), "container").unwrap();
    for name in NAMES {
        server.put("container", name, &content(name)).unwrap();
    }
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    for key in [account_key(AZURE_KEY), signed_query(&format!("?{AZURE_READER}"))] {
        let whole = origin(&server.endpoint(), "container", "", key.clone());
        let all = listed(&whole).await;
        assert_eq!(all.keys().collect::<Vec<_>>(), names);
        for (name, one) in &all {
            let content = content(name);
            assert_eq!(one.bytes, content.len() as u64, "{name}");
            assert!(matches!(one.version, Version::ETag(_)), "{one:?}");
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
        for prefix in ["a", "a/", "p/", "/", " ", "q?a&", "100%", "folder/"] {
            let below = origin(&server.endpoint(), "container", prefix, key.clone());
            let got = listed(&below).await;
            let expected = names.iter().filter_map(|name| name.strip_prefix(prefix));
            let expected: Vec<_> = expected.filter(|name| !name.is_empty()).collect();
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_changed_or_went_is_never_read_as_the_one_that_was_listed() {
    let server = AzureServer::on(Ipv4Addr::LOCALHOST.into(), "container").unwrap();
    server.put("container", "p/file", b"before").unwrap();
    let origin = origin(&server.endpoint(), "container", "p/", account_key(AZURE_KEY));
    let before = listed(&origin).await.remove("file").unwrap();
    assert_eq!(read(&origin, &before, 0..6).await.unwrap(), b"before");
    // As long as before.
    server.put("container", "p/file", b"behind").unwrap();
    let error = read(&origin, &before, 0..6).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::Drifted(text) if text.contains("file changed")),
        "{error:?}"
    );
    let after = listed(&origin).await.remove("file").unwrap();
    assert_eq!(read(&origin, &after, 0..6).await.unwrap(), b"behind");
    server.delete("container", "p/file").unwrap();
    let error = read(&origin, &after, 0..6).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_allowed_is_told_apart_without_showing_a_key() {
    let server = AzureServer::on(Ipv4Addr::LOCALHOST.into(), "container").unwrap();
    let wrong = "d3JvbmctaHVzaC1odXNoLWh1c2g=";
    let forged = AZURE_READER.replace("sig=", "sig=AAAA");
    for (container, key, kind, says) in [
        ("nowhere", account_key(AZURE_KEY), "not found", "(ContainerNotFound)"),
        ("container", account_key(wrong), "denied", "refuses access"),
        ("container", signed_query(&forged), "denied", "refuses access"),
        ("container", None, "denied", "not open to everybody"),
    ] {
        let origin = origin(&server.endpoint(), container, "p/", key);
        let error = origin.list_all().await.unwrap_err();
        let text = format!("{error} {error:?}");
        let got = match error {
            OriginError::NotFound(_) => "not found",
            OriginError::Denied(_) => "denied",
            _ => "other",
        };
        assert_eq!(got, kind, "{text}");
        assert!(
            text.contains(says) && text.contains(&format!("azure://{AZURE_ACCOUNT}/{container}/p/")),
            "{text}"
        );
        assert!(!text.contains(wrong) && !text.contains("sig="), "{text}");
    }
}

/// What the server does.
#[derive(Clone, Debug)]
enum How {
    /// Another header instead of one of the answer, or none.
    Says(&'static str, Option<&'static str>),
    /// Whole blobs.
    Whole,
    /// Refuses content.
    Refuses(u16, &'static str),
    /// Refuses to list.
    RefusesToList(u16, &'static str),
    /// Lists in pages of one blob.
    Pages,
    /// Lists the same page again and again.
    SamePage,
    /// Lists what was not asked for.
    OtherNames,
    /// Lists what begins as asked of these, where those that end in a slash are directories of a hierarchy: without it.
    Hierarchy(&'static [&'static str]),
}

/// A server of one blob, as the real one answers; ends when dropped.
struct Strict {
    endpoint: String,
    server: JoinHandle<()>,
}

impl Strict {
    async fn that(how: How) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(how);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, server }
    }

    fn origin(&self, prefix: &str) -> AzureOrigin {
        origin(&self.endpoint, "c", prefix, account_key(AZURE_KEY))
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.server.abort();
    }
}

const BYTES: &str = "123456789";

async fn answer(State(how): State<How>, request: Request<Body>) -> Response<Body> {
    let refusal = |status: u16, code: &str| {
        let xml = format!("\u{feff}<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>hush</Message></Error>");
        Response::builder().status(status).body(Body::from(xml)).unwrap()
    };
    assert!(request.headers().contains_key("x-ms-version"));
    assert!(
        request.headers()[header::AUTHORIZATION]
            .to_str()
            .unwrap()
            .starts_with("SharedKey devstoreaccount1:")
    );
    let query = request.uri().query().unwrap_or_default();
    if query.contains("comp=list") {
        let blob = |name: &str| {
            format!(
                "<Blob><Name>{name}</Name><Properties><Etag>0x8D</Etag><Content-Length>9</Content-Length></Properties></Blob>"
            )
        };
        let (blobs, next) = match how {
            How::RefusesToList(status, code) => return refusal(status, code),
            How::Pages if query.contains("marker=2%21%2B") => (blob("second"), ""),
            How::Pages => (blob("first"), "2!+"),
            How::SamePage => (blob("a/file"), "again"),
            How::OtherNames => (blob("hidden"), ""),
            How::Hierarchy(names) => (hierarchy(names, query), ""),
            _ => (blob("a/file"), ""),
        };
        let xml = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker>\
             </EnumerationResults>"
        );
        return Response::new(xml.into());
    }
    assert_eq!(request.uri().path(), "/c/a/file");
    assert_eq!(request.headers()[header::IF_MATCH], "\"0x8D\"");
    let range = request.headers()[header::RANGE].to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let mut headers = BTreeMap::from([
        ("etag", "\"0x8D\"".to_owned()),
        ("content-range", format!("bytes {first}-{last}/{}", BYTES.len())),
    ]);
    let mut status = 206;
    match how {
        How::Says(name, Some(value)) => drop(headers.insert(name, value.to_owned())),
        How::Says(name, None) => drop(headers.remove(name)),
        How::Whole => status = 200,
        How::Refuses(status, code) => return refusal(status, code),
        _ => {}
    }
    let body = Body::from(&BYTES[first..=last]);
    let mut response = Response::builder().status(status).body(body).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

fn hierarchy(names: &[&str], query: &str) -> String {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
    let asked = asked.unwrap_or_default().replace("%2F", "/");
    let blob = |name: &&str| {
        let (name, kind, bytes) = match name.strip_suffix('/') {
            Some(directory) => (directory, "directory", 0),
            None => (*name, "file", 9),
        };
        name.starts_with(&asked).then(|| {
            format!(
                "<Blob><Name>{name}</Name><Properties><Etag>0x8D</Etag><Content-Length>{bytes}</Content-Length>\
                 <ResourceType>{kind}</ResourceType></Properties></Blob>"
            )
        })
    };
    names.iter().filter_map(blob).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_marker_of_a_folder_is_among_what_is_below_it_where_names_are_a_hierarchy() {
    let server = Strict::that(How::Hierarchy(&["p/", "p/x/", "p/x/1", "p/x/y/", "p/x.txt", "p/z/1"])).await;
    let origin = server.origin("p/");
    for (start, expected) in [
        ("x/", vec!["x/", "x/1", "x/y/"]),
        ("x", vec!["x/", "x/1", "x/y/", "x.txt"]),
        ("x/y/", vec!["x/y/"]),
        ("x/1", vec!["x/1"]),
        // No directory, only its file.
        ("z/", vec!["z/1"]),
        ("q/", vec![]),
    ] {
        let below: Vec<Listed> = origin.list_below(start).unwrap().try_concat().await.unwrap();
        let keys: Vec<&str> = below.iter().map(|listed| listed.key.as_str()).collect();
        assert_eq!(keys, expected, "{start}");
    }
    // Elsewhere a marker is a blob with a slash, and is there once.
    let flat = AzureServer::on(Ipv4Addr::LOCALHOST.into(), "container").unwrap();
    for name in ["x/", "x/1"] {
        flat.put("container", name, &content(name)).unwrap();
    }
    let origin = self::origin(&flat.endpoint(), "container", "", account_key(AZURE_KEY));
    let below: Vec<Listed> = origin.list_below("x/").unwrap().try_concat().await.unwrap();
    let keys: Vec<&str> = below.iter().map(|listed| listed.key.as_str()).collect();
    assert_eq!(keys, ["x/", "x/1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_more_than_a_page_comes_in_pages() {
    let server = Strict::that(How::Pages).await;
    let pages: Vec<_> = server.origin("").list().try_collect().await.unwrap();
    let keys: Vec<_> = pages.iter().map(|page| page[0].key.as_str()).collect();
    assert_eq!(keys, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_proven_to_be_those_that_were_listed_are_not_passed_on() {
    for (how, says) in [
        (How::Says("etag", Some("\"0x8E\"")), "changed"),
        (How::Says("etag", None), "without the version by which it was listed"),
        (
            How::Says("content-range", Some("bytes 0-8/10")),
            "lists a/file with another length than it has",
        ),
        (How::Says("content-range", Some("bytes 1-9/9")), "another range"),
        (How::Says("content-range", None), "does not say which range"),
        (How::Whole, "sends whole objects"),
    ] {
        let server = Strict::that(how.clone()).await;
        let origin = server.origin("");
        let file = origin.list_all().await.unwrap().remove(0);
        let error = read(&origin, &file, 0..9).await.unwrap_err().to_string();
        assert!(error.contains(says), "{how:?}: {error}");
    }
}

fn kind(error: &OriginError) -> &'static str {
    match error {
        OriginError::Throttled { .. } => "throttled",
        OriginError::Denied(_) => "denied",
        OriginError::Drifted(_) => "drifted",
        OriginError::Invalid(_) => "invalid",
        OriginError::NotAllowed(_) => "not allowed",
        OriginError::NotFound(_) => "not found",
        OriginError::Unreachable(_) => "unreachable",
        OriginError::Other(_) => "other",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_instead_of_bytes_is_told_apart() {
    for (status, code, expected, says) in [
        (503, "ServerBusy", "throttled", "slow down (ServerBusy)"),
        (500, "ServerBusy", "throttled", "slow down"),
        (429, "", "throttled", "slow down (429)"),
        (409, "BlobArchived", "invalid", "a/file in azure://devstoreaccount1/c/"),
        (
            409,
            "BlobBeingRehydrated",
            "invalid",
            "is archived (BlobBeingRehydrated); move it",
        ),
        (409, "LeaseIdMissing", "other", "it is tried again"),
        (404, "BlobNotFound", "drifted", "is gone"),
        (404, "ContainerNotFound", "not found", "check account, container"),
        (412, "ConditionNotMet", "drifted", "changed"),
        (416, "InvalidRange", "drifted", "changed"),
        (
            403,
            "AuthorizationFailure",
            "denied",
            "refuses access (AuthorizationFailure)",
        ),
        (401, "InvalidAuthenticationInfo", "denied", "refuses access"),
        (
            400,
            "InvalidUri",
            "invalid",
            "does not take what it is asked (InvalidUri)",
        ),
        (302, "", "not found", "does not exist (302)"),
        (502, "", "unreachable", "gateway"),
        (504, "", "unreachable", "gateway"),
        (500, "InternalError", "other", "it is tried again"),
    ] {
        let server = Strict::that(How::Refuses(status, code)).await;
        let origin = server.origin("");
        let file = origin.list_all().await.unwrap().remove(0);
        let error = read(&origin, &file, 0..9).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{status} {code}: {error}");
        let text = error.to_string();
        assert!(text.contains(says) && !text.contains("hush"), "{text}");
    }
    for (status, code, expected) in [
        (404, "ResourceNotFound", "not found"),
        (412, "ConditionNotMet", "other"),
        (403, "AuthorizationFailure", "denied"),
    ] {
        let server = Strict::that(How::RefusesToList(status, code)).await;
        let error = server.origin("").list_all().await.unwrap_err();
        assert_eq!(kind(&error), expected, "{status} {code}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_make_no_sense_are_errors_and_have_an_end() {
    for (how, says) in [
        (How::SamePage, "the same page again and again"),
        (How::OtherNames, "names that do not begin with the prefix"),
    ] {
        let server = Strict::that(how).await;
        let origin = server.origin("a/");
        let error = origin.list().take(5).try_concat().await.unwrap_err();
        assert!(
            matches!(&error, OriginError::Invalid(text) if text.contains(says)),
            "{error:?}"
        );
    }
}
