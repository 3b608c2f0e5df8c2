//! The reference of the network: the least that can serve bytes of a file over TCP. A request is an offset and a length,
//! the answer is the bytes by sendfile(2). No checksums, no framing, no placement.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::load::{Took, buffer};

const REQUEST_BYTES: usize = 16;

/// Serves `file` to whoever connects, until the process ends; returns the address.
///
/// # Errors
/// When the file or the socket cannot be had.
pub fn serve(listener: TcpListener, file: &Path) -> Result<SocketAddr> {
    let (address, file) = (listener.local_addr()?, File::open(file)?);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(file) = file.try_clone() else { return };
            // A client that goes away ends its own thread only.
            thread::spawn(move || answer(client, &file));
        }
    });
    Ok(address)
}

fn answer(mut client: TcpStream, file: &File) -> Result<()> {
    client.set_nodelay(true)?;
    let mut request = [0; REQUEST_BYTES];
    loop {
        client.read_exact(&mut request)?;
        let (offset, bytes) = request.split_at(8);
        let mut offset = u64::from_le_bytes(offset.try_into()?);
        let end = offset + u64::from_le_bytes(bytes.try_into()?);
        while offset < end {
            let left = (end - offset) as usize;
            let sent = rustix::fs::sendfile(&client, file, Some(&mut offset), left)?;
            ensure!(sent > 0, "the file ended early");
        }
    }
}

/// Asks for `requests` (offset, length; at most 1 MiB each) over one connection, `depth` in flight.
///
/// # Errors
/// When the server goes away.
pub fn fetch(server: SocketAddr, requests: &[(u64, u64)], depth: usize) -> Result<Took> {
    let mut server = TcpStream::connect(server)?;
    server.set_nodelay(true)?;
    let mut buffer = buffer(1 << 20);
    let started = Instant::now();
    let mut ahead = requests.iter();
    let ask = |server: &mut TcpStream, request: Option<&(u64, u64)>| -> Result<()> {
        let Some((offset, bytes)) = request else { return Ok(()) };
        let mut frame = [0; REQUEST_BYTES];
        frame[..8].copy_from_slice(&offset.to_le_bytes());
        frame[8..].copy_from_slice(&bytes.to_le_bytes());
        Ok(server.write_all(&frame)?)
    };
    for _ in 0..depth {
        ask(&mut server, ahead.next())?;
    }
    let mut moved = 0;
    for (_, bytes) in requests {
        server.read_exact(&mut buffer[..*bytes as usize])?;
        moved += bytes;
        ask(&mut server, ahead.next())?;
    }
    Ok(Took {
        time: started.elapsed(),
        count: requests.len() as u64,
        bytes: moved,
    })
}
