//! Claims as origins: the reader of one in this process, and what it and its client do with each other.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use penstock_origin::volume::VolumeOrigin;
use penstock_origin::{Network, Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_reader::limits::{HEADER_BYTES_MAX, READS_MAX};
use penstock_reader::{Volume, serve};
use penstock_revision::{Listed, ObjectVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub const TOKEN: &str = "opens-the-volume";

/// A reader; ends when dropped.
pub struct Reader {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Reader {
    pub async fn of(volume: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let volume = Volume {
            path: volume.to_owned(),
            folder: None,
            place: "claim://vision/data".into(),
            token: TOKEN.into(),
        };
        let serving = tokio::spawn(serve(listener, volume, std::future::pending()));
        Self { address, serving }
    }

    fn origin(&self, path: &str) -> VolumeOrigin {
        VolumeOrigin::of_claim(claim(self.address, path, TOKEN), &Network::default()).unwrap()
    }
}

/// A reader of the folder `listed` of nodes, which lies at `folder` of what is mounted.
async fn of_nodes(mounted: &Path, folder: &str, listed: &str) -> Reader {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let volume = Volume {
        path: mounted.to_owned(),
        folder: Some(folder.into()),
        place: listed.into(),
        token: TOKEN.into(),
    };
    let serving = tokio::spawn(serve(listener, volume, std::future::pending()));
    Reader { address, serving }
}

#[tokio::test]
async fn a_folder_of_nodes_is_asked_by_its_path_there_and_no_link_leads_out_of_what_is_listed() {
    let node = tempfile::tempdir().unwrap();
    for file in ["team/2024/a", "team/deep/2024/b", "other/secret", "etc/passwd"] {
        std::fs::create_dir_all(node.path().join(file).parent().unwrap()).unwrap();
        std::fs::write(node.path().join(file), file).unwrap();
    }
    symlink("../other", node.path().join("team/beside")).unwrap();
    symlink(node.path().join("etc"), node.path().join("team/far")).unwrap();
    let list = async |folder: &str, listed: &str, asked: &str| {
        let reader = of_nodes(node.path(), folder, listed).await;
        let told = wire::FolderReader {
            namespace: "vision".into(),
            url: format!("http://{}", reader.address),
            pods: "penstock.io/reader=r".into(),
            token: Some(wire::ReaderToken { value: TOKEN.into() }),
        };
        let origin = VolumeOrigin::of_nodes(asked, told, &Network::default()).unwrap();
        let files = origin.list_all().await?;
        let mut read = Vec::new();
        for file in &files {
            read.push(String::from_utf8(self::read(&origin, file).await?).unwrap());
        }
        Ok::<_, OriginError>(read.join(","))
    };
    assert_eq!(
        list("team", "/mnt/team", "/mnt/team/2024").await.unwrap(),
        "team/2024/a"
    );
    // By whichever list the pod was made: the folder is the same one.
    assert_eq!(
        list("team", "/mnt/team", "/mnt/team/deep/2024").await.unwrap(),
        "team/deep/2024/b"
    );
    assert_eq!(
        list("team/deep", "/mnt/team/deep", "/mnt/team/deep/2024")
            .await
            .unwrap(),
        "team/deep/2024/b"
    );
    for elsewhere in ["/mnt/other", "/mnt/team2", "/mnt"] {
        let refused = list("team", "/mnt/team", elsewhere).await.unwrap_err();
        assert!(
            matches!(refused, OriginError::Unreachable(_)),
            "{elsewhere}: {refused:?}"
        );
    }
    for (folder, listed, asked) in [
        ("team", "/mnt/team", "/mnt/team/beside"),
        ("team", "/mnt/team", "/mnt/team/far"),
        ("team/far", "/mnt/team/far", "/mnt/team/far"),
    ] {
        let refused = list(folder, listed, asked).await.unwrap_err();
        let is_said = matches!(&refused, OriginError::Invalid(text) if text.contains("leads out of its volume"));
        assert!(is_said, "{asked}: {refused:?}");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a cache node is told of a folder of the claim.
pub fn claim(address: SocketAddr, path: &str, token: &str) -> wire::Claim {
    wire::Claim {
        namespace: "vision".into(),
        name: "data".into(),
        uid: "c-1".into(),
        path: path.into(),
        reader: format!("http://{address}"),
        pods: "penstock.io/reader=r".into(),
        token: Some(wire::ReaderToken { value: token.into() }),
    }
}

async fn listed(origin: &VolumeOrigin) -> Vec<Listed> {
    let mut listed = origin.list_all().await.unwrap();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    listed
}

async fn read(origin: &VolumeOrigin, listed: &Listed) -> Result<Vec<u8>, OriginError> {
    let object = ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    };
    let body = origin.read(&object, listed.bytes, 0..listed.bytes).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

/// Sends `request` as it is; what comes back, as far as it is text.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // It may close before it has read all.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_link_leads_out_of_the_folder_and_names_that_are_no_text_are_left_out() {
    let (volume, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| volume.path().join(name);
    std::fs::write(elsewhere.path().join("secret"), "secret").unwrap();
    std::fs::create_dir_all(at("data/deep")).unwrap();
    std::fs::create_dir(at("data/empty")).unwrap();
    std::fs::write(at("beside"), "beside").unwrap();
    std::fs::write(at("data/file"), "file").unwrap();
    std::fs::write(at("data").join(OsStr::from_bytes(b"no\xfftext")), "x").unwrap();
    symlink("../file", at("data/deep/within")).unwrap();
    symlink("../beside", at("data/to-the-volume")).unwrap();
    symlink(elsewhere.path().join("secret"), at("data/out")).unwrap();
    symlink(elsewhere.path(), at("folder-out")).unwrap();
    symlink("data", at("current")).unwrap();
    let reader = Reader::of(volume.path()).await;
    for path in ["data", "current"] {
        let origin = reader.origin(path);
        let listed = listed(&origin).await;
        let keys: Vec<_> = listed.iter().map(|listed| listed.key.as_str()).collect();
        assert_eq!(keys, ["deep/within", "empty/", "file"], "{path}");
        assert_eq!(read(&origin, &listed[0]).await.unwrap(), b"file");
    }
    let all = reader.origin("");
    let keys: Vec<_> = listed(&all).await.into_iter().map(|listed| listed.key).collect();
    assert!(keys.contains(&"data/to-the-volume".to_owned()), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains("out")), "{keys:?}");
    let out = reader.origin("folder-out").list_all().await.unwrap_err();
    assert!(
        matches!(&out, OriginError::Invalid(text) if text.contains("claim://vision/data/folder-out is a link that leads out")),
        "{out:?}"
    );
    // Whatever is asked for by name.
    let secret = Listed {
        key: "out".into(),
        bytes: 6,
        modified_unix_nanos: 0,
        version: penstock_revision::Version::ETag("1-1".into()),
    };
    for (path, key) in [("data", "out"), ("data", "../beside"), ("data", "/etc/passwd")] {
        let secret = Listed {
            key: key.into(),
            ..secret.clone()
        };
        let error = read(&reader.origin(path), &secret).await.unwrap_err();
        assert!(!matches!(error, OriginError::Other(_)), "{path} {key}: {error:?}");
    }
}

#[tokio::test]
async fn a_large_folder_is_listed_in_pages_and_all_of_it() {
    let volume = tempfile::tempdir().unwrap();
    for number in 0..2500 {
        std::fs::write(volume.path().join(format!("{number:04}-{}", "n".repeat(200))), "").unwrap();
    }
    let reader = Reader::of(volume.path()).await;
    let origin = reader.origin("");
    let pages: Vec<Vec<Listed>> = origin.list().try_collect().await.unwrap();
    assert!(pages.len() > 2 && pages.iter().all(|page| page.len() <= 1000));
    assert_eq!(pages.concat().len(), 2500);
}

#[tokio::test]
async fn what_is_no_question_gets_no_files() {
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), "in the file").unwrap();
    let reader = Reader::of(volume.path()).await;
    let ask = async |line: &str, headers: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n{headers}\r\n");
        let answer = raw(reader.address, &request).await;
        assert!(!answer.contains("in the file"), "{line}: {answer}");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let known = format!("Authorization: Bearer {TOKEN}\r\n");
    let versioned = format!("{known}If-Match: \"1-1\"\r\nRange: bytes=0-10\r\n");
    let read = "GET /read/?bytes=11&key=file";
    let long = format!("{known}X: {}\r\n", "x".repeat(HEADER_BYTES_MAX));
    let empty = "Authorization: Bearer \r\n".to_owned();
    for (line, headers, status) in [
        ("GET /healthz", "", "200"),
        ("GET /list/", "", "401"),
        ("GET /list/", empty.as_str(), "401"),
        ("GET /list/", "Authorization: opens-the-volume\r\n", "401"),
        (read, "", "401"),
        ("GET /", known.as_str(), "400"),
        (read, known.as_str(), "428"),
        (
            "GET /read/?bytes=11&key=file",
            &format!("{known}If-Match: \"1-1\"\r\n"),
            "416",
        ),
        (read, versioned.as_str(), "412"),
        ("POST /list/", known.as_str(), "405"),
    ] {
        assert_eq!(ask(line, headers).await, status, "{line} {headers:.60}");
    }
    // No client of ours can ask that: URLs have no such parts.
    for above in ["/list/..", "/list/%2e%2e/", "/list//etc"] {
        let request = format!("GET {above} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n{known}\r\n");
        let answer = raw(reader.address, &request).await;
        assert!(
            answer.contains("{\"fault\":") && !answer.contains("{\"file\":"),
            "{above}: {answer}"
        );
    }
    // What it says of that may be lost with what it did not read.
    let refused = ask("GET /list/", &long).await;
    assert!(["431", ""].contains(&refused.as_str()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_keeps_no_more_than_his_place() {
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), vec![7; 8 << 20]).unwrap();
    let reader = Reader::of(volume.path()).await;
    let origin = reader.origin("");
    let [file] = listed(&origin).await.try_into().unwrap();
    let object = ObjectVersion {
        source: 0,
        key: file.key.clone(),
        version: file.version.clone(),
    };
    let mut stuck = Vec::new();
    for _ in 0..READS_MAX {
        stuck.push(origin.read(&object, file.bytes, 0..file.bytes).await.unwrap());
    }
    let busy = read(&origin, &file).await.unwrap_err();
    assert!(
        matches!(&busy, OriginError::Throttled { wait: Some(wait), .. } if *wait == Duration::from_secs(1)),
        "{busy:?}"
    );
    assert_eq!(listed(&origin).await.len(), 1, "listings have turns of their own");
    stuck.pop();
    assert_eq!(read(&origin, &file).await.unwrap().len(), 8 << 20);
}

#[tokio::test]
async fn a_reader_that_is_not_there_or_answers_strangely_is_said_with_what_to_do() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let origin = VolumeOrigin::of_claim(claim(address, "", TOKEN), &Network::default()).unwrap();
    let answers = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"file\":",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}\n",
    ];
    let server = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let broken = "the reader of the claim data does not answer (it broke off while it listed); kubectl -n vision describe pods -l penstock.io/reader=r shows why";
    for _ in 0..2 {
        let error = origin.list_all().await.unwrap_err();
        assert_eq!(error, OriginError::Unreachable(broken.into()));
    }
    let strange = origin.list_all().await.unwrap_err();
    assert!(
        matches!(&strange, OriginError::Other(text) if text.contains("when it is upgraded")),
        "{strange:?}"
    );
    server.await.unwrap();
    let gone = origin.list_all().await.unwrap_err();
    assert!(
        matches!(&gone, OriginError::Unreachable(text) if text.contains("does not answer (") && text.contains("describe pods -l penstock.io/reader=r")),
        "{gone:?}"
    );
}
