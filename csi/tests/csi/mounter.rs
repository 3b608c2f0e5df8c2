//! A mounter played by the test: it fetches packages from memory, and serves either for real, with the product's FUSE
//! session over bytes that are computed from their address, or only in words.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use penstock_buffer::BufferPool;
use penstock_descriptors as descriptors;
use penstock_mount::mapped;
use penstock_mounter::files::{Attributes, Caching, Devices, DirectoryEntry, Files, Place, Totals, Tree};
use penstock_mounter::limits::READ_BYTES_MAX;
use penstock_mounter::{Metrics, ReadFailure, Session, SpaceReader, Start, TryRead};
use penstock_protocol::connection::{Connection, Held};
use penstock_protocol::control::mounter::{
    Completed, Failed, FetchedPackage, FromMounter, Hello, Pong, Serve, Serving, Stopped, ToMounter, from_mounter,
    to_mounter,
};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::RevisionId;
use penstock_revision::Package;
use prost::Message;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// How it serves.
#[derive(Clone)]
pub enum Serves {
    /// With FUSE sessions.
    Really(tokio::runtime::Handle),
    /// As before, but no read is ever answered.
    Stuck(tokio::runtime::Handle),
    /// With this type of file (of `st_mode`) in place of the space's files.
    Disguised(tokio::runtime::Handle, u32),
    /// It only says so.
    InWords,
    /// It never answers.
    Never,
}

/// A connected mounter.
pub struct TestMounter {
    socket: Arc<OwnedFd>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

/// What it was asked.
#[derive(Default)]
pub struct Seen {
    pub fetched: Vec<RevisionId>,
    pub served: Vec<Serve>,
    pub descriptors: usize,
    pub stopped: usize,
    /// A read waits for ever.
    pub stuck: Arc<AtomicBool>,
}

impl TestMounter {
    /// Connects to the keeper and introduces itself.
    pub fn connect(socket: &Path, packages: &[Package], serves: Serves) -> Self {
        let packages: HashMap<_, _> = packages.iter().map(|package| (package.id(), package.clone())).collect();
        Self::connect_with(socket, packages, serves)
    }

    /// As [`TestMounter::connect`]; it answers with these packages whatever they are.
    pub fn connect_with(socket: &Path, packages: HashMap<RevisionId, Package>, serves: Serves) -> Self {
        let socket = Arc::new(descriptors::connect_to(socket).unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        send(
            &socket,
            0,
            from_mounter::Letter::Hello(Hello {
                version: 1,
                connections: Vec::new(),
            }),
            None,
        );
        let thread = {
            let (socket, seen) = (socket.clone(), seen.clone());
            std::thread::spawn(move || answer_letters(&socket, &packages, &serves, &seen))
        };
        Self {
            socket,
            seen,
            thread: Some(thread),
        }
    }

    /// What it was asked.
    pub fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

impl Drop for TestMounter {
    fn drop(&mut self) {
        descriptors::shut_down(&*self.socket);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Waits until `is_so`.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited for {what}");
        std::thread::yield_now();
    }
}

fn answer_letters(socket: &OwnedFd, packages: &HashMap<RevisionId, Package>, serves: &Serves, seen: &Mutex<Seen>) {
    let mut sessions = Vec::new();
    while let Ok(Some(packet)) = descriptors::receive(socket.as_fd()) {
        let ToMounter { id, letter } = ToMounter::decode(packet.bytes.as_slice()).unwrap();
        match letter.unwrap() {
            to_mounter::Letter::Fetch(fetch) => {
                let revision = RevisionId::try_from(fetch.revision.as_slice()).unwrap();
                seen.lock().unwrap().fetched.push(revision);
                match packages.get(&revision) {
                    Some(package) => {
                        let bytes = package.bytes();
                        let letter = from_mounter::Letter::FetchedPackage(FetchedPackage { bytes });
                        send(socket, id, letter, Some(sealed(&package.whole().unwrap())));
                    }
                    None => {
                        let message = "no cache node has the package: cache-0.cache:7070 refused".to_owned();
                        send(
                            socket,
                            id,
                            from_mounter::Letter::Failed(Failed { message, retry: true }),
                            None,
                        );
                    }
                }
            }
            to_mounter::Letter::Serve(serve) => {
                let mut seen = seen.lock().unwrap();
                seen.descriptors = packet.descriptors.len();
                match serves {
                    Serves::Really(runtime) => {
                        sessions.push(session(&serve, packet.descriptors, runtime, Arc::new(Computed)));
                    }
                    Serves::Disguised(runtime, kind) => {
                        let files = Box::new(Disguised(*kind));
                        sessions.push(serve_files(files, packet.descriptors, runtime, Arc::new(Computed)));
                    }
                    Serves::Stuck(runtime) => {
                        let reader = Arc::new(Stuck(seen.stuck.clone()));
                        sessions.push(session(&serve, packet.descriptors, runtime, reader));
                    }
                    Serves::InWords => {}
                    Serves::Never => continue,
                }
                seen.served.push(serve);
                send(socket, id, from_mounter::Letter::Serving(Serving {}), None);
            }
            to_mounter::Letter::Stop(_) => {
                seen.lock().unwrap().stopped += 1;
                send(socket, id, from_mounter::Letter::Stopped(Stopped {}), None);
            }
            to_mounter::Letter::Complete(_) => {
                send(socket, id, from_mounter::Letter::Completed(Completed {}), None);
            }
            to_mounter::Letter::Ping(_) => send(socket, id, from_mounter::Letter::Pong(Pong {}), None),
            other => panic!("a mounter that holds nothing is not asked for {other:?}"),
        }
    }
}

fn session(
    serve: &Serve,
    descriptors: Vec<OwnedFd>,
    runtime: &tokio::runtime::Handle,
    reader: Arc<dyn SpaceReader>,
) -> Session {
    let connection = Connection::try_from(serve.connection.clone().unwrap()).unwrap();
    let Held {
        queues,
        image,
        ledger: _,
    } = connection.held(&descriptors);
    let files: Box<dyn Files> = match image {
        Some(image) => {
            let image = Bytes::from_owner(mapped::read_only(image.as_fd()).unwrap());
            Box::new(Tree::open(image).unwrap())
        }
        None => Box::new(Devices(connection.device_bytes.clone())),
    };
    let queues = queues.iter().map(|queue| queue.try_clone().unwrap()).collect();
    serve_files(files, queues, runtime, reader)
}

fn serve_files(
    files: Box<dyn Files>,
    descriptors: Vec<OwnedFd>,
    runtime: &tokio::runtime::Handle,
    reader: Arc<dyn SpaceReader>,
) -> Session {
    Session::start(Start {
        descriptors,
        files,
        reader,
        buffers: BufferPool::new(READ_BYTES_MAX + 2 * 4096, 4),
        runtime: runtime.clone(),
        initialised: false,
        notes: None,
        name: "test".into(),
        metrics: Metrics::default(),
    })
    .unwrap()
}

/// A folder in which every name is a file of a kind that should not be there.
struct Disguised(u32);

impl Files for Disguised {
    fn lookup(&self, _: u64, _: &[u8]) -> Result<Option<Attributes>, Errno> {
        self.attributes(2).map(Some)
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let mode = if node == 1 { 0o040_500 } else { self.0 | 0o444 };
        Ok(Attributes {
            node,
            inode: node,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            bytes: 4096,
            modified_unix_nanos: 0,
        })
    }

    fn place(&self, _: u64) -> Result<Option<Place>, Errno> {
        Ok(None)
    }

    fn entries(&self, _: u64, _: u64, _: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<(), Errno> {
        Ok(())
    }

    fn caching(&self) -> Caching {
        Caching::Above
    }

    fn totals(&self) -> Totals {
        Totals::default()
    }
}

/// The byte of a space at `address`.
pub fn byte_at(address: u64) -> u8 {
    (address / 4096 * 7 + address % 251) as u8
}

struct Computed;

#[async_trait]
impl SpaceReader for Computed {
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        for (address, byte) in (range.address()..).zip(into) {
            *byte = byte_at(address);
        }
        TryRead::Hit
    }

    async fn read(&self, _: BlockRange, _: &mut [u8]) -> Result<(), ReadFailure> {
        unreachable!("every read is a hit")
    }
}

struct Stuck(Arc<AtomicBool>);

#[async_trait]
impl SpaceReader for Stuck {
    fn try_read(&self, _: BlockRange, _: &mut [u8]) -> TryRead {
        TryRead::Miss
    }

    async fn read(&self, _: BlockRange, _: &mut [u8]) -> Result<(), ReadFailure> {
        self.0.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("package", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    file.into()
}

fn send(socket: &OwnedFd, id: u64, letter: from_mounter::Letter, descriptor: Option<OwnedFd>) {
    let bytes = FromMounter {
        id,
        letter: Some(letter),
    }
    .encode_to_vec();
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    // The keeper may have gone; the test sees that elsewhere.
    let _ = descriptors::send(socket.as_fd(), &bytes, &descriptors);
}
