//! The mounter as a process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use penstock_protocol::connection::{Connection, Shows};
use penstock_protocol::control::mounter::{
    Complete, Completed, Fetch, HandBack, Ping, Pong, Serve, Serving, Stop, Stopped, from_mounter, to_mounter,
};
use penstock_protocol::ids::ConnectionId;
use penstock_revision::Package;
use rustix::fs::SealFlags;

use crate::fake_node::FakeNode;
use crate::keeper::{Keeper, Line};
use crate::scene::{SPACE, Scene, until};

/// The connection's id.
pub const CONNECTION: ConnectionId = ConnectionId([5; 16]);

pub struct Process {
    child: Child,
    health: SocketAddr,
}

impl Process {
    pub fn start(socket: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_penstock-mounter"))
            .arg(format!("--keeper-socket={}", socket.display()))
            .arg(format!("--health-listen={free}"))
            .spawn()
            .unwrap();
        Self { child, health: free }
    }

    /// As `kill -9`; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    fn is_ready(&self) -> Option<bool> {
        let mut stream = TcpStream::connect(self.health).ok()?;
        write!(stream, "GET /readyz HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.starts_with("HTTP/1.0 200"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The connection of a scene, which has one.
pub fn connection(scene: &Scene, nodes: &[&FakeNode]) -> Connection {
    Connection {
        id: CONNECTION,
        number: 42,
        revision: scene.package.id(),
        space: SPACE,
        device_bytes: scene.package.device_bytes(),
        seeds: nodes.iter().map(|node| node.address()).collect(),
        read_timeout: Duration::from_secs(300),
        shows: Shows::Devices,
        unanswered: scene.unanswered,
    }
}

pub fn serve(scene: &Scene, nodes: &[&FakeNode], initialised: bool) -> to_mounter::Letter {
    to_mounter::Letter::Serve(Serve {
        connection: Some((&connection(scene, nodes)).into()),
        initialised,
    })
}

/// Hands the connection over and waits until it is served.
pub fn hand_over(line: &Line, scene: &Scene, nodes: &[&FakeNode], initialised: bool) {
    let copies: Vec<OwnedFd> = scene.copies();
    let (answer, _) = line.ask(serve(scene, nodes, initialised), &copies);
    assert_eq!(answer, from_mounter::Letter::Serving(Serving {}));
}

#[test]
fn a_revision_is_served_from_cache_nodes_and_let_go_when_it_is_unmounted() {
    let scene = Scene::new(&[("small", 110_000), ("big", (3 << 20) + 5)]);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let process = Process::start(&keeper.socket);
    let line = keeper.accept();
    let before = process.status("Threads");
    hand_over(&line, &scene, &[&node], false);
    until("it has said what it serves", || node.uses() == [scene.package.id()]);
    scene.show();
    scene.check("small");
    scene.check("big");
    assert!(process.status("Threads") > before);
    // The keeper came back and does not know what its mounter does already.
    hand_over(&line, &scene, &[&node], true);
    scene.forget();
    scene.check("big");

    let idle = process.status("VmRSS");
    assert!(idle <= 30 << 10, "{idle} KiB are in use");
    scene.unmount();
    let stop = to_mounter::Letter::Stop(Stop {
        connection: CONNECTION.as_bytes().to_vec(),
    });
    let (answer, _) = line.ask(stop, &[]);
    assert_eq!(answer, from_mounter::Letter::Stopped(Stopped {}));
    until("its threads are gone", || process.status("Threads") <= before);
}

#[test]
fn a_package_is_fetched_into_sealed_memory() {
    let scene = Scene::new(&[("small", 110_000)]);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    node.keep(scene.package.id(), scene.package.whole().unwrap().to_vec());
    let _process = Process::start(&keeper.socket);
    let line = keeper.accept();
    let fetch = to_mounter::Letter::Fetch(Fetch {
        revision: scene.package.id().as_bytes().to_vec(),
        seeds: vec![node.address()],
    });
    let (answer, fds) = line.ask(fetch, &[]);
    let from_mounter::Letter::FetchedPackage(fetched) = answer else {
        panic!("{answer:?}");
    };
    let [memory]: [OwnedFd; 1] = fds.try_into().unwrap();
    let seals = rustix::fs::fcntl_get_seals(&memory).unwrap();
    assert!(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    let mut bytes = vec![0; fetched.bytes as usize];
    std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::from(memory), &mut bytes, 0).unwrap();
    assert_eq!(Package::parse(bytes.into()).unwrap().id(), scene.package.id());
}

#[test]
fn what_it_holds_is_said_in_the_hello_and_handed_back() {
    let scene = Scene::new(&[("small", 110_000)]);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let _process = Process::start(&keeper.socket);
    let line = keeper.accept();
    hand_over(&line, &scene, &[&node], false);
    scene.show();
    drop(line);

    let (line, held) = keeper.accept_holder();
    assert_eq!(held, [CONNECTION]);
    let hand_back = |id: ConnectionId| {
        let connection = id.as_bytes().to_vec();
        line.ask(to_mounter::Letter::HandBack(HandBack { connection }), &[])
    };
    let (answer, descriptors) = hand_back(CONNECTION);
    let from_mounter::Letter::HandedBack(back) = answer else {
        panic!("{answer:?}");
    };
    let back = Connection::try_from(back.connection.unwrap()).unwrap();
    assert_eq!(back, connection(&scene, &[&node]));
    assert_eq!(descriptors.len(), scene.copies().len());
    assert!(
        descriptors
            .iter()
            .all(|descriptor| penstock_mount::fuse::is_connected(descriptor.as_fd()))
    );
    assert!(matches!(
        hand_back(ConnectionId([6; 16])).0,
        from_mounter::Letter::Failed(failed) if !failed.retry
    ));
    assert_eq!(
        line.ask(to_mounter::Letter::Ping(Ping {}), &[]).0,
        from_mounter::Letter::Pong(Pong {})
    );

    scene.unmount();
    assert!(
        !descriptors
            .iter()
            .any(|descriptor| penstock_mount::fuse::is_connected(descriptor.as_fd()))
    );
}

#[test]
fn letters_that_make_no_sense_are_refused_with_a_sentence_and_the_next_one_is_answered() {
    let scene = Scene::new(&[("small", 110_000)]);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let _process = Process::start(&keeper.socket);
    let line = keeper.accept();
    let short = to_mounter::Letter::Stop(Stop { connection: vec![1; 5] });
    let (answer, _) = line.ask(short, &[]);
    assert!(
        matches!(&answer, from_mounter::Letter::Failed(f) if !f.retry && !f.message.is_empty()),
        "{answer:?}"
    );
    // Bytes that are no letter end the connection; the mounter comes back.
    line.send_bytes(&[0xff; 100]);
    let line = keeper.accept();
    hand_over(&line, &scene, &[&node], false);
    scene.show();
    scene.check("small");
}

#[test]
fn it_is_ready_while_it_holds_everything_and_ends_when_asked() {
    let scene = Scene::new(&[("small", 110_000)]);
    let keeper = Keeper::listen(scene.folder.path());
    let process = Process::start(&keeper.socket);
    let line = keeper.accept();
    until("it says that it is not ready", || process.is_ready() == Some(false));
    let (answer, _) = line.ask(to_mounter::Letter::Complete(Complete {}), &[]);
    assert_eq!(answer, from_mounter::Letter::Completed(Completed {}));
    until("it is ready", || process.is_ready() == Some(true));
    drop((line, keeper));
    until("it is not ready", || process.is_ready() == Some(false));
    process.signal(rustix::process::Signal::TERM);
    let mut process = process;
    until("it has ended", || process.child.try_wait().unwrap().is_some());
    assert!(process.child.wait().unwrap().success());
}
