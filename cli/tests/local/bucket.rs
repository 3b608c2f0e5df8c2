//! A bucket on a real S3 server with some data, the YAML of a Dataset on it, and the binary.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::Result;
use penstock_e2e::counting_proxy::CountingProxy;
use penstock_e2e::origin::S3Server;
use penstock_e2e::wait::wait_for;
use penstock_e2e::{dataset, manifests};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Small files in the bucket.
pub const FILES: usize = 150;
/// Length of the one big object, which ends in the middle of a block.
pub const BIG_BYTES: usize = (9 << 20) + 1234;
const DEADLINE: Duration = Duration::from_secs(30);

/// The bucket, and a folder for everything else.
pub struct Bucket {
    server: Option<S3Server>,
    /// In front of the server.
    pub proxy: CountingProxy,
    /// Who calls `penstock`.
    caller: Caller,
    scratch: tempfile::TempDir,
}

/// Who calls `penstock`, and which form is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// root, who wants this form.
    Root(&'static str),
    /// A user without any rights.
    Nobody,
}

/// The user and group `nobody` of Debian.
const NOBODY: u32 = 65534;

impl Bucket {
    /// A bucket with the sample data, for root.
    pub fn new() -> Self {
        Self::of(Caller::Root("auto"), |folder| dataset::write(folder, FILES, BIG_BYTES))
    }

    /// A bucket with what `write` puts into its folder.
    pub fn of(caller: Caller, write: impl Fn(&Path) -> Result<()>) -> Self {
        // /var/tmp is on a disk: an EROFS image cannot be mounted from tmpfs.
        let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
        let server = S3Server::rclone_on(Ipv4Addr::LOCALHOST.into(), scratch.path()).unwrap();
        write(&server.buckets().join("sample")).unwrap();
        let proxy = CountingProxy::start((Ipv4Addr::LOCALHOST, 0).into(), server.address).unwrap();
        let bucket = Self {
            server: Some(server),
            proxy,
            caller,
            scratch,
        };
        bucket.write_yaml(&manifests::secret("default"), "sample");
        fs::create_dir(bucket.target()).unwrap();
        if caller == Caller::Nobody {
            fs::copy(env!("CARGO_BIN_EXE_penstock"), bucket.binary()).unwrap();
            for path in [bucket.scratch.path(), &bucket.target(), &bucket.yaml()] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        bucket
    }

    /// The files of the bucket as they lie on the server's disk.
    pub fn files(&self) -> PathBuf {
        self.server().buckets().join("sample")
    }

    fn server(&self) -> &S3Server {
        self.server.as_ref().expect("the server was ended")
    }

    /// The bucket's server ends, and its files with it.
    pub fn end_server(&mut self) {
        self.server = None;
    }

    /// An empty folder to mount on.
    pub fn target(&self) -> PathBuf {
        self.scratch.path().join("mnt")
    }

    /// The YAML file.
    pub fn yaml(&self) -> PathBuf {
        self.scratch.path().join("dataset.yaml")
    }

    /// The cache folder.
    pub fn cache(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }

    /// Writes the YAML file anew, with other credentials or another bucket.
    pub fn write_yaml(&self, secret: &str, bucket: &str) {
        let dataset = manifests::dataset(
            "default",
            "sample",
            &self.proxy.address,
            self.server().region,
            bucket,
            "",
        );
        fs::write(self.yaml(), format!("{secret}---\n{dataset}")).unwrap();
    }

    /// Adds a source to the Dataset, whose list of them ends the file.
    pub fn add_source(&self, yaml: &str) {
        let before = fs::read_to_string(self.yaml()).unwrap();
        fs::write(self.yaml(), format!("{before}  - {yaml}\n")).unwrap();
    }

    /// `penstock COMMAND DATASET.yaml ARGS...`, and what it printed.
    pub fn penstock(&self, command: &str, arguments: &[&str]) -> Output {
        self.command(command).arg(self.yaml()).args(arguments).output().unwrap()
    }

    /// The same, when it must succeed; standard output.
    pub fn prints(&self, command: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.penstock(command, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command} {arguments:?}: {said}");
        output.stdout
    }

    /// The same, when it must fail; standard error.
    pub fn refuses(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.penstock(command, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{command} {arguments:?} went well: {said}");
        said
    }

    /// Waits until the server lists these files as they lie on its disk: it looks at its folders once a second.
    pub fn wait_listed(&self, paths: &[&str]) {
        wait_for("the server to list what is new", DEADLINE, || {
            for path in paths {
                let bytes = fs::metadata(self.files().join(path))?.len();
                let output = self.penstock("stat", &[path, "-o", "json"]);
                let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                if listed["bytes"] != bytes {
                    return Ok(Err(format!("{path}: {listed}")));
                }
            }
            Ok(Ok(()))
        })
        .unwrap();
    }

    /// `penstock status` of the mount, as its caller sees it.
    pub fn status(&self) -> Value {
        let output = self.command("status").args(["-o", "json"]).arg(self.target()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Mounts and waits until it is ready.
    pub fn mount(&self) -> Mounted {
        self.mount_on(&self.target())
    }

    fn mount_on(&self, target: &Path) -> Mounted {
        let errors = self.scratch.path().join("stderr");
        let mut child = self
            .command("mount")
            .args([&self.yaml(), target])
            .arg("--cache-dir")
            .arg(self.cache())
            .args(["-o", "json"])
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mounted = Mounted {
            child,
            target: target.to_owned(),
            errors,
        };
        assert!(!line.is_empty(), "it ended: {}", mounted.said());
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["ready"], true, "{line}");
        mounted
    }

    /// A copy of the binary that everybody can run.
    fn binary(&self) -> PathBuf {
        self.scratch.path().join("penstock")
    }

    fn command(&self, command: &str) -> Command {
        let mut penstock = match self.caller {
            Caller::Root(_) => Command::new(env!("CARGO_BIN_EXE_penstock")),
            Caller::Nobody => Command::new(self.binary()),
        };
        penstock.env_clear().env("HOME", self.scratch.path());
        penstock.arg(command).envs(match self.caller {
            Caller::Root(form) => Some(("PENSTOCK_FORM", form)),
            Caller::Nobody => None,
        });
        self.caller.becomes(&mut penstock);
        penstock
    }
}

impl Caller {
    /// Lets a command run as this user.
    pub fn becomes(self, command: &mut Command) {
        if self == Self::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let left = mounted_below(self.scratch.path());
        for target in left.iter().rev() {
            let _ = penstock_mount::bind::detach(target);
        }
        assert!(
            left.is_empty() || std::thread::panicking(),
            "the test left these mounts behind: {left:?}"
        );
    }
}

/// A running mount; asked to end when it is dropped.
pub struct Mounted {
    child: Child,
    target: PathBuf,
    errors: PathBuf,
}

impl Mounted {
    /// What it wrote to standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// `penstock status` of it.
    pub fn status(&self) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(["status", "-o", "json"])
            .arg(&self.target)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // Our own child, not yet waited for.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself, and whether it was content.
    pub fn ended(&mut self) -> bool {
        let status = wait_for("penstock mount to end", DEADLINE, || {
            Ok(self.child.try_wait()?.ok_or_else(|| "it runs".to_owned()))
        });
        status.unwrap().success()
    }

    /// Waits until it has said something.
    pub fn wait_said(&self, sentence: &str) {
        wait_for(&format!("it to say {sentence:?}"), DEADLINE, || {
            let said = self.said();
            Ok(if said.contains(sentence) { Ok(()) } else { Err(said) })
        })
        .unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let ended = wait_for("penstock mount to end", DEADLINE, || {
                Ok(self.child.try_wait()?.ok_or_else(|| "it runs".to_owned()))
            });
            if ended.is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// Whether anything of ours is mounted below a folder.
pub fn is_anything_mounted_below(folder: &Path) -> bool {
    !mounted_below(folder).is_empty()
}

fn mounted_below(folder: &Path) -> Vec<PathBuf> {
    let table = penstock_mount::table::read().unwrap();
    let targets = table.into_iter().map(|mount| mount.target);
    targets.filter(|target| target.starts_with(folder)).collect()
}

/// The folder of a bucket's scratch.
pub fn scratch(bucket: &Bucket) -> &Path {
    bucket.scratch.path()
}
