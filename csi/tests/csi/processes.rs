//! csi and mounter as the processes that they are, with real mounts: who may die while files are read, and who may not.
//! Around them only what is not theirs is played: the API server, one cache node, the kubelet's calls.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once, mpsc};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use penstock_csi::folders::Folders;
use penstock_csi::proto::csi;
use penstock_csi::proto::csi::node_client::NodeClient;
use penstock_mount::bind::{self, Access};
use penstock_mount::{fuse, table};
use penstock_protocol::ids::SpaceId;
use penstock_revision::Package;
use rand::Rng;
use rand::seq::SliceRandom;
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use crate::fake_node::{Behaviour, FakeNode, content};
use crate::mounter::wait_until;
use crate::scene::{NAMESPACE, dataset, package_of, publish_request};

const SPACE: SpaceId = SpaceId([9; 16]);
/// Files of a few reads each.
const FILES: u64 = 12;
const FILE_BYTES: u64 = (3 << 20) + 5;
const INLINE: &[(&str, &str)] = &[("dataset", "imagenet")];

/// A node of the cluster, with nothing running on it yet.
struct Machine {
    folders: Folders,
    package: Package,
    cache: FakeNode,
    health: SocketAddr,
    kubeconfig: PathBuf,
    scratch: tempfile::TempDir,
}

/// A process of the product; a test that fails does not leave it behind.
struct Process(Child);

impl Machine {
    fn new() -> Self {
        Self::with_patience(300)
    }

    /// With a Dataset whose reads fail after so many seconds.
    fn with_patience(read_timeout_seconds: i32) -> Self {
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
        cache.keep(package.id(), package.bytes().to_vec());
        let mut dataset = dataset("imagenet", &package, cache.address());
        dataset.spec.read_timeout_seconds = read_timeout_seconds;
        let server = api_server(serde_json::to_string(&dataset).unwrap());
        let kubeconfig = scratch.path().join("kubeconfig");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
             clusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}], users: [{{name: u, user: {{}}}}]}}"
        );
        fs::write(&kubeconfig, config).unwrap();
        Self {
            folders,
            package,
            cache,
            health: free_address(),
            kubeconfig,
            scratch,
        }
    }

    /// Starts csi, and returns when the kubelet could call it.
    fn csi(&self) -> Process {
        self.start_csi(Command::new(env!("CARGO_BIN_EXE_penstock-csi")))
    }

    /// As [`Machine::csi`], under its supervisor.
    fn supervised_csi(&self) -> Supervised {
        let mut supervisor = Command::new(binary_of("penstock-supervisor"));
        supervisor.arg(env!("CARGO_BIN_EXE_penstock-csi"));
        Supervised(self.start_csi(supervisor))
    }

    fn start_csi(&self, command: Command) -> Process {
        let socket = self.folders.csi_socket();
        let _ = fs::remove_file(&socket);
        let process = self.spawn_csi(command, &self.folders.private, self.health);
        wait_until("the socket of csi", || socket.exists());
        process
    }

    /// The csi container of the next version, which starts while the old one works, and where its metrics are.
    fn next_csi(&self) -> (Supervised, SocketAddr) {
        let mut supervisor = Command::new(binary_of("penstock-supervisor"));
        supervisor.arg(env!("CARGO_BIN_EXE_penstock-csi"));
        let (private, health) = (self.folders.private.with_extension("next"), free_address());
        fs::create_dir_all(&private).unwrap();
        (Supervised(self.spawn_csi(supervisor, &private, health)), health)
    }

    fn spawn_csi(&self, mut command: Command, private: &Path, health: SocketAddr) -> Process {
        command
            .args([
                "--node-name=node-a",
                "--namespace=penstock-system",
                "--unprivileged-uid=0",
            ])
            .arg(format!("--health-listen={health}"))
            .arg(format!("--kubelet-root={}", self.folders.kubelet.display()))
            .arg(format!("--state-dir={}", self.folders.state.display()))
            .arg(format!("--private-dir={}", private.display()))
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(self.log("csi"))
            .spawn()
            .map(Process)
            .unwrap()
    }

    /// Starts a mounter, and returns when it serves `connections` and so many mounters are there.
    fn mounter(&self, connections: u64) -> Process {
        let process = self.start_mounter(Command::new(binary_of("penstock-mounter")));
        self.wait_for("penstock_csi_mounter_connected", 1);
        self.wait_for("penstock_csi_served_connections", connections);
        process
    }

    /// As [`Machine::mounter`], under its supervisor, with nothing to serve yet.
    fn supervised_mounter(&self) -> Supervised {
        let mut supervisor = Command::new(binary_of("penstock-supervisor"));
        supervisor.arg(binary_of("penstock-mounter"));
        let process = self.start_mounter(supervisor);
        self.wait_for("penstock_csi_mounter_connected", 1);
        Supervised(process)
    }

    fn start_mounter(&self, mut command: Command) -> Process {
        command
            .arg(format!("--keeper-socket={}", self.folders.keeper_socket().display()))
            .arg(format!("--health-listen={}", free_address()))
            .stdin(Stdio::null())
            .stdout(self.log("mounter"))
            .spawn()
            .map(Process)
            .unwrap()
    }

    fn log(&self, name: &str) -> Stdio {
        let path = self.scratch.path().join(name).with_extension("log");
        let file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.into()
    }

    fn wait_for(&self, metric: &str, value: u64) {
        wait_for_metric(self.health, metric, value);
    }

    fn target(&self, pod: &str) -> PathBuf {
        self.folders
            .pods()
            .join(pod)
            .join("volumes/kubernetes.io~csi/data/mount")
    }

    /// What the kubelet does for a pod that starts.
    async fn publish(&self, pod: &str) {
        let target = self.target(pod);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let request = publish_request(pod, NAMESPACE, &target, INLINE);
        self.kubelet().await.node_publish_volume(request).await.unwrap();
    }

    async fn unpublish(&self, pod: &str) {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: self.target(pod).display().to_string(),
        };
        self.kubelet().await.node_unpublish_volume(request).await.unwrap();
    }

    async fn kubelet(&self) -> NodeClient<tonic::transport::Channel> {
        let socket = self.folders.csi_socket();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        NodeClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    /// Makes the kernel forget what it has read of a file.
    fn forget(&self, pod: &str, file: u64) {
        let file = fs::File::open(self.target(pod).join(file.to_string())).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }

    /// Reads a file of a pod's volume in a thread of its own; whether its bytes are right.
    fn read(&self, pod: &str, file: u64) -> mpsc::Receiver<std::io::Result<bool>> {
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

    /// Reads a file again and again, which is in memory after the first time. Not only once: some machines take pages away
    /// that were not used for a few seconds (DAMON).
    fn read_warm(&self, pod: &str, file: u64) -> WarmReader {
        assert!(self.read(pod, file).recv_timeout(PATIENCE).unwrap().unwrap());
        let path = self.target(pod).join(file.to_string());
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let content = fs::read(&path).unwrap();
            while stopped.recv_timeout(Duration::from_millis(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
                assert!(fs::read(&path).unwrap() == content, "wrong bytes");
            }
        });
        WarmReader { stop, thread }
    }

    /// The images that are mounted, without the binds of pods.
    fn images(&self) -> Vec<PathBuf> {
        let mounts = self.mounts_left().into_iter();
        mounts
            .filter(|target| self.folders.revision_of(target).is_some())
            .collect()
    }

    fn mounts_left(&self) -> Vec<PathBuf> {
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
    fn end(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap();
    }
}

/// Reads what is in memory, and panics when it cannot.
struct WarmReader {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl WarmReader {
    fn end(self) {
        drop(self.stop);
        self.thread.join().expect("what is in memory can be read");
    }
}

/// A supervisor with its worker.
struct Supervised(Process);

impl Supervised {
    /// SIGKILL to the worker, as soon as there is one.
    fn kill_worker(&self) {
        let supervisor = self.0.0.id();
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let mut worker = None;
        wait_until("a worker", || {
            let text = fs::read_to_string(&children).unwrap();
            worker = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
            worker.is_some()
        });
        // It may have ended by itself meanwhile.
        let _ = kill_process(Pid::from_raw(worker.unwrap()).unwrap(), Signal::KILL);
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
fn binary_of(package: &str) -> PathBuf {
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

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn metrics(address: SocketAddr) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = write!(stream, "GET /metrics HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

fn wait_for_metric(address: SocketAddr, metric: &str, value: u64) {
    let line = format!("{metric} {value}");
    wait_until(&line, || metrics(address).lines().any(|found| found == line));
}

/// An API server with one Dataset and no CacheRuntime.
fn api_server(dataset: String) -> SocketAddr {
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
                _ if request.contains("/datasets/") => dataset.as_str(),
                _ => empty,
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
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_notice_that_their_mounter_is_killed() {
    let machine = Machine::new();
    let _csi = machine.csi();
    let mut mounter = machine.mounter(0);
    machine.publish("a").await;
    assert!(machine.read("a", 0).recv_timeout(PATIENCE).unwrap().unwrap());
    for round in 0..3 {
        // Answers come late, so that requests are in flight when the process dies.
        machine.cache.behave(Behaviour::Late(Duration::from_millis(20)));
        let asked = machine.cache.reads();
        let readers = [1, 2, 3].map(|file| machine.read("a", 3 * round + file));
        wait_until("reads in flight", || machine.cache.reads() >= asked + 3);
        mounter.end(Signal::KILL);
        mounter = machine.mounter(1);
        machine.cache.behave(Behaviour::Serve);
        for reader in readers {
            assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
        }
    }
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_mounter_takes_beside_its_successor_is_not_lost_when_it_dies() {
    let machine = Machine::new();
    let _csi = machine.csi();
    let mut old = machine.mounter(0);
    machine.publish("a").await;
    let _new = machine.mounter(1);
    let both = || fs::read_to_string(machine.scratch.path().join("csi.log")).unwrap_or_default();
    wait_until("the hand-over", || both().contains("took a connection over"));

    // Both wait for requests now, and the kernel gives them to both.
    machine.cache.behave(Behaviour::Late(Duration::from_secs(1)));
    let asked = machine.cache.reads();
    let readers: Vec<_> = (0..FILES).map(|file| machine.read("a", file)).collect();
    wait_until("reads in flight", || machine.cache.reads() >= asked + 8);
    old.end(Signal::KILL);
    machine.cache.behave(Behaviour::Serve);
    for reader in readers {
        assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    }
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn csi_that_restarts_is_handed_back_what_the_mounter_holds() {
    for signal in [Signal::TERM, Signal::KILL] {
        let machine = Machine::new();
        let mut csi = machine.csi();
        let mut mounter = machine.mounter(0);
        machine.publish("old").await;
        assert!(machine.read("old", 0).recv_timeout(PATIENCE).unwrap().unwrap());

        // A read under way, and one that begins while no csi is there.
        machine.cache.behave(Behaviour::Late(Duration::from_millis(20)));
        let (asked, under_way) = (machine.cache.reads(), machine.read("old", 1));
        wait_until("a read in flight", || machine.cache.reads() > asked);
        csi.end(signal);
        let without = machine.read("old", 2);
        for reader in [under_way, without] {
            assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
        }

        let _csi = machine.csi();
        machine.wait_for("penstock_csi_served_connections", 1);
        machine.publish("new").await;
        assert_eq!(machine.images().len(), 1, "the new pod shares the mount of the old one");

        // Now the mounter, with a read under way: csi has everything that its successor needs.
        let (asked, under_way) = (machine.cache.reads(), machine.read("old", 3));
        wait_until("a read in flight", || machine.cache.reads() > asked);
        mounter.end(signal);
        mounter = machine.mounter(1);
        machine.cache.behave(Behaviour::Serve);
        assert!(under_way.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
        assert!(machine.read("new", 4).recv_timeout(PATIENCE).unwrap().unwrap());
        for pod in ["old", "new"] {
            machine.unpublish(pod).await;
        }
        assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
        mounter.end(signal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_lost_new_pods_mount_anew_and_old_pods_keep_what_they_have_read() {
    let machine = Machine::new();
    let mut csi = machine.csi();
    let mut mounter = machine.mounter(0);
    machine.publish("old").await;
    let warm = machine.read_warm("old", 0);
    csi.end(Signal::KILL);
    mounter.end(Signal::KILL);

    let _csi = machine.csi();
    let _mounter = machine.mounter(0);
    assert!(machine.read("old", 1).recv_timeout(PATIENCE).unwrap().is_err());
    warm.end();
    machine.publish("new").await;
    assert!(machine.read("new", 1).recv_timeout(PATIENCE).unwrap().unwrap());
    for pod in ["old", "new"] {
        machine.unpublish(pod).await;
    }
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_csi_has_everything_before_the_old_one_ends() {
    let machine = Machine::new();
    let mut old = machine.supervised_csi();
    let mut mounter = machine.mounter(0);
    machine.publish("a").await;
    machine.cache.behave(Behaviour::Late(Duration::from_millis(20)));
    let (asked, under_way) = (machine.cache.reads(), machine.read("a", 0));
    wait_until("a read in flight", || machine.cache.reads() > asked);

    // Without a mounter, so that nobody else could have handed it over.
    mounter.end(Signal::KILL);
    let (next, health) = machine.next_csi();
    wait_for_metric(health, "penstock_csi_kept_connections", 1);
    wait_for_metric(health, "penstock_csi_mounter_connected", 0);
    let _mounter = machine.start_mounter(Command::new(binary_of("penstock-mounter")));
    wait_for_metric(health, "penstock_csi_served_connections", 1);
    assert!(under_way.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    machine.publish("b").await;
    assert_eq!(machine.images().len(), 1, "both share one mount");

    // The next one turns out to be bad: the old one, which is still there, works again.
    let under_way = machine.read("b", 1);
    drop(next);
    wait_for_metric(machine.health, "penstock_csi_served_connections", 1);
    assert!(under_way.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    machine.publish("c").await;
    assert!(machine.read("c", 2).recv_timeout(PATIENCE).unwrap().unwrap());

    // And once more, to its end.
    let (_next, health) = machine.next_csi();
    wait_for_metric(health, "penstock_csi_served_connections", 1);
    old.0.end(Signal::TERM);
    assert!(machine.read("c", 3).recv_timeout(PATIENCE).unwrap().unwrap());
    for pod in ["a", "b", "c"] {
        machine.unpublish(pod).await;
    }
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_nobody_answers_fail_after_the_datasets_patience_until_somebody_does() {
    let machine = Machine::with_patience(2);
    let _csi = machine.csi();
    let mut mounter = machine.mounter(0);
    machine.publish("a").await;
    machine.publish("b").await;
    let warm = machine.read_warm("a", 0);

    // A mounter that hangs, with a read that it took and one that it never saw.
    machine.cache.behave(Behaviour::Late(Duration::from_secs(1)));
    let (asked, taken) = (machine.cache.reads(), machine.read("a", 1));
    wait_until("a read in flight", || machine.cache.reads() > asked);
    kill_process(Pid::from_child(&mounter.0), Signal::STOP).unwrap();
    let unseen = machine.read("b", 2);
    for reader in [taken, unseen] {
        let read = reader.recv_timeout(PATIENCE).expect("a read hangs");
        assert_eq!(read.unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
    // Nothing of it holds up a pod that ends.
    machine.unpublish("b").await;
    machine.cache.behave(Behaviour::Serve);
    kill_process(Pid::from_child(&mounter.0), Signal::CONT).unwrap();
    machine.wait_for("penstock_csi_served_connections", 1);
    wait_until("reads to work again", || {
        machine
            .read("a", 1)
            .recv_timeout(PATIENCE)
            .unwrap()
            .is_ok_and(|right| right)
    });

    // One that is gone.
    mounter.end(Signal::KILL);
    assert!(
        machine
            .read("a", 3)
            .recv_timeout(PATIENCE)
            .expect("a read hangs")
            .is_err()
    );
    let _mounter = machine.mounter(1);
    wait_until("reads to work again", || {
        machine
            .read("a", 3)
            .recv_timeout(PATIENCE)
            .unwrap()
            .is_ok_and(|right| right)
    });
    warm.end();
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

/// Kills in any order, at any moment: a supervisor starts each worker again at once, with its descriptors.
#[tokio::test(flavor = "multi_thread")]
async fn workers_under_supervisors_may_be_killed_in_any_order() {
    let rounds = if std::env::var_os("PENSTOCK_LONG").is_some() {
        100
    } else {
        10
    };
    let machine = Machine::new();
    let csi = machine.supervised_csi();
    let mounter = machine.supervised_mounter();
    machine.publish("a").await;
    let mut random = rand::rng();
    machine.cache.behave(Behaviour::Late(Duration::from_millis(5)));
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        (0..FILES).for_each(|file| machine.forget("a", file));
        let started = Instant::now();
        let readers = [0, 1, 2].map(|file| machine.read("a", (3 * round + file) % FILES));
        let mut victims = [&csi, &mounter];
        victims.shuffle(&mut random);
        for victim in victims {
            // Not a wait for something: the moment is what is tried.
            std::thread::sleep(Duration::from_millis(random.random_range(0..30)));
            victim.kill_worker();
        }
        for reader in readers {
            assert!(
                reader.recv_timeout(PATIENCE).unwrap().unwrap(),
                "wrong bytes in round {round}"
            );
        }
        longest = longest.max(started.elapsed());
    }
    println!("{rounds} rounds of two kills, 0 errors, longest round {longest:?}");
    machine.cache.behave(Behaviour::Serve);
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}
