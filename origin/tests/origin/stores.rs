//! A server of each kind of origin: a real one, or for the hub one that answers as it does.

mod hdfs;
mod hub;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use penstock_e2e::origin::{
    ACCESS_KEY, AZURE_ACCOUNT, AZURE_KEY, AzureServer, GcsServer, Nginx, NginxOptions, S3Server, SECRET_KEY,
};
use penstock_protocol::control::cache_node as wire;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::{Context, SignRequest};
use wire::source::Origin;

use crate::claim::{Reader, TOKEN, claim};
use crate::conformance::{Store, conforms};

pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Where what is put lies within a bucket: what is beside it is not part of the source.
const PREFIX: &str = "data/";

const WRONG: &str = "hush-hush-0123456789abcdef0123456789abcdef";

const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

fn source(origin: Origin) -> wire::Source {
    wire::Source {
        origin: Some(origin),
        ..Default::default()
    }
}

struct Garage(S3Server);

impl Garage {
    const BUCKET: &str = "conformance";

    async fn ask(&self, method: reqwest::Method, key: &str, body: Vec<u8>) {
        let path = utf8_percent_encode(key, PATH);
        let url = format!("http://{}/{}/{PREFIX}{path}", self.0.address, Self::BUCKET);
        let (mut parts, ()) = http::Request::builder()
            .method(method.as_str())
            .uri(&url)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .body(())
            .unwrap()
            .into_parts();
        let credential = Credential {
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.into(),
            session_token: None,
            expires_in: None,
        };
        let signer = RequestSigner::new("s3", self.0.region);
        signer
            .sign_request(&Context::new(), &mut parts, Some(&credential), None)
            .await
            .unwrap();
        parts.headers.remove("host");
        let request = reqwest::Client::new()
            .request(method, &url)
            .headers(parts.headers)
            .body(body);
        request.send().await.unwrap().error_for_status().unwrap();
    }

    fn config(&self, address: SocketAddr) -> wire::S3 {
        wire::S3 {
            bucket: Self::BUCKET.into(),
            prefix: PREFIX.into(),
            region: self.0.region.into(),
            endpoint: format!("http://{address}"),
            keys: Some(wire::AwsKeys {
                access_key_id: ACCESS_KEY.into(),
                secret_access_key: SECRET_KEY.into(),
                session_token: String::new(),
            }),
            ..Default::default()
        }
    }
}

#[async_trait]
impl Store for Garage {
    fn address(&self) -> SocketAddr {
        self.0.address
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        source(Origin::S3(self.config(address)))
    }

    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)> {
        let mut config = self.config(address);
        config.keys.as_mut().unwrap().secret_access_key = WRONG.into();
        Some((source(Origin::S3(config)), WRONG))
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        let bucket = "not-there".into();
        source(Origin::S3(wire::S3 {
            bucket,
            ..self.config(address)
        }))
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.ask(reqwest::Method::PUT, key, bytes.to_vec()).await;
    }

    async fn remove(&self, key: &str) {
        self.ask(reqwest::Method::DELETE, key, Vec::new()).await;
    }

    fn more_than_a_page(&self) -> usize {
        1100
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        vec![
            "a b",
            "a+b",
            "a//b",
            "/c",
            "é",
            "q?a&b=c;d",
            "100%25 #1",
            "<b>'\"+~",
            "=x,y;z@!$'()*:",
            "日本 語",
        ]
    }
}

/// Takes no keys, so there are none that are wrong.
struct Gcs {
    server: GcsServer,
    bucket: &'static str,
}

impl Gcs {
    const BUCKET: &str = "conformance";
    /// Keeps what is overwritten or deleted.
    const VERSIONS: &str = "versions";

    fn of(bucket: &'static str) -> Self {
        let server = GcsServer::on(HERE, Self::BUCKET).unwrap();
        server.make_versioned_bucket(Self::VERSIONS).unwrap();
        Self { server, bucket }
    }

    fn at(address: SocketAddr, bucket: &str) -> wire::Source {
        source(Origin::Gcs(wire::Gcs {
            bucket: bucket.into(),
            prefix: PREFIX.into(),
            endpoint: format!("http://{address}"),
            ..Default::default()
        }))
    }
}

#[async_trait]
impl Store for Gcs {
    fn address(&self) -> SocketAddr {
        self.server.address
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, self.bucket)
    }

    fn keeps_versions(&self) -> bool {
        self.bucket == Self::VERSIONS
    }

    fn wrong_keys(&self, _: SocketAddr) -> Option<(wire::Source, &'static str)> {
        None
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "not-there")
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.server.put(self.bucket, &format!("{PREFIX}{key}"), bytes).unwrap();
    }

    async fn remove(&self, key: &str) {
        self.server.delete(self.bucket, &format!("{PREFIX}{key}")).unwrap();
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        vec![
            "a b",
            " blanks ",
            "a+b",
            "a//b",
            "/c",
            "folder/",
            "é",
            "q?a&b=c;d",
            "100%25 #1",
            "<b>'\"+~",
            "=x,y;z@!$'()*:",
            "日本 語",
            "..a/..b",
        ]
    }
}

struct Azure(AzureServer);

impl Azure {
    const CONTAINER: &str = "conformance";
    /// In Base64, as keys of accounts are.
    const WRONG: &str = "aHVzaC1odXNoLTAxMjM0NTY3ODlhYmNkZWY=";

    fn at(address: SocketAddr, container: &str, account_key: &str) -> wire::Source {
        source(Origin::Azure(wire::Azure {
            account: AZURE_ACCOUNT.into(),
            container: container.into(),
            prefix: PREFIX.into(),
            endpoint: format!("http://{address}/{AZURE_ACCOUNT}"),
            key: Some(wire::AzureKey {
                account_key: account_key.into(),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}

#[async_trait]
impl Store for Azure {
    fn address(&self) -> SocketAddr {
        self.0.address
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, Self::CONTAINER, AZURE_KEY)
    }

    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)> {
        Some((Self::at(address, Self::CONTAINER, Self::WRONG), Self::WRONG))
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "not-there", AZURE_KEY)
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.0.put(Self::CONTAINER, &format!("{PREFIX}{key}"), bytes).unwrap();
    }

    async fn remove(&self, key: &str) {
        self.0.delete(Self::CONTAINER, &format!("{PREFIX}{key}")).unwrap();
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        vec![
            "a b",
            " blanks ",
            "a+b",
            "a//b",
            "/c",
            "folder/",
            "é",
            "q?a&b=c;d",
            "100%25 #1",
            "<b>'\"+~",
            "=x,y;z@!$'()*:",
            "日本 語",
            "..a/..b",
        ]
    }
}

/// A folder, on its own or behind a web server.
struct Files {
    folder: PathBuf,
    /// nginx tells versions apart by whole seconds.
    seconds: AtomicU64,
    /// Of each key.
    changed: Mutex<BTreeMap<String, u64>>,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let folder = folder.join(PREFIX);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            seconds: AtomicU64::new(1_700_000_000),
            changed: Mutex::default(),
        }
    }

    fn time_of(&self, key: &str) -> Option<i64> {
        let changed = self.changed.lock().unwrap();
        changed
            .get(key)
            .map(|seconds| i64::try_from(*seconds).unwrap() * 1_000_000_000)
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.folder.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let seconds = self.seconds.fetch_add(1, Ordering::Relaxed);
        self.changed.lock().unwrap().insert(key.to_owned(), seconds);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }

    fn remove(&self, key: &str) {
        std::fs::remove_file(self.folder.join(key)).unwrap();
    }

    /// As people do it, with the program for that; nothing when it has no name.
    fn write_manifest(&self, name: &str) {
        if name.is_empty() {
            return;
        }
        let script = format!("rm -f {name}; find . -type f -exec sha256sum {{}} + > ../{name} && mv ../{name} .");
        let mut shell = Command::new("sh");
        let status = shell.args(["-c", &script]).current_dir(&self.folder).status();
        assert!(status.unwrap().success());
    }

    fn odd_keys() -> Vec<&'static str> {
        vec![
            "a b",
            "a+b",
            "é",
            "q?a&b=c;d",
            "100%25 #1",
            "<b>'\"+~",
            "=x,y;z@!$'()*",
            "日本 語/ü",
        ]
    }
}

struct WebServer {
    nginx: Nginx,
    files: Files,
    /// Name of the manifest that goes with the files, or "".
    manifest: &'static str,
}

impl WebServer {
    const USER: &str = "reader";
    const PASSWORD: &str = "opens the door";

    fn with(manifest: &'static str) -> Self {
        let options = NginxOptions {
            login: Some((Self::USER, Self::PASSWORD)),
            ..Default::default()
        };
        let nginx = Nginx::on(HERE, options).unwrap();
        Self {
            files: Files::of(&nginx.folder()),
            nginx,
            manifest,
        }
    }

    fn at(&self, address: SocketAddr, folder: &str, password: &str) -> wire::Source {
        source(Origin::Http(wire::Http {
            url: format!("http://{address}/{folder}"),
            manifest: self.manifest.into(),
            login: Some(wire::HttpLogin {
                user: Self::USER.into(),
                password: password.into(),
                bearer: String::new(),
            }),
            ..Default::default()
        }))
    }
}

#[async_trait]
impl Store for WebServer {
    fn address(&self) -> SocketAddr {
        self.nginx.address
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        self.at(address, PREFIX, Self::PASSWORD)
    }

    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)> {
        Some((self.at(address, PREFIX, WRONG), WRONG))
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        self.at(address, "not-there/", Self::PASSWORD)
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.files.put(key, bytes);
        self.files.write_manifest(self.manifest);
    }

    async fn remove(&self, key: &str) {
        self.files.remove(key);
        self.files.write_manifest(self.manifest);
    }

    fn time_of(&self, key: &str) -> Option<i64> {
        self.files.time_of(key)
    }

    /// A manifest is written anew with each file.
    fn more_than_a_page(&self) -> usize {
        if self.manifest.is_empty() { 1100 } else { 0 }
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        Files::odd_keys()
    }
}

/// A folder of a claim, behind a reader in this process.
struct ClaimVolume {
    reader: Reader,
    files: Files,
}

impl ClaimVolume {
    fn at(address: SocketAddr, path: &str, token: &str) -> wire::Source {
        source(Origin::Claim(claim(address, path, token)))
    }
}

#[async_trait]
impl Store for ClaimVolume {
    fn address(&self) -> SocketAddr {
        self.reader.address
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, PREFIX.trim_end_matches('/'), TOKEN)
    }

    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)> {
        Some((Self::at(address, PREFIX.trim_end_matches('/'), WRONG), WRONG))
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "not-there", TOKEN)
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.files.put(key, bytes);
    }

    async fn remove(&self, key: &str) {
        self.files.remove(key);
    }

    fn time_of(&self, key: &str) -> Option<i64> {
        self.files.time_of(key)
    }

    fn more_than_a_page(&self) -> usize {
        1100
    }

    fn has_tls(&self) -> bool {
        false
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        let more = ["..a/..b", " blanks ", "a\nb\u{1}\u{7f}", "%2e%2e/%2F", "&bytes=1&key=x"];
        [Files::odd_keys(), more.to_vec()].concat()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_conforms() {
    let volume = tempfile::tempdir().unwrap();
    let reader = Reader::of(volume.path()).await;
    let files = Files::of(volume.path());
    conforms(&ClaimVolume { reader, files }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    conforms(&Garage(S3Server::garage_on(HERE, Garage::BUCKET).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_cloud_storage_conforms() {
    conforms(&Gcs::of(Gcs::BUCKET)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_cloud_storage_that_keeps_versions_conforms() {
    conforms(&Gcs::of(Gcs::VERSIONS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_blob_storage_conforms() {
    conforms(&Azure(AzureServer::on(HERE, Azure::CONTAINER).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_conforms() {
    conforms(&WebServer::with("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_with_a_manifest_conforms() {
    conforms(&WebServer::with("SHA256SUMS")).await;
}
