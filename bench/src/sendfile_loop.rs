//! The reference of the network: the least that can serve bytes of a file over TCP. A request is an offset and a length,
//! the answer is the bytes by sendfile(2). No checksums, no framing, no placement. Over TLS it reads and seals them.

use std::collections::VecDeque;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};
use penstock_buffer::Buffer;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_protocol::ids::SpaceId;
use penstock_tls::Identity;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::client_stream::{self, ClientStream};
use crate::load::buffer;
use crate::pipeline::{ANSWER_BYTES_MAX, Checksums, Connection, Request};

/// Name of the thread that serves.
pub const NAME: &str = "sendfile-loop";

const REQUEST_BYTES: usize = 16;
/// Read and sealed at once: no more than the library keeps.
const SEALED_BYTES: usize = 64 << 10;
/// No space: checksums here are for the work only.
const SPACE: SpaceId = SpaceId([0; 16]);

/// Serves `file` to whoever connects, one after the other, until the process ends; returns the address.
///
/// # Errors
/// When the file or the socket cannot be had.
pub fn serve(listener: TcpListener, file: &Path, identity: Option<&Identity>) -> Result<SocketAddr> {
    let sealing = identity.map(Identity::server_config);
    let (address, file) = (listener.local_addr()?, File::open(file)?);
    // One thread for all of them, which lives on: what it spent can be asked when they are gone.
    thread::Builder::new().name(NAME.into()).spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that goes away ends its own connection only.
            let _ = match &sealing {
                None => answer(client, &file),
                Some(config) => answer_sealed(client, config.clone(), &file),
            };
        }
    })?;
    Ok(address)
}

fn answer(mut client: TcpStream, file: &File) -> Result<()> {
    client.set_nodelay(true)?;
    loop {
        let (mut offset, end) = request(&mut client)?;
        while offset < end {
            let left = (end - offset) as usize;
            let sent = rustix::fs::sendfile(&client, file, Some(&mut offset), left)?;
            ensure!(sent > 0, "the file ended early");
        }
    }
}

fn answer_sealed(client: TcpStream, config: Arc<ServerConfig>, file: &File) -> Result<()> {
    client.set_nodelay(true)?;
    let mut client = StreamOwned::new(ServerConnection::new(config)?, client);
    let mut buffer = buffer(SEALED_BYTES);
    loop {
        let (mut offset, end) = request(&mut client)?;
        while offset < end {
            let some = &mut buffer[..SEALED_BYTES.min((end - offset) as usize)];
            file.read_exact_at(some, offset)?;
            client.write_all(some)?;
            offset += some.len() as u64;
        }
        client.flush()?;
    }
}

/// First and end of what is asked for next.
fn request(client: &mut impl Read) -> Result<(u64, u64)> {
    let mut request = [0; REQUEST_BYTES];
    client.read_exact(&mut request)?;
    let (offset, bytes) = request.split_at(8);
    let offset = u64::from_le_bytes(offset.try_into()?);
    Ok((offset, offset + u64::from_le_bytes(bytes.try_into()?)))
}

/// A connection to it.
pub struct SendfileConnection {
    stream: Box<dyn ClientStream>,
    /// What the answers that are to come are about.
    asked: VecDeque<Request>,
    checksums: Checksums,
    buffer: Buffer,
}

impl SendfileConnection {
    /// Connects, over TLS with an identity.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn new(server: SocketAddr, identity: Option<&Identity>, checksums: Checksums) -> Result<Self> {
        Ok(Self {
            stream: client_stream::connect(server, identity)?,
            asked: VecDeque::new(),
            checksums,
            buffer: buffer(ANSWER_BYTES_MAX),
        })
    }
}

impl Connection for SendfileConnection {
    fn ask(&mut self, (offset, bytes): Request) -> Result<()> {
        let mut frame = [0; REQUEST_BYTES];
        frame[..8].copy_from_slice(&offset.to_le_bytes());
        frame[8..].copy_from_slice(&bytes.to_le_bytes());
        self.asked.push_back((offset, bytes));
        Ok(self.stream.write_all(&frame)?)
    }

    fn receive(&mut self) -> Result<u64> {
        let (offset, length) = self.asked.pop_front().context("something was asked for")?;
        let bytes = &mut self.buffer[..length as usize];
        self.stream.read_exact(bytes)?;
        if self.checksums == Checksums::Computed {
            let blocks = bytes.chunks_exact(BLOCK_BYTES as usize);
            for (address, block) in (offset..).step_by(BLOCK_BYTES as usize).zip(blocks) {
                black_box(block_checksum(&SPACE, address, block));
            }
        }
        Ok(length)
    }
}
