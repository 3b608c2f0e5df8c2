//! TLS on one bulk connection, with the socket's own readiness: what is sent is sealed as far as the socket takes it, and what
//! arrives is opened.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fd::AsFd;
use rustls::ServerConnection;
use tokio::io::Interest;
use tokio::net::tcp::OwnedReadHalf;

/// What is sealed before the socket is asked: a few records, so that they are still in the CPU's cache when it copies them.
const SEALED_BYTES_MAX: usize = 128 << 10;

/// The connection's keys, and what is between it and the socket.
pub(super) struct Seal {
    connection: Mutex<ServerConnection>,
    /// Sealed bytes that the socket has taken.
    taken: AtomicU64,
}

impl Seal {
    /// Of a connection that has been greeted.
    pub(super) fn new(mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(SEALED_BYTES_MAX));
        Self {
            connection: Mutex::new(connection),
            taken: AtomicU64::new(0),
        }
    }

    /// Like writev(2): seals some bytes of these, once the socket has taken all that was sealed before.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn write(&self, socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut connection = self.connection();
        self.send(&mut connection, socket)?;
        connection.writer().write_vectored(parts)
    }

    /// Sends what was sealed.
    ///
    /// # Errors
    /// Those of the socket: `WouldBlock` when some is left.
    pub(super) fn flush(&self, socket: impl AsFd) -> io::Result<()> {
        self.send(&mut self.connection(), socket)
    }

    /// How many sealed bytes the socket has taken: more than before when some were, though not all.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn send(&self, connection: &mut ServerConnection, socket: impl AsFd) -> io::Result<()> {
        while connection.wants_write() {
            let taken = connection.write_tls(&mut Socket(&socket))?;
            self.taken.fetch_add(taken as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// Those of the socket, and when it sent something that the peer has not sealed. `UnexpectedEof` at the end.
    pub(super) async fn read_exact(&self, reading: &OwnedReadHalf, into: &mut [u8]) -> io::Result<()> {
        let (socket, mut read) = (reading.as_ref(), 0);
        while read < into.len() {
            let rest = &mut into[read..];
            // What is opened already, with the end of the greeting even before it comes to us, makes no socket readable.
            let mut some = self.connection().reader().read(rest);
            if is_empty(&some) {
                socket.readable().await?;
                some = socket.try_io(Interest::READABLE, || self.read(socket, rest));
            }
            match some {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(some) => read += some,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Like read(2).
    fn read(&self, socket: impl AsFd, into: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.connection();
        loop {
            let opened = connection.reader().read(into);
            if !is_empty(&opened) {
                return opened;
            }
            connection.read_tls(&mut Socket(&socket))?;
            if let Err(error) = connection.process_new_packets() {
                // It may want to know why.
                let _ = connection.write_tls(&mut Socket(&socket));
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
    }

    fn connection(&self) -> MutexGuard<'_, ServerConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_empty(read: &io::Result<usize>) -> bool {
    read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A socket that does not block.
struct Socket<S>(S);

impl<S: AsFd> Read for Socket<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, into)?)
    }
}

impl<S: AsFd> Write for Socket<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.0, parts)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
