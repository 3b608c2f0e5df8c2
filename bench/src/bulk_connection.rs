//! One connection that speaks the bulk protocol with many requests in flight, which no client of the product does: those have
//! one request on each of several connections. What it does with an answer is what they do.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use penstock_buffer::Buffer;
use penstock_protocol::checksum::first_mismatch;
use penstock_protocol::frame::{HEADER_BYTES, Header, Kind};
use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Package;

use crate::client_stream::{self, ClientStream};
use crate::load::buffer;
use crate::pipeline::{ANSWER_BYTES_MAX, Checksums, Connection, Request};

/// The connection.
pub struct BulkConnection {
    stream: Box<dyn ClientStream>,
    revision: RevisionId,
    space: SpaceId,
    checksums: Checksums,
    asked: u64,
    sums: Vec<u8>,
    buffer: Buffer,
}

impl BulkConnection {
    /// Connects to a cache node that serves `package`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn new(server: SocketAddr, package: &Package, checksums: Checksums) -> Result<Self> {
        Ok(Self::on(client_stream::connect(server, None)?, package, checksums))
    }

    /// The same on a connection that there is.
    pub fn on(stream: Box<dyn ClientStream>, package: &Package, checksums: Checksums) -> Self {
        Self {
            stream,
            revision: package.id(),
            space: package.space(),
            checksums,
            asked: 0,
            sums: vec![0; ANSWER_BYTES_MAX / BLOCK_BYTES as usize * 4],
            buffer: buffer(ANSWER_BYTES_MAX),
        }
    }
}

impl Connection for BulkConnection {
    fn ask(&mut self, (address, bytes): Request) -> Result<()> {
        self.asked += 1;
        let request = Header::request(Kind::Read, self.asked, self.revision, address, bytes as u32, 0);
        Ok(self.stream.write_all(&request.encode())?)
    }

    fn receive(&mut self) -> Result<u64> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let reply = Header::decode(&header)?;
        let length = reply.length as usize;
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        if reply.kind != Kind::Data {
            self.stream.read_exact(&mut self.buffer[..length])?;
            bail!(
                "{:?}: {}",
                reply.status,
                String::from_utf8_lossy(&self.buffer[..length])
            );
        }
        let sums = &mut self.sums[..reply.checksum_bytes()];
        self.stream.read_exact(sums)?;
        let bytes = &mut self.buffer[..length];
        self.stream.read_exact(bytes)?;
        if self.checksums == Checksums::Computed {
            let expected: Vec<u32> = sums
                .chunks_exact(4)
                .map(|sum| u32::from_le_bytes(std::array::from_fn(|i| sum[i])))
                .collect();
            let damaged = first_mismatch(&self.space, reply.address, bytes, &expected);
            ensure!(damaged.is_none(), "a block at {} arrived damaged", reply.address);
        }
        Ok(length as u64)
    }
}
