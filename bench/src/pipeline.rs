//! Requests over one connection, several in flight: the same loop for the bulk protocol and for its reference, so that a client
//! of one does nothing that a client of the other does not.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figure::median;
use crate::load::Took;

/// Bytes of a file or a space: offset or address, and length.
pub type Request = (u64, u64);

/// Longest request.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a client does about the checksums of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// It computes those of all that arrives, as every client of a cache node does, and compares them if any came along.
    Computed,
    /// Nothing: what serving costs shows best beside a client that does little.
    Ignored,
}

/// One connection to a server of bytes.
pub trait Connection {
    /// Sends a request.
    ///
    /// # Errors
    /// When the server went away.
    fn ask(&mut self, request: Request) -> Result<()>;

    /// Receives the next answer whole; returns its bytes.
    ///
    /// # Errors
    /// When the server went away or refused.
    fn receive(&mut self) -> Result<u64>;
}

/// Asks for all `requests`, `depth` in flight.
///
/// # Errors
/// When one fails.
pub fn fetch(server: &mut impl Connection, requests: &[Request], depth: usize) -> Result<Took> {
    let started = Instant::now();
    let mut ahead = requests.iter();
    for request in ahead.by_ref().take(depth) {
        server.ask(*request)?;
    }
    let mut bytes = 0;
    for _ in requests {
        bytes += server.receive()?;
        if let Some(request) = ahead.next() {
            server.ask(*request)?;
        }
    }
    Ok(Took {
        time: started.elapsed(),
        count: requests.len() as u64,
        bytes,
    })
}

/// Asks for one after the other until `time` is over, from the first again behind the last; returns the bytes.
///
/// # Errors
/// When one fails.
pub fn fetch_for(server: &mut impl Connection, requests: &[Request], time: Duration) -> Result<u64> {
    let started = Instant::now();
    let mut bytes = 0;
    for request in requests.iter().cycle() {
        if started.elapsed() >= time {
            break;
        }
        server.ask(*request)?;
        bytes += server.receive()?;
    }
    Ok(bytes)
}

/// Asks for one after the other; the median of how long each took, in microseconds.
///
/// # Errors
/// When one fails.
pub fn median_micros(server: &mut impl Connection, requests: &[Request]) -> Result<f64> {
    let mut each = Vec::with_capacity(requests.len());
    for request in requests {
        let started = Instant::now();
        server.ask(*request)?;
        server.receive()?;
        each.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(each))
}
