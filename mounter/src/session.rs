//! Serves one FUSE connection: the files that it shows, and their bytes from a space.
//!
//! Each thread reads requests from its own clone of the connection. A read whose bytes are at hand is answered at once on
//! that thread; any other becomes a task that answers on the same descriptor (a request belongs to the clone that received
//! it). Everything is derived from the revision, so a successor takes over with the descriptors alone. What this process
//! took and did not answer when it dies, the kernel sends again; where it cannot, the requests lie in a ledger ([`Notes`]).
//!
//! An INTERRUPT is not acted upon: the pages that the interrupted reader asked for may be wanted by others, who would see
//! its error. Every read ends by its deadline anyway.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use penstock_buffer::{Buffer, BufferPool};
use penstock_mount::fuse;
use penstock_mount::ledger::{Found, LANES};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::abi::{self, Operation, Request};
use crate::files::{Caching, Files};
use crate::limits::{ADOPT_INTERVAL, FAILURE_LOG_INTERVAL, MISSES_IN_FLIGHT_MAX, READ_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::metrics::{Metrics, Outcome};
use crate::notes::{Note, Notes};
use crate::reader::{ReadFailure, SpaceReader, TryRead};

/// What a session begins with.
pub struct Start {
    /// The connection and its clones; one thread each.
    pub descriptors: Vec<OwnedFd>,
    /// What the kernel is shown.
    pub files: Box<dyn Files>,
    /// Where the bytes come from.
    pub reader: Arc<dyn SpaceReader>,
    /// Buffers of at least [`READ_BYTES_MAX`] bytes and two blocks, shared by the sessions of a process.
    pub buffers: BufferPool,
    /// Where reads wait.
    pub runtime: tokio::runtime::Handle,
    /// A predecessor answered INIT: the kernel is asked to send again what it left unanswered, unless there are notes.
    pub initialised: bool,
    /// Where the kernel cannot do that: where requests lie until they are answered.
    pub notes: Option<Arc<Notes>>,
    /// Name for log lines, for example the revision.
    pub name: String,
    /// Where reads are counted.
    pub metrics: Metrics,
}

/// A running session. It ends when the file system is unmounted or the connection aborted.
pub struct Session {
    descriptors: Vec<Arc<OwnedFd>>,
    threads: Vec<JoinHandle<()>>,
}

impl Session {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started, there are notes and more descriptors than lanes, or there are none and the kernel
    /// cannot resend (before Linux 6.9) though it should.
    pub fn start(start: Start) -> io::Result<Self> {
        let Start {
            descriptors,
            files,
            reader,
            buffers,
            runtime,
            initialised,
            notes,
            name,
            metrics,
        } = start;
        if notes.is_some() && descriptors.len() > LANES {
            return Err(io::Error::other(
                "a connection has more queues than its ledger has lanes",
            ));
        }
        let shared = Arc::new(Shared {
            files,
            reader,
            buffers,
            runtime,
            misses: Arc::new(Semaphore::new(MISSES_IN_FLIGHT_MAX)),
            failures: Failures::default(),
            notes,
            name,
            metrics,
        });
        if let Some(connection) = descriptors.first().filter(|_| initialised && shared.notes.is_none()) {
            fuse::resend(connection)?;
        }
        let descriptors: Vec<_> = descriptors.into_iter().map(Arc::new).collect();
        let threads = descriptors
            .iter()
            .enumerate()
            .map(|(lane, descriptor)| {
                let (shared, descriptor) = (shared.clone(), descriptor.clone());
                std::thread::Builder::new()
                    .name("fuse".into())
                    .spawn(move || shared.serve(&descriptor, lane))
            })
            .collect::<io::Result<_>>()?;
        if let Some(notes) = shared.notes.clone() {
            let adopting = shared.clone().adopt(notes, descriptors.clone());
            shared.runtime.spawn(adopting);
        }
        Ok(Self { descriptors, threads })
    }

    /// The connection and its clones, in the order in which they were given.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd)
    }

    /// Waits until the file system is unmounted or the connection aborted.
    pub fn join(self) {
        for thread in self.threads {
            // A panic of a thread was printed by the runtime; there is nothing to add.
            let _ = thread.join();
        }
    }

    /// Whether all threads have ended.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

struct Shared {
    files: Box<dyn Files>,
    reader: Arc<dyn SpaceReader>,
    buffers: BufferPool,
    runtime: tokio::runtime::Handle,
    misses: Arc<Semaphore>,
    failures: Failures,
    notes: Option<Arc<Notes>>,
    name: String,
    metrics: Metrics,
}

/// A read, widened to whole blocks.
#[derive(Clone, Copy)]
struct Wanted {
    unique: u64,
    /// When it was received.
    at: Instant,
    /// Address of the first block in the space.
    address: u64,
    /// Bytes of whole blocks.
    bytes: usize,
    /// Which of these bytes were asked for.
    skip: usize,
    take: usize,
    /// Another mounter took it before, and did not answer.
    was_left: bool,
}

impl Shared {
    fn serve(self: &Arc<Self>, descriptor: &Arc<OwnedFd>, lane: usize) {
        let mut bytes = vec![0; REQUEST_BYTES_MAX];
        if let Some((found, note)) = self.notes.as_ref().and_then(|notes| notes.take_left_in(lane)) {
            self.handle(descriptor, &found.request, Some(note));
        }
        loop {
            let received = match &self.notes {
                None => rustix::io::read(descriptor, bytes.as_mut_slice()).map(|length| (length, None)),
                Some(notes) => {
                    let received = notes.receive(descriptor.as_fd(), lane, &mut bytes);
                    received.map(|(length, note)| (length, Some(note)))
                }
            };
            match received {
                Ok((length, note)) => self.handle(descriptor, &bytes[..length], note),
                // ENOENT: the request was interrupted before it was read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV) => return,
                Err(errno) => {
                    tracing::error!(session = self.name, %errno, "read a FUSE request; the session ends");
                    return;
                }
            }
        }
    }

    /// Answers what a predecessor left, and what those leave that serve the same connection and die: at once or a little
    /// later, whoever notices their end.
    async fn adopt(self: Arc<Self>, notes: Arc<Notes>, descriptors: Vec<Arc<OwnedFd>>) {
        self.handle_aside(notes.take_left_in_records(), &descriptors);
        let mut interval = tokio::time::interval(ADOPT_INTERVAL);
        let lives = |descriptor: &Arc<OwnedFd>| fuse::is_connected(descriptor.as_fd());
        while descriptors.first().is_some_and(lives) {
            interval.tick().await;
            self.handle_aside(notes.adopt(), &descriptors);
        }
    }

    /// On a thread of its own, because it may have to wait for room among the reads.
    fn handle_aside(self: &Arc<Self>, found: Vec<(Found, Note)>, descriptors: &[Arc<OwnedFd>]) {
        if found.is_empty() {
            return;
        }
        tracing::info!(
            session = self.name,
            requests = found.len(),
            "a mounter left requests unanswered"
        );
        let (shared, descriptors) = (self.clone(), descriptors.to_vec());
        let handle = move || {
            for (found, note) in found {
                match descriptors.get(found.queue) {
                    Some(descriptor) => shared.handle(descriptor, &found.request, Some(note)),
                    // Nobody can have read it there.
                    None => note.answered(),
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("adopt".into()).spawn(handle) {
            tracing::error!(session = self.name, %error, "start a thread; reads wait for the next mounter");
        }
    }

    /// Answers a request, or sees to it. Its note is kept as long as it is unanswered.
    fn handle(self: &Arc<Self>, descriptor: &Arc<OwnedFd>, bytes: &[u8], mut note: Option<Note>) {
        if let Some(request) = Request::parse(bytes) {
            note = self.respond(descriptor, request, bytes, note);
        }
        if let Some(note) = note {
            note.answered();
        }
    }

    /// Gives the note back if the request is answered when this returns.
    fn respond(
        self: &Arc<Self>,
        descriptor: &Arc<OwnedFd>,
        request: Request<'_>,
        bytes: &[u8],
        note: Option<Note>,
    ) -> Option<Note> {
        let Request {
            unique,
            node,
            operation,
        } = request;
        let answer = match operation {
            Operation::Init {
                minor,
                flags,
                max_readahead,
            } => Ok(abi::init_out(minor, flags, max_readahead, self.files.caching())),
            Operation::Lookup { name } => {
                let found = self.files.lookup(node, name);
                found.map(|found| abi::entry_out(found.as_ref()))
            }
            Operation::GetAttributes => self
                .files
                .attributes(node)
                .map(|attributes| abi::attributes_out(&attributes)),
            Operation::Open => match self.files.caching() {
                Caching::Above => self.files.place(node).map(|_| abi::open_out()),
                // The kernel opens by itself from now on.
                Caching::Here => Err(Errno::NOSYS),
            },
            Operation::Read { offset, bytes: length } => match self.wanted(unique, node, offset, length) {
                Ok(Some(wanted)) => return self.read(descriptor, wanted, bytes, note),
                Ok(None) => Ok(Vec::new()),
                Err(errno) => Err(errno),
            },
            Operation::ReadDirectory {
                position,
                bytes,
                with_attributes,
            } => self.read_directory(node, position, bytes, with_attributes),
            Operation::ListAttributes { bytes } => Ok(abi::list_attributes_out(bytes)),
            Operation::Release | Operation::Destroy => Ok(Vec::new()),
            Operation::StatFs => Ok(abi::statfs_out(self.files.totals())),
            Operation::Silent => return note,
            Operation::Write => Err(Errno::ROFS),
            // Folders are opened by the kernel itself (Linux 5.1), and it remembers that there are no extended attributes.
            Operation::OpenDirectory | Operation::Other => Err(Errno::NOSYS),
        };
        match answer {
            Ok(body) => self.answer(descriptor, unique, 0, &body),
            Err(errno) => self.answer(descriptor, unique, errno.raw_os_error(), &[]),
        }
        note
    }

    fn read_directory(&self, node: u64, position: u64, bytes: u32, with_attributes: bool) -> Result<Vec<u8>, Errno> {
        let (mut answer, mut failed) = (abi::Entries::new(bytes), None);
        self.files.entries(node, position, &mut |entry| {
            if !with_attributes {
                return answer.push(&entry, None);
            }
            // The kernel has the attributes of these two.
            if entry.name == "." || entry.name == ".." {
                return answer.push(&entry, Some(None));
            }
            match self.files.attributes(entry.node) {
                Ok(attributes) => answer.push(&entry, Some(Some(&attributes))),
                Err(errno) => {
                    failed = Some(errno);
                    false
                }
            }
        })?;
        failed.map_or(Ok(answer.into_bytes()), Err)
    }

    fn wanted(&self, unique: u64, node: u64, offset: u64, bytes: u32) -> Result<Option<Wanted>, Errno> {
        let Some(place) = self.files.place(node)? else {
            return Ok(None);
        };
        let take = place.bytes.saturating_sub(offset).min(u64::from(bytes));
        if take == 0 {
            return Ok(None);
        }
        if take > READ_BYTES_MAX as u64 {
            return Err(Errno::INVAL);
        }
        let (start, end) = (
            offset / BLOCK_BYTES * BLOCK_BYTES,
            (offset + take).next_multiple_of(BLOCK_BYTES),
        );
        let address = place.address + start;
        let (skip, bytes) = ((offset - start) as usize, (end - start) as usize);
        Ok(Some(Wanted {
            unique,
            at: Instant::now(),
            address,
            bytes,
            skip,
            take: take as usize,
            was_left: unique & abi::UNIQUE_RESEND != 0,
        }))
    }

    fn read(
        self: &Arc<Self>,
        descriptor: &Arc<OwnedFd>,
        mut wanted: Wanted,
        request: &[u8],
        note: Option<Note>,
    ) -> Option<Note> {
        wanted.was_left |= note.as_ref().is_some_and(Note::was_left);
        let mut buffer = self.buffers.take();
        let hit = pieces(wanted, &mut buffer).all(|(range, into)| self.reader.try_read(range, into) == TryRead::Hit);
        if hit {
            self.answer_read(descriptor, wanted, Ok(&buffer));
            return note;
        }
        // Waiting here when too many wait already slows the kernel down, which is what is wanted then.
        let permit = self.runtime.block_on(self.misses.clone().acquire_owned());
        let note = match note.map(|note| note.set_aside(request)).transpose() {
            Ok(note) => note,
            Err(note) => {
                self.runtime.block_on(self.fetch(descriptor, wanted, buffer));
                return Some(note);
            }
        };
        let (shared, descriptor) = (self.clone(), descriptor.clone());
        self.runtime.spawn(async move {
            let _permit = permit;
            shared.fetch(&descriptor, wanted, buffer).await;
            if let Some(note) = note {
                note.answered();
            }
        });
        None
    }

    async fn fetch(&self, descriptor: &OwnedFd, wanted: Wanted, mut buffer: Buffer) {
        for (range, into) in pieces(wanted, &mut buffer) {
            if let Err(failure) = self.reader.read(range, into).await {
                self.failures.log(&self.name, range, &failure);
                return self.answer_read(descriptor, wanted, Err(&failure));
            }
        }
        self.answer_read(descriptor, wanted, Ok(&buffer));
    }

    fn answer_read(&self, descriptor: &OwnedFd, wanted: Wanted, outcome: Result<&Buffer, &ReadFailure>) {
        let outcome = match outcome {
            Ok(buffer) => {
                let bytes = &buffer[wanted.skip..wanted.skip + wanted.take];
                self.answer(descriptor, wanted.unique, 0, bytes);
                Outcome::Answered
            }
            Err(failure) => {
                self.answer(descriptor, wanted.unique, Errno::IO.raw_os_error(), &[]);
                match failure {
                    ReadFailure::Drifted(_) => Outcome::Drifted,
                    ReadFailure::Unavailable(_) => Outcome::Unavailable,
                }
            }
        };
        self.metrics
            .read(wanted.take, outcome, wanted.at.elapsed(), wanted.was_left);
    }

    fn answer(&self, descriptor: &OwnedFd, unique: u64, errno: i32, body: &[u8]) {
        let header = abi::out_header(unique, errno, body.len());
        match rustix::io::writev(descriptor.as_fd(), &[IoSlice::new(&header), IoSlice::new(body)]) {
            // ENOENT: whoever asked is gone. ENODEV: the file system is unmounted.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => tracing::error!(session = self.name, %errno, "answer a FUSE request"),
        }
    }
}

/// The ranges of a read, one a stripe, each with its part of the buffer.
fn pieces(wanted: Wanted, buffer: &mut [u8]) -> impl Iterator<Item = (BlockRange, &mut [u8])> {
    let mut rest = &mut buffer[..wanted.bytes];
    BlockRange::covering(wanted.address, wanted.bytes as u64).map(move |range| {
        let (piece, behind) = std::mem::take(&mut rest).split_at_mut(range.bytes() as usize);
        rest = behind;
        (range, piece)
    })
}

/// Says at most once in a while that reads fail.
#[derive(Default)]
struct Failures {
    unsaid: AtomicU64,
    said: Mutex<Option<Instant>>,
}

impl Failures {
    fn log(&self, session: &str, range: BlockRange, failure: &ReadFailure) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < FAILURE_LOG_INTERVAL) {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *said = Some(Instant::now());
        let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
        tracing::warn!(session, address = range.address(), bytes = range.bytes(), %failure, unsaid, "a read failed with EIO");
    }
}
