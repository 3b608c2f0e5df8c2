//! A cache node of the tests: speaks the frames, holds every block of every space, and misbehaves when told to. Plain
//! threads, so that it depends on no runtime; the mounter's tests use it too.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use penstock_protocol::checksum::block_checksum;
use penstock_protocol::frame::{HEADER_BYTES, Header, Kind, Status};
use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::ring::{Member, Ring};

/// How a node answers reads and packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "each test binary uses some of them")]
pub enum Behaviour {
    /// As it should.
    Serve,
    /// As it should, each answer so much later.
    Late(Duration),
    /// With this status.
    Refuse(Status),
    /// With one flipped bit in the data.
    Damage,
    /// The same, unless it is asked to look.
    DamageUnread,
    /// With bytes that are no frame.
    Garbage,
    /// With half an answer, then the connection closes.
    HangUp,
    /// With the answer to another request.
    Confuse,
    /// With more bytes than were asked for.
    Exaggerate,
    /// As a node does that does not speak the version of the request: a refusal without the request's id, then the
    /// connection closes. Requests for the ring too.
    Foreign,
    /// Not at all, requests for the ring neither: it takes connections and requests, as a stopped process does.
    Hang,
    /// With half an answer, then as [`Behaviour::Hang`].
    HangInside,
}

/// The node; gone when dropped.
pub struct FakeNode {
    state: Arc<State>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    address: SocketAddr,
    space: SpaceId,
    behaviour: Mutex<Behaviour>,
    ring: Mutex<Ring>,
    packages: Mutex<HashMap<RevisionId, Vec<u8>>>,
    /// `None` once it was killed.
    connections: Mutex<Option<Vec<TcpStream>>>,
    reads: AtomicUsize,
    pieces: AtomicUsize,
    rings: AtomicUsize,
    uses: Mutex<Vec<RevisionId>>,
}

#[allow(dead_code, reason = "each test binary uses some of them")]
impl FakeNode {
    /// A node on a free port of the loopback address, alone in its ring.
    pub fn start(space: SpaceId) -> Self {
        Self::start_at(space, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// A node at an address, for example where one was killed.
    pub fn start_at(space: SpaceId, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let state = Arc::new(State {
            address: listener.local_addr().unwrap(),
            space,
            behaviour: Mutex::new(Behaviour::Serve),
            ring: Mutex::default(),
            packages: Mutex::default(),
            connections: Mutex::new(Some(Vec::new())),
            reads: AtomicUsize::new(0),
            pieces: AtomicUsize::new(0),
            rings: AtomicUsize::new(0),
            uses: Mutex::default(),
        });
        let accepting = thread::spawn({
            let state = state.clone();
            move || state.accept(&listener)
        });
        let node = Self {
            state,
            accepting: Mutex::new(Some(accepting)),
        };
        node.tell(&ring_of(&[&node], 1));
        node
    }

    pub fn socket_address(&self) -> SocketAddr {
        self.state.address
    }

    pub fn address(&self) -> String {
        self.state.address.to_string()
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour) = behaviour;
    }

    pub fn keep(&self, revision: RevisionId, package: Vec<u8>) {
        lock(&self.state.packages).insert(revision, package);
    }

    /// How many reads it was asked.
    pub fn reads(&self) -> usize {
        self.state.reads.load(Ordering::SeqCst)
    }

    /// How many pieces of packages it was asked.
    pub fn pieces(&self) -> usize {
        self.state.pieces.load(Ordering::SeqCst)
    }

    /// The revisions of which it was told that they are in use, each as often as it was told.
    pub fn uses(&self) -> Vec<RevisionId> {
        lock(&self.state.uses).clone()
    }

    /// How often it was asked for its ring, and told nothing.
    pub fn rings(&self) -> usize {
        self.state.rings.load(Ordering::SeqCst)
    }

    /// Tells it the ring, as the operator does.
    pub fn tell(&self, ring: &Ring) {
        *lock(&self.state.ring) = ring.clone();
    }

    /// Ends it as kill -9 does: connections break, and nobody listens when this returns.
    pub fn kill(&self) {
        for connection in lock(&self.state.connections).take().into_iter().flatten() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        if let Some(accepting) = lock(&self.accepting).take() {
            // Wakes the thread, which then sees that it was killed.
            let _ = TcpStream::connect(self.state.address);
            accepting.join().unwrap();
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The ring of these members, with equal weights.
pub fn ring_of(members: &[&FakeNode], epoch: u64) -> Ring {
    let members = members.iter().map(|node| Member {
        name: node.address(),
        address: node.address(),
        weight: 1,
    });
    Ring {
        epoch,
        members: members.collect(),
    }
}

/// What a space of the tests holds from `address` on: each block says where it is.
pub fn content(address: u64, bytes: usize) -> Vec<u8> {
    let first = address / BLOCK_BYTES;
    let last = (address + bytes as u64).div_ceil(BLOCK_BYTES);
    let mut out = Vec::with_capacity(((last - first) * BLOCK_BYTES) as usize);
    for block in first..last {
        for word in 0..BLOCK_BYTES / 8 {
            out.extend_from_slice(&(block << 12 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
    }
    let skip = (address - first * BLOCK_BYTES) as usize;
    out[skip..skip + bytes].to_vec()
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            match lock(&self.connections).as_mut() {
                Some(connections) => connections.push(stream.try_clone().unwrap()),
                None => return,
            }
            let state = self.clone();
            thread::spawn(move || {
                // The client went away or the node was killed: both are what tests do.
                let _ = state.serve(&stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    }

    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let mut bytes = [0; HEADER_BYTES];
            stream.read_exact(&mut bytes)?;
            let request = Header::decode(&bytes).map_err(io::Error::other)?;
            let epoch = lock(&self.ring).epoch;
            match request.kind {
                Kind::Read | Kind::ReadChecked => self.reads.fetch_add(1, Ordering::SeqCst),
                Kind::Ring if request.revision == RevisionId([0; 32]) => self.rings.fetch_add(1, Ordering::SeqCst),
                Kind::Ring => {
                    lock(&self.uses).push(request.revision);
                    0
                }
                Kind::Package => self.pieces.fetch_add(1, Ordering::SeqCst),
                Kind::Data | Kind::Error => 0,
            };
            let behaviour = *lock(&self.behaviour);
            let hangs = matches!(behaviour, Behaviour::Hang | Behaviour::HangInside);
            if behaviour == Behaviour::Hang || hangs && request.kind == Kind::Ring {
                continue;
            }
            if behaviour == Behaviour::Foreign {
                let text = "version 1 is not spoken here";
                let unknown = Header::request(Kind::Ring, 0, RevisionId([0; 32]), 0, 0, 0);
                let refusal = unknown.error(Status::Unsupported, text.len() as u32, epoch);
                return stream.write_all(&[&refusal.encode(), text.as_bytes()].concat());
            }
            if request.kind == Kind::Ring {
                let ring = lock(&self.ring).encode();
                stream.write_all(&request.data(ring.len() as u32, epoch).encode())?;
                stream.write_all(&ring)?;
                continue;
            }
            match behaviour {
                Behaviour::Serve
                | Behaviour::Damage
                | Behaviour::DamageUnread
                | Behaviour::Foreign
                | Behaviour::Hang => {}
                Behaviour::Late(pause) => thread::sleep(pause),
                Behaviour::Refuse(status) => {
                    let text = format!("told to refuse with {status:?}");
                    stream.write_all(&request.error(status, text.len() as u32, epoch).encode())?;
                    stream.write_all(text.as_bytes())?;
                    continue;
                }
                Behaviour::Garbage => return stream.write_all(&[0x5a; 3 * HEADER_BYTES]),
                Behaviour::HangInside => {
                    stream.write_all(&request.data(request.length, epoch).encode())?;
                    stream.write_all(&vec![0; request.length as usize / 2])?;
                    continue;
                }
                Behaviour::HangUp => {
                    stream.write_all(&request.data(request.length, epoch).encode())?;
                    return stream.write_all(&vec![0; request.length as usize / 2]);
                }
                Behaviour::Confuse => {
                    let other = Header {
                        request_id: request.request_id + 1,
                        ..request
                    };
                    return stream.write_all(&other.data(0, epoch).encode());
                }
                Behaviour::Exaggerate => {
                    return stream.write_all(
                        &request
                            .data(request.length.saturating_add(4096).min(4 << 20), epoch)
                            .encode(),
                    );
                }
            }
            let damage = match behaviour {
                Behaviour::Damage => true,
                Behaviour::DamageUnread => request.kind == Kind::Read,
                _ => false,
            };
            let answer = self.answer(&request, damage, epoch);
            stream.write_all(&answer)?;
        }
    }

    fn answer(&self, request: &Header, damage: bool, epoch: u64) -> Vec<u8> {
        if request.kind == Kind::Package {
            let packages = lock(&self.packages);
            let Some(package) = packages.get(&request.revision) else {
                return request.error(Status::UnknownRevision, 0, epoch).encode().to_vec();
            };
            let start = (request.address as usize).min(package.len());
            let piece = &package[start..(start + request.length as usize).min(package.len())];
            return [&request.data(piece.len() as u32, epoch).encode()[..], piece].concat();
        }
        let mut data = content(request.address, request.length as usize);
        let mut answer = request.data(request.length, epoch).encode().to_vec();
        for (block, address) in data
            .chunks(BLOCK_BYTES as usize)
            .zip((request.address..).step_by(BLOCK_BYTES as usize))
        {
            answer.extend_from_slice(&block_checksum(&self.space, address, block).to_le_bytes());
        }
        if damage {
            let middle = data.len() / 2;
            data[middle] ^= 1;
        }
        answer.extend_from_slice(&data);
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
