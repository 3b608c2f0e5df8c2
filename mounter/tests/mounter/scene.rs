//! A revision, its FUSE connection and its EROFS mount. What the csi container does in the product, the scene does here:
//! it mounts, keeps every descriptor, and takes everything down at the end, whatever is dead by then.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use penstock_mount::fuse::For;
use penstock_mount::{bind, erofs, fuse, ledger};
use penstock_protocol::connection::Unanswered;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, Outcome, Package, SourceListing, Version, build};

use crate::fake_node::content;

pub const SPACE: SpaceId = SpaceId([5; 16]);
/// Longer than anything takes that goes well, shorter than a person waits.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Scene {
    pub package: Package,
    pub folder: tempfile::TempDir,
    /// The connection and its clones, and what travels with them.
    pub descriptors: Vec<OwnedFd>,
    pub unanswered: Unanswered,
}

impl Scene {
    /// A revision of files with these names and lengths, and a connection that nobody serves yet.
    pub fn new(files: &[(&str, u64)]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount: run them as root"
        );
        let package = package(files);
        // Not below /tmp, which may be a tmpfs: EROFS mounts no file from there.
        let folder = tempfile::Builder::new()
            .prefix("mounter-test-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        for name in ["space", "tree"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("image"), package.image().unwrap()).unwrap();
        let connection = fuse::mount(Path::new("test"), &folder.path().join("space"), For::Image).unwrap();
        let clone = fuse::clone(&connection).unwrap();
        Self {
            package,
            folder,
            descriptors: vec![connection, clone],
            unanswered: Unanswered::Resent,
        }
    }

    /// The same, as if the kernel could not resend.
    pub fn with_ledger(files: &[(&str, u64)]) -> Self {
        let mut scene = Self::new(files);
        scene.descriptors.push(ledger::create().unwrap());
        scene.unanswered = Unanswered::InLedger;
        scene
    }

    pub fn space(&self) -> PathBuf {
        self.folder.path().join("space")
    }

    pub fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// Second descriptors of the connection and its clones, to be handed over.
    pub fn copies(&self) -> Vec<OwnedFd> {
        self.descriptors
            .iter()
            .map(|fd| fuse::keep(fd).unwrap().into())
            .collect()
    }

    /// Mounts the tree; somebody must serve the connection by now.
    pub fn show(&self) {
        erofs::mount(
            &self.folder.path().join("image"),
            &self.tree(),
            &[self.space().join("0")],
        )
        .unwrap();
    }

    /// Makes the kernel forget what it read.
    pub fn forget(&self) {
        bind::unmount(&self.tree()).unwrap();
        self.show();
    }

    /// What the file at `path` of the tree holds.
    pub fn expected(&self, path: &str) -> Vec<u8> {
        let extents = self.package.all_extents().map(Result::unwrap);
        let extent = extents.into_iter().find(|extent| extent.object.key == path);
        extent.map_or_else(Vec::new, |extent| content(extent.address, extent.bytes as usize))
    }

    /// Reads a file of the tree and compares it.
    pub fn check(&self, path: &str) {
        let got = fs::read(self.tree().join(path)).unwrap();
        assert!(got == self.expected(path), "{path} has wrong bytes");
    }

    /// Ends the connection: what waits on it fails.
    pub fn abort(&self) {
        fuse::abort(fuse::connection_number(&self.space()).unwrap()).unwrap();
    }

    /// Unmounts in the right order, as unpublish does.
    pub fn unmount(&self) {
        bind::unmount(&self.tree()).unwrap();
        bind::unmount(&self.space()).unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Nobody may serve the connection any more, and then only an abort lets go of it.
        if let Ok(number) = fuse::connection_number(&self.space()) {
            let _ = fuse::abort(number);
        }
        for target in [self.tree(), self.space()] {
            let _ = bind::detach(&target);
        }
    }
}

fn package(files: &[(&str, u64)]) -> Package {
    let objects = files.iter().map(|(key, bytes)| Listed {
        key: (*key).to_owned(),
        bytes: *bytes,
        modified_unix_nanos: 1_700_000_000_000_000_000,
        version: Version::ETag("1".to_owned()),
    });
    let listing = SourceListing {
        identity: "s3://test/".to_owned(),
        path: String::new(),
        objects: objects.collect(),
    };
    match build(SPACE, None, &[listing], &BuildOptions::default()).unwrap() {
        Outcome::New(package) => package,
        Outcome::Unchanged => unreachable!("there is no parent"),
    }
}

/// Reads the whole file in a thread of its own.
pub fn read_aside(path: &Path) -> Aside<std::io::Result<Vec<u8>>> {
    let path = path.to_owned();
    aside(move || fs::read(path))
}

/// What a thread will say.
pub struct Aside<T>(mpsc::Receiver<T>);

impl<T> Aside<T> {
    /// Its answer. Fails instead of hanging, so that the scene is taken down and the thread with it.
    pub fn answer(&self) -> T {
        self.0
            .recv_timeout(2 * PATIENCE)
            .expect("a thread should have answered by now")
    }

    pub fn still_waits(&self) -> bool {
        matches!(self.0.try_recv(), Err(mpsc::TryRecvError::Empty))
    }
}

pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Aside<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    Aside(receiver)
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
