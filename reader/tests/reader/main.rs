//! The reader as a process of its own, asked by the client of cache nodes.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures::TryStreamExt;
use penstock_origin::volume::VolumeOrigin;
use penstock_origin::{Network, Origin, OriginError};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion};
use rustix::process::{Pid, Signal, getegid, geteuid, kill_process};

/// A reader as a pod has it; ended when dropped.
struct Reader {
    process: Child,
    address: SocketAddr,
    /// Whom it runs as.
    user: String,
    _folder: tempfile::TempDir,
}

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

impl Reader {
    /// As somebody who is not root, if this test may do that.
    fn start(volume: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Where the binary lies not everybody may go.
        let binary = folder.path().join("reader");
        std::fs::copy(env!("CARGO_BIN_EXE_penstock-reader"), &binary).unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "hush-hush\n").unwrap();
        allow(folder.path(), 0o755);
        // Free a moment ago, as for the servers of other tests.
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let mut command = Command::new(&binary);
        command
            .arg("--volume")
            .arg(volume)
            .arg("--token-file")
            .arg(&token)
            .args(["--place=claim://vision/data", &format!("--listen={address}")])
            .env("RUST_LOG", "info")
            .stdout(Stdio::piped());
        let user = if geteuid().is_root() {
            command.uid(1000).gid(100);
            "user 1000 and group 100".to_owned()
        } else {
            format!("user {} and group {}", geteuid().as_raw(), getegid().as_raw())
        };
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("serves") && !first.contains("hush-hush"), "{first}");
        // The rest has to go somewhere.
        std::thread::spawn(move || lines.count());
        Self {
            process,
            address,
            user,
            _folder: folder,
        }
    }

    fn origin(&self) -> VolumeOrigin {
        let claim = wire::Claim {
            namespace: "vision".into(),
            name: "data".into(),
            uid: "c-1".into(),
            path: "2024".into(),
            reader: format!("http://{}", self.address),
            pods: "penstock.io/reader=r".into(),
            token: Some(wire::ReaderToken {
                value: "hush-hush".into(),
            }),
        };
        VolumeOrigin::of_claim(claim, &Network::default()).unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn volume() -> tempfile::TempDir {
    let volume = tempfile::tempdir().unwrap();
    allow(volume.path(), 0o755);
    std::fs::create_dir(volume.path().join("2024")).unwrap();
    volume
}

fn object(listed: &Listed) -> ObjectVersion {
    ObjectVersion {
        source: 0,
        key: listed.key.clone(),
        version: listed.version.clone(),
    }
}

#[tokio::test]
async fn what_may_not_be_read_is_named_with_who_may_not() {
    let volume = volume();
    let at = |name: &str| volume.path().join("2024").join(name);
    std::fs::write(at("file"), "x").unwrap();
    let reader = Reader::start(volume.path());
    let origin = reader.origin();
    let [file] = origin.list_all().await.unwrap().try_into().unwrap();
    let expected = |path: &str| {
        OriginError::Denied(format!(
            "claim://vision/data/2024{path} may not be read by {}; set uid, gid or supplementalGroups of the source to those \
             of who may read its files and enter its folders",
            reader.user
        ))
    };
    allow(&at("file"), 0o000);
    assert_eq!(origin.list_all().await.unwrap_err(), expected("/file"));
    let error = origin.read(&object(&file), 1, 0..1).await.err().unwrap();
    assert_eq!(error, expected("/file"));
    allow(&at("file"), 0o444);
    std::fs::create_dir(at("folder")).unwrap();
    allow(&at("folder"), 0o000);
    assert_eq!(origin.list_all().await.unwrap_err(), expected("/folder/"));
    allow(&at("folder"), 0o755);
    allow(&volume.path().join("2024"), 0o000);
    assert_eq!(origin.list_all().await.unwrap_err(), expected(""));
    allow(&volume.path().join("2024"), 0o755);
    assert_eq!(origin.list_all().await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_being_read_comes_whole_when_the_reader_is_asked_to_end() {
    let volume = volume();
    let content: Vec<u8> = (0..64 << 20).map(|at: u32| (at % 251) as u8).collect();
    std::fs::write(volume.path().join("2024/file"), &content).unwrap();
    let mut reader = Reader::start(volume.path());
    let origin = reader.origin();
    let [file] = origin.list_all().await.unwrap().try_into().unwrap();
    let mut body = origin.read(&object(&file), file.bytes, 0..file.bytes).await.unwrap();
    let first = body.try_next().await.unwrap().unwrap();
    let pid = Pid::from_child(&reader.process);
    kill_process(pid, Signal::TERM).unwrap();
    let rest = body.try_collect::<Vec<_>>().await.unwrap().concat();
    assert!([&first[..], &rest].concat() == content);
    let ended = tokio::task::spawn_blocking(move || reader.process.wait().unwrap());
    assert!(ended.await.unwrap().success());
    let error = origin.list_all().await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable(_)), "{error:?}");
}

#[test]
fn without_a_token_it_does_not_begin() {
    let volume = volume();
    let token = volume.path().join("token");
    std::fs::write(&token, "\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_penstock-reader"))
        .arg("--volume")
        .arg(volume.path())
        .arg("--token-file")
        .arg(&token)
        .arg("--listen=127.0.0.1:0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("is empty: everybody could read"),
        "{said}"
    );
}
