//! The reference of a cold epoch: every object fetched over plain HTTP/1.1 with kept connections, `threads` at once, and
//! thrown away. The least that any reader of the origin must do. Or written to a file, the least that any cache must do.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use penstock_buffer::Buffer;

use crate::load::{Took, buffer};

/// One part of one object: path on the server, and the range of bytes.
#[derive(Clone, Debug)]
pub struct Part {
    /// Path with a leading slash; no character that would need an escape.
    pub path: String,
    /// First byte.
    pub first: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// An object is fetched in parts of at most this size.
const PART_BYTES: u64 = 8 << 20;

/// The parts of an object of `length` bytes.
pub fn parts(path: &str, length: u64) -> impl Iterator<Item = Part> {
    (0..length).step_by(PART_BYTES as usize).map(move |first| Part {
        path: path.to_owned(),
        first,
        bytes: PART_BYTES.min(length - first),
    })
}

/// Fetches all parts from an origin that lets anybody read.
///
/// # Errors
/// When a request fails.
pub fn download(origin: SocketAddr, parts: &[Part], threads: usize) -> Result<Took> {
    fetch(origin, parts, threads, None)
}

/// The same of one object, written to a file.
///
/// # Errors
/// When a request or a write fails.
pub fn download_to(file: &File, origin: SocketAddr, parts: &[Part], threads: usize) -> Result<Took> {
    fetch(origin, parts, threads, Some(file))
}

fn fetch(origin: SocketAddr, parts: &[Part], threads: usize, file: Option<&File>) -> Result<Took> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let bytes = thread::scope(|scope| -> Result<u64> {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<u64> {
                    let stream = TcpStream::connect(origin)?;
                    stream.set_nodelay(true)?;
                    let (mut stream, mut buffer) = (BufReader::with_capacity(1 << 16, stream), buffer(1 << 18));
                    let mut moved = 0;
                    while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        moved +=
                            get(&mut stream, origin, part, &mut buffer, file).with_context(|| part.path.clone())?;
                    }
                    Ok(moved)
                })
            })
            .collect();
        workers.into_iter().try_fold(0, |sum, worker| match worker.join() {
            Ok(moved) => Ok(sum + moved?),
            Err(_) => bail!("a downloader panicked"),
        })
    })?;
    Ok(Took {
        time: started.elapsed(),
        count: parts.len() as u64,
        bytes,
    })
}

fn get(
    stream: &mut BufReader<TcpStream>,
    origin: SocketAddr,
    part: &Part,
    buffer: &mut Buffer,
    file: Option<&File>,
) -> Result<u64> {
    let (path, first, last) = (&part.path, part.first, part.first + part.bytes - 1);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {origin}\r\nRange: bytes={first}-{last}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut length, mut status) = (String::new(), None, String::new());
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if status.is_empty() {
            status = text.to_owned();
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse::<u64>()?);
        }
    }
    ensure!(status.contains(" 20"), "the origin answered {status:?}");
    let length = length.context("the origin gave no length")?;
    ensure!(length == part.bytes, "{length} bytes instead of {}", part.bytes);
    let mut left = length;
    while left > 0 {
        let want = left.min(buffer.len() as u64) as usize;
        let got = stream.read(&mut buffer[..want])?;
        ensure!(got > 0, "the body ended early");
        if let Some(file) = file {
            file.write_all_at(&buffer[..got], part.first + length - left)?;
        }
        left -= got as u64;
    }
    Ok(length)
}
