//! A node with csi and mounter as the processes that they are, and real mounts. Around them only what is not theirs is
//! played: the API server, one cache node, the kubelet's calls.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use penstock_csi::folders::Folders;
use penstock_csi::proto::csi;
use penstock_csi::proto::csi::node_client::NodeClient;
use penstock_mount::bind::{self, Access};
use penstock_mount::{fuse, table};
use penstock_protocol::ids::SpaceId;
use penstock_revision::Package;
use rustix::fs::{Advice, fadvise};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::SpliceFlags;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use crate::fake_node::{FakeNode, content};
use crate::mounter::wait_until;
use crate::scene::{NAMESPACE, dataset, package_of, publish_request};

pub const SPACE: SpaceId = SpaceId([9; 16]);
/// Files of a few reads each.
pub const FILES: u64 = 12;
const FILE_BYTES: u64 = (3 << 20) + 5;

/// A node of the cluster, with nothing running on it yet.
pub struct Machine {
    pub folders: Folders,
    pub cache: FakeNode,
    pub health: SocketAddr,
    /// How csi mounts images.
    pub form: &'static str,
    resend: Resend,
    package: Package,
    datasets: Arc<Datasets>,
    kubeconfig: PathBuf,
    pub scratch: tempfile::TempDir,
}

/// What the kernel can do for a mounter that takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Send again what another one left.
    Auto,
    /// As if it could not (before Linux 6.9).
    Off,
}

impl Resend {
    pub const BOTH: [Self; 2] = [Self::Auto, Self::Off];
}

/// A process of the product; a test that fails does not leave it behind.
pub struct Process(pub Child);

impl Machine {
    pub fn new(resend: Resend) -> Self {
        Self::with_patience(300, resend)
    }

    /// With a Dataset whose reads fail after so many seconds.
    pub fn with_patience(read_timeout_seconds: i32, resend: Resend) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root");
        let scratch = tempfile::Builder::new().prefix("pcsi").tempdir().unwrap();
        let folders = Folders {
            kubelet: scratch.path().join("kubelet"),
            state: scratch.path().join("state"),
            private: scratch.path().join("private"),
        };
        for folder in [
            folders.pods(),
            folders.kubelet.join("plugins_registry"),
            folders.private.clone(),
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        // Bidirectional, as the kubelet's folder is in the pod of csi: its mounts are seen here too.
        bind::bind(&folders.kubelet, &folders.kubelet, Access::ReadWrite).unwrap();
        mount_change(&folders.kubelet, MountPropagationFlags::SHARED).unwrap();

        let files: Vec<_> = (0..FILES).map(|number| (number.to_string(), FILE_BYTES)).collect();
        let (package, cache) = (package_of(SPACE, "1", &files), FakeNode::start(SPACE));
        let datasets = Arc::<Datasets>::default();
        let server = api_server(datasets.clone());
        let kubeconfig = scratch.path().join("kubeconfig");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}], users: [{{name: u, user: {{}}}}]}}"
        );
        fs::write(&kubeconfig, config).unwrap();
        let machine = Self {
            folders,
            cache,
            health: free_address(),
            form: "auto",
            resend,
            package,
            datasets,
            kubeconfig,
            scratch,
        };
        machine.add_dataset("imagenet", &machine.package, read_timeout_seconds);
        machine
    }

    /// Puts a Dataset at `package` into the cluster.
    pub fn add_dataset(&self, name: &str, package: &Package, read_timeout_seconds: i32) {
        self.cache.keep(package.id(), package.whole().unwrap().to_vec());
        let mut dataset = dataset(name, package, self.cache.address());
        dataset.spec.read_timeout_seconds = read_timeout_seconds;
        let text = serde_json::to_string(&dataset).unwrap();
        self.datasets.lock().unwrap().insert(name.to_owned(), text);
    }

    /// Starts csi, and returns when the kubelet could call it.
    pub fn csi(&self) -> Process {
        self.start_csi(Command::new(env!("CARGO_BIN_EXE_penstock-csi")))
    }

    /// As [`Machine::csi`], under its supervisor.
    pub fn supervised_csi(&self) -> Supervised {
        let mut supervisor = Command::new(binary_of("penstock-supervisor"));
        supervisor.arg(env!("CARGO_BIN_EXE_penstock-csi"));
        Supervised(self.start_csi(supervisor))
    }

    pub fn start_csi(&self, command: Command) -> Process {
        let socket = self.folders.csi_socket();
        let _ = fs::remove_file(&socket);
        let process = self.spawn_csi(command, &self.folders.private, self.health);
        wait_until("the socket of csi", || socket.exists());
        process
    }

    /// The csi container of the next version, which starts while the old one works, and where its metrics are.
    pub fn next_csi(&self) -> (Supervised, SocketAddr) {
        let mut supervisor = Command::new(binary_of("penstock-supervisor"));
        supervisor.arg(env!("CARGO_BIN_EXE_penstock-csi"));
        let (private, health) = (self.folders.private.with_extension("next"), free_address());
        fs::create_dir_all(&private).unwrap();
        (Supervised(self.spawn_csi(supervisor, &private, health)), health)
    }

    pub fn spawn_csi(&self, mut command: Command, private: &Path, health: SocketAddr) -> Process {
        command
            .args(["--node-name=node-a", "--namespace=penstock-system", "--mounter-uid=0"])
            .arg(format!("--health-listen={health}"))
            .arg(format!("--kubelet-root={}", self.folders.kubelet.display()))
            .arg(format!("--state-dir={}", self.folders.state.display()))
            .arg(format!("--private-dir={}", private.display()))
            .arg(format!("--form={}", self.form))
            .arg(format!("--resend={}", format!("{:?}", self.resend).to_lowercase()))
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(self.log("csi"))
            .spawn()
            .map(Process)
            .unwrap()
    }

    /// Starts a mounter, and returns when it serves `connections` and so many mounters are there.
    pub fn mounter(&self, connections: u64) -> Process {
        let process = self.start_mounter(Command::new(binary_of("penstock-mounter")));
        self.wait_for("penstock_csi_mounter_connected", 1);
        self.wait_for("penstock_csi_served_connections", connections);
        process
    }

    /// As [`Machine::mounter`], under its supervisor, with nothing to serve yet.
    pub fn supervised_mounter(&self) -> Supervised {
        let mut supervisor = Command::new(binary_of("penstock-supervisor"));
        supervisor.arg(binary_of("penstock-mounter"));
        let process = self.start_mounter(supervisor);
        self.wait_for("penstock_csi_mounter_connected", 1);
        Supervised(process)
    }

    pub fn start_mounter(&self, mut command: Command) -> Process {
        command
            .arg(format!("--keeper-socket={}", self.folders.keeper_socket().display()))
            .arg(format!("--health-listen={}", free_address()))
            .stdin(Stdio::null())
            .stdout(self.log("mounter"))
            .spawn()
            .map(Process)
            .unwrap()
    }

    pub fn log(&self, name: &str) -> Stdio {
        let path = self.scratch.path().join(name).with_extension("log");
        let file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.into()
    }

    pub fn wait_for(&self, metric: &str, value: u64) {
        wait_for_metric(self.health, metric, value);
    }

    pub fn target(&self, pod: &str) -> PathBuf {
        self.folders
            .pods()
            .join(pod)
            .join("volumes/kubernetes.io~csi/data/mount")
    }

    /// What the kubelet does for a pod that starts.
    pub async fn publish(&self, pod: &str) {
        self.publish_dataset(pod, "imagenet").await;
    }

    /// As [`Machine::publish`], for another Dataset.
    pub async fn publish_dataset(&self, pod: &str, dataset: &str) {
        let target = self.target(pod);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let request = publish_request(pod, NAMESPACE, &target, &[("dataset", dataset)]);
        self.kubelet().await.node_publish_volume(request).await.unwrap();
    }

    pub async fn unpublish(&self, pod: &str) {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: self.target(pod).display().to_string(),
        };
        self.kubelet().await.node_unpublish_volume(request).await.unwrap();
    }

    pub async fn kubelet(&self) -> NodeClient<tonic::transport::Channel> {
        let socket = self.folders.csi_socket();
        // The kubelet calls again while csi is being started.
        wait_until("csi to listen", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        NodeClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    /// Makes the kernel forget what it has read of a file.
    pub fn forget(&self, pod: &str, file: u64) {
        let file = fs::File::open(self.target(pod).join(file.to_string())).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }

    /// Reads a file of a pod's volume in a thread of its own; whether its bytes are right.
    pub fn read(&self, pod: &str, file: u64) -> mpsc::Receiver<std::io::Result<bool>> {
        let key = file.to_string();
        let extents = self.package.all_extents().map(Result::unwrap);
        let extent = extents.into_iter().find(|extent| extent.object.key == key).unwrap();
        let (path, (sender, receiver)) = (self.target(pod).join(key), mpsc::channel());
        std::thread::spawn(move || {
            let right = |bytes: Vec<u8>| bytes == content(extent.address, FILE_BYTES as usize);
            sender.send(fs::read(path).map(right))
        });
        receiver
    }

    /// Reads a file again and again, which is in memory after the first time, and is kept there: some machines take pages away
    /// that were not used for a few seconds (DAMON). Pages that wait in a pipe stay.
    pub fn read_warm(&self, pod: &str, file: u64) -> WarmReader {
        assert!(self.read(pod, file).recv_timeout(PATIENCE).unwrap().unwrap());
        let path = self.target(pod).join(file.to_string());
        let (pages, mut left) = (fs::File::open(&path).unwrap(), FILE_BYTES as usize);
        let mut pipes = Vec::new();
        while left > 0 {
            let pipe = rustix::pipe::pipe().unwrap();
            rustix::pipe::fcntl_setpipe_size(&pipe.1, PIPE_BYTES).unwrap();
            // Until it is full.
            while let Ok(moved @ 1..) = rustix::pipe::splice(&pages, None, &pipe.1, None, left, SpliceFlags::NONBLOCK) {
                left -= moved;
            }
            pipes.push(pipe);
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let content = fs::read(&path).unwrap();
            while stopped.recv_timeout(Duration::from_millis(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
                assert!(fs::read(&path).unwrap() == content, "wrong bytes");
            }
        });
        WarmReader {
            stop,
            thread,
            _pipes: pipes,
        }
    }

    /// The images that are mounted, without the binds of pods.
    pub fn images(&self) -> Vec<PathBuf> {
        let mounts = self.mounts_left().into_iter();
        mounts
            .filter(|target| self.folders.revision_of(target).is_some())
            .collect()
    }

    pub fn mounts_left(&self) -> Vec<PathBuf> {
        let table = table::read().unwrap();
        let below = table
            .into_iter()
            .filter(|mount| mount.target.starts_with(self.scratch.path()));
        below
            .map(|mount| mount.target)
            .filter(|target| *target != self.folders.kubelet)
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["csi.log", "mounter.log"] {
                eprintln!(
                    "---- {name}\n{}",
                    fs::read_to_string(self.scratch.path().join(name)).unwrap_or_default()
                );
            }
        }
        for target in self.mounts_left().iter().rev() {
            if let Some((_, connection)) = self.folders.revision_of(target) {
                let _ = fuse::abort(connection);
            }
            let _ = bind::detach(target);
        }
        let _ = bind::detach(&self.folders.kubelet);
    }
}

impl Process {
    pub fn end(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap();
    }
}

/// The largest pipe without CAP_SYS_RESOURCE (`fs.pipe-max-size`); each page of a file takes a page's room in it.
const PIPE_BYTES: usize = 1 << 20;

/// Reads what is in memory, and panics when it cannot.
pub struct WarmReader {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    _pipes: Vec<(OwnedFd, OwnedFd)>,
}

impl WarmReader {
    pub fn end(self) {
        drop(self.stop);
        self.thread.join().expect("what is in memory can be read");
    }
}

/// A supervisor with its worker.
pub struct Supervised(pub Process);

impl Supervised {
    /// The number of the worker, as soon as there is one.
    pub fn worker(&self) -> u32 {
        let supervisor = self.0.0.id();
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let mut worker = None;
        wait_until("a worker", || {
            let text = fs::read_to_string(&children).unwrap();
            worker = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
            worker.is_some()
        });
        worker.unwrap()
    }

    /// SIGKILL to the worker.
    pub fn kill_worker(&self) {
        let worker = Pid::from_raw(self.worker() as i32).unwrap();
        // It may have ended by itself meanwhile.
        let _ = kill_process(worker, Signal::KILL);
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // A supervisor that is killed would leave its worker behind.
        if let Ok(None) = self.0.0.try_wait() {
            self.0.end(Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A binary of another package. Cargo builds binaries for the tests of their own package only.
pub fn binary_of(package: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--bins"])
            .args(["--package=penstock-mounter", "--package=penstock-supervisor"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success());
    });
    Path::new(env!("CARGO_BIN_EXE_penstock-csi")).with_file_name(package)
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn metrics(address: SocketAddr) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = write!(stream, "GET /metrics HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

pub fn wait_for_metric(address: SocketAddr, metric: &str, value: u64) {
    let line = format!("{metric} {value}");
    wait_until(&line, || metrics(address).lines().any(|found| found == line));
}

/// Datasets as JSON, by their names.
type Datasets = Mutex<HashMap<String, String>>;

/// An API server with Datasets and no CacheRuntime.
fn api_server(datasets: Arc<Datasets>) -> SocketAddr {
    static WATCHES: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap_or_else(|| Ok(String::new())).unwrap_or_default();
            lines
                .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                .for_each(drop);
            let empty = r#"{"apiVersion":"v1","kind":"List","metadata":{"resourceVersion":"1"},"items":[]}"#;
            let body = match request {
                _ if request.contains("watch=") => {
                    // Nothing ever happens.
                    WATCHES.lock().unwrap().push(stream.into());
                    continue;
                }
                _ => match request.split_once("/datasets/") {
                    Some((_, name)) => {
                        let name = name.split([' ', '?']).next().unwrap();
                        datasets.lock().unwrap()[name].clone()
                    }
                    None => empty.to_owned(),
                },
            };
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

/// Longer than anything takes that goes well.
pub const PATIENCE: Duration = Duration::from_secs(30);
