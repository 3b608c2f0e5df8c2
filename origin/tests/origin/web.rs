//! Folders of web servers as origins: a real one, and one that does what some do.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode, header};
use futures::TryStreamExt;
use penstock_e2e::origin::WebServer;
use penstock_origin::http::HttpOrigin;
use penstock_origin::{Network, Origin, OriginError, proven};
use penstock_protocol::checksum::crc32c;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use penstock_origin::fake_bucket::tag;

const ODD_NAMES: [&str; 5] = ["a b", "é", "q?a&b=c;d", "100%25 #1", "<b>'\"+~"];

const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.');

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// ETags, as nginx.
    Tags,
    /// ETags that say no more than that the content means the same.
    WeakTags,
    /// ETags, but it does not look at the one that is asked for.
    NoConditions,
    /// Nothing about versions.
    NoVersion,
    /// No more than when files changed.
    Times,
    /// ... which is the second of the first answer about each.
    JustChanged,
    /// ... which is the present, always.
    Present,
    /// ETags, and as the time of the last change the second of the first answer about each.
    TagsOfJustNow,
    /// ETags that are made of the bytes, and as the time of the last change the present, always.
    TagsAndPresent,
    /// ETags, and a file that is one byte longer when it is asked for its length.
    TagsOfLonger,
    /// ... which is the second in which a cache asked, that answers since then.
    Cached,
    /// ... and something that is no line of it is added to `SHA256SUMS` with each HEAD.
    MovingManifest,
    /// Whole files only.
    NoRanges,
    /// Everything is somewhere else.
    Moved,
    /// Text instead of pages.
    NoPages,
    /// Refuses.
    Closed,
    /// Each folder has itself in it.
    Circle,
    /// Its pages lead to a file and a folder that are gone.
    Dead,
    /// Answers nothing but GET.
    NoHead,
}

/// The server; ends when dropped.
pub struct Web {
    pub url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    how: How,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Method and path.
    asked: Mutex<Vec<String>>,
}

impl Web {
    pub async fn with(how: How, names: &[&str]) -> Self {
        let files = names.iter().map(|name| ((*name).to_owned(), content(name)));
        let shared = Arc::new(Shared {
            how,
            files: Mutex::new(files.collect()),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/pub/", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, server }
    }

    pub fn origin(&self, files: &[&str]) -> HttpOrigin {
        origin(&self.url, files).unwrap()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut files = self.shared.files.lock().unwrap();
        files.insert(name.to_owned(), bytes.to_vec());
    }

    pub fn remove(&self, name: &str) {
        self.shared.files.lock().unwrap().remove(name);
    }

    /// Methods of all requests, in their order.
    pub fn methods(&self) -> Vec<String> {
        let asked = self.shared.asked.lock().unwrap();
        let methods = asked.iter().filter_map(|line| line.split(' ').next());
        methods.map(str::to_owned).collect()
    }

    pub fn asked(&self, method: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|line| line.starts_with(method)).count()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn content(name: &str) -> Vec<u8> {
    format!("the bytes of {name}").repeat(40).into_bytes()
}

pub fn origin(url: &str, files: &[&str]) -> Result<HttpOrigin, OriginError> {
    let config = wire::Http {
        url: url.to_owned(),
        files: files.iter().map(|file| (*file).to_owned()).collect(),
        ..Default::default()
    };
    HttpOrigin::new(config, &Network::default())
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let status = |status: StatusCode| Response::builder().status(status);
    let path = request.uri().path();
    let line = format!("{} {path}", request.method());
    shared.asked.lock().unwrap().push(line.clone());
    let Some(name) = path.strip_prefix("/pub/") else {
        return status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    let name = percent_decode_str(name).decode_utf8().unwrap().into_owned();
    match shared.how {
        How::Moved => {
            let moved = status(StatusCode::FOUND).header(header::LOCATION, "http://127.0.0.1:1/");
            return moved.body(Body::empty()).unwrap();
        }
        How::NoHead if request.method() == Method::HEAD => {
            return status(StatusCode::METHOD_NOT_ALLOWED).body(Body::empty()).unwrap();
        }
        How::Closed => return status(StatusCode::UNAUTHORIZED).body(Body::empty()).unwrap(),
        _ => {}
    }
    let mut files = shared.files.lock().unwrap();
    if shared.how == How::MovingManifest && request.method() == Method::HEAD {
        files.get_mut("SHA256SUMS").unwrap().extend(b"half a line\n");
    }
    if name.is_empty() || name.ends_with('/') {
        let kind = if shared.how == How::NoPages {
            "text/plain"
        } else {
            "text/html"
        };
        let page = match shared.how {
            How::Circle => page("", files.keys()) + "<a href=\"again/\">again/</a>",
            How::Dead if name.contains("gone") => {
                return status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
            }
            How::Dead => page(&name, files.keys()) + "<a href=\"gone/\">gone/</a><a href=\"gone\">gone</a>",
            _ => page(&name, files.keys()),
        };
        return status(StatusCode::OK)
            .header(header::CONTENT_TYPE, kind)
            .body(Body::from(page))
            .unwrap();
    }
    let Some(bytes) = files.get(&name) else {
        return status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    let tag = match shared.how {
        How::WeakTags => format!("W/\"{}\"", tag(bytes)),
        _ => format!("\"{}\"", tag(bytes)),
    };
    let header_of = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let is_other = header_of(header::IF_MATCH).is_some_and(|wanted| wanted != tag || shared.how == How::WeakTags);
    if is_other && shared.how != How::NoConditions {
        return status(StatusCode::PRECONDITION_FAILED).body(Body::empty()).unwrap();
    }
    let range = header_of(header::RANGE).filter(|_| shared.how != How::NoRanges);
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (first, last) = range.map_or((0, bytes.len() - 1), |(first, last)| {
        (first.parse().unwrap(), last.parse().unwrap())
    });
    let mut answer = if range.is_some() {
        let range = format!("bytes {first}-{last}/{}", bytes.len());
        status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range)
    } else {
        status(StatusCode::OK)
    };
    // Each content at its own time.
    let second = crc32c(bytes) % 3600;
    let at = |second| format!("Thu, 26 Nov 2026 10:{:02}:{:02} GMT", second / 60, second % 60);
    let asked = shared.asked.lock().unwrap();
    let times = asked.iter().filter(|asked| **asked == line).count();
    answer = match shared.how {
        How::NoVersion => answer,
        How::Times | How::MovingManifest => answer.header(header::LAST_MODIFIED, at(second)),
        How::JustChanged => {
            let date = if times == 1 { second } else { second + 1 };
            answer
                .header(header::LAST_MODIFIED, at(second))
                .header(header::DATE, at(date))
        }
        How::Cached => answer
            .header(header::LAST_MODIFIED, at(second))
            .header(header::DATE, at(second))
            .header(header::AGE, times - 1),
        How::Present => answer
            .header(header::LAST_MODIFIED, at(second))
            .header(header::DATE, at(second)),
        How::TagsOfJustNow => {
            let date = if times == 1 { second } else { second + 1 };
            answer
                .header(header::ETAG, tag)
                .header(header::LAST_MODIFIED, at(second))
                .header(header::DATE, at(date))
        }
        How::TagsAndPresent => {
            let now = at(second + times as u32);
            answer
                .header(header::ETAG, tag)
                .header(header::LAST_MODIFIED, &now)
                .header(header::DATE, &now)
        }
        _ => answer
            .header(header::ETAG, tag)
            .header(header::LAST_MODIFIED, at(second)),
    };
    let more = usize::from(shared.how == How::TagsOfLonger && request.method() == Method::HEAD);
    answer = answer.header(header::CONTENT_LENGTH, last + 1 - first + more);
    let body = match *request.method() {
        Method::HEAD => Body::empty(),
        _ => Body::from(bytes[first..=last].to_vec()),
    };
    answer.body(body).unwrap()
}

/// As nginx writes one.
fn page<'a>(folder: &str, names: impl Iterator<Item = &'a String>) -> String {
    let mut html = format!("<html><body><h1>Index of /pub/{folder}</h1><hr><pre><a href=\"../\">../</a>\n");
    let mut entries: Vec<_> = names
        .filter_map(|name| name.strip_prefix(folder))
        .map(|rest| {
            rest.split_once('/')
                .map_or(rest.to_owned(), |(folder, _)| format!("{folder}/"))
        })
        .collect();
    entries.dedup();
    for entry in entries {
        let target = utf8_percent_encode(&entry, ESCAPED);
        html += &format!("<a href=\"{target}\">{entry}</a>    26-Nov-2026 10:00   1\n");
    }
    html
}

pub async fn read(origin: &HttpOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, 0..listed.bytes).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn assert_reads(origin: &HttpOrigin, expected: &BTreeMap<String, Vec<u8>>) {
    let listed = origin.list_all().await.unwrap();
    let mut keys: Vec<_> = listed.iter().map(|one| &one.key).collect();
    keys.sort();
    assert_eq!(keys, expected.keys().collect::<Vec<_>>());
    for one in &listed {
        assert_eq!(read(origin, one).await.unwrap(), expected[&one.key], "{}", one.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_followed_and_each_file_is_asked_for_once() {
    let mut names = ODD_NAMES.to_vec();
    names.extend(["deep/er/file.tar", "deep/file.tar", "plain.tar"]);
    let web = Web::with(How::Tags, &names).await;
    let expected = names.iter().map(|name| ((*name).to_owned(), content(name))).collect();
    assert_reads(&web.origin(&[]), &expected).await;
    assert_eq!(web.asked("HEAD"), names.len());
    let pages = 3;
    assert_eq!(web.asked("GET"), pages + names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pages_lead_to_and_is_not_there_is_left_out() {
    let web = Web::with(How::Dead, &["a/file", "file"]).await;
    let expected = ["a/file", "file"].map(|name| (name.to_owned(), content(name))).into();
    assert_reads(&web.origin(&[]), &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_named_are_found_without_a_page_and_have_to_be_there() {
    let web = Web::with(How::NoPages, &["a", "b/c", "d"]).await;
    let expected = ["a", "b/c"].map(|name| (name.to_owned(), content(name))).into();
    assert_reads(&web.origin(&["b/c", "a"]), &expected).await;
    let error = web.origin(&["a", "gone"]).list_all().await.unwrap_err();
    assert!(
        matches!(&error, OriginError::NotFound(text) if text.contains("/pub/gone does not exist")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_or_went_is_never_read_as_the_one_that_was_listed() {
    for how in [How::Tags, How::NoConditions, How::WeakTags] {
        let web = Web::with(how, &["file"]).await;
        let origin = web.origin(&[]);
        let [before] = origin.list_all().await.unwrap().try_into().unwrap();
        let is_tag = matches!(before.version, Version::ETag(_));
        assert_eq!(is_tag, how != How::WeakTags, "a weak tag proves nothing");
        assert_eq!(read(&origin, &before).await.unwrap(), content("file"));
        // As long as before.
        web.put("file", &content("life"));
        let error = read(&origin, &before).await.unwrap_err();
        assert!(matches!(error, OriginError::Drifted(_)), "{how:?}: {error}");
        let [after] = origin.list_all().await.unwrap().try_into().unwrap();
        assert_ne!(after.version, before.version);
        assert_eq!(read(&origin, &after).await.unwrap(), content("life"));
        web.shared.files.lock().unwrap().clear();
        let error = read(&origin, &after).await.unwrap_err();
        assert!(matches!(error, OriginError::Drifted(_)), "{how:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_an_origin_is_refused_when_it_is_listed() {
    for (how, says) in [
        (
            How::NoVersion,
            "neither a strong ETag nor the time of the last change of file",
        ),
        (How::NoRanges, "sends whole objects where parts are asked for"),
        (How::Moved, "leads to another address (302), which is not followed"),
        (How::NoPages, "is no page with links (text/plain); name the files"),
        (How::Closed, "is not open to everybody (401)"),
        (How::NoHead, "cannot be asked for its length and version (405 to HEAD)"),
        (How::Circle, "has folders within folders, more than 32 deep"),
    ] {
        let web = Web::with(how, &["file"]).await;
        let origin = web.origin(&[]);
        let listed: Result<Vec<_>, _> = proven(&origin).try_concat().await;
        let error = listed.unwrap_err().to_string();
        assert!(error.contains(says), "{how:?}: {error}");
    }
}

#[test]
fn what_names_no_folder_of_a_web_server_is_refused() {
    for (url, files, says) in [
        ("ftp://host/", vec![], "begins with http:// or https://"),
        ("no url", vec![], "write one like https://"),
        ("http://me:secret@ho st/", vec![], "write one like https://"),
        ("ftp://me:secret@host/", vec![], "must not have a user"),
        ("http://host/?a=b", vec![], "no `?`"),
        ("http://me:secret@host/", vec![], "must not have a user"),
        ("http://host/", vec!["a/../b"], "\"a/../b\" is no path"),
        ("http://host/", vec!["/a"], "\"/a\" is no path"),
        ("http://host/", vec!["a/"], "\"a/\" is no path"),
    ] {
        let error = origin(url, &files).err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_without_etags_is_read_by_the_time_of_the_last_change() {
    let server = WebServer::rclone_on(Ipv4Addr::LOCALHOST.into()).unwrap();
    let mut expected = BTreeMap::new();
    for name in ODD_NAMES.iter().chain(&["deep/er/file.tar", "plain.tar"]) {
        let path = server.folder().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content(name)).unwrap();
        expected.insert((*name).to_owned(), content(name));
    }
    let url = format!("http://{}", server.address);
    let origin = origin(&url, &[]).unwrap();
    assert_reads(&origin, &expected).await;
    let listed = origin.list_all().await.unwrap();
    let before = listed.iter().find(|one| one.key == "plain.tar").unwrap();
    // As long as before, and changed later.
    let path = server.folder().join("plain.tar");
    let changed = content("plain.tar").iter().map(|byte| byte ^ 1).collect::<Vec<u8>>();
    std::fs::write(&path, changed).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    std::fs::File::open(&path).unwrap().set_modified(later).unwrap();
    let error = read(&origin, before).await.unwrap_err();
    assert!(matches!(error, OriginError::Drifted(_)), "{error}");
}
