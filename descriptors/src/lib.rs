//! Packets with descriptors over a Unix SEQPACKET socket: how FUSE connections change hands between csi and mounter, and
//! files of stripes go from a cache node to the mounter beside it. And how many of them a process may have. Must not know what is sent.
#![allow(
    unsafe_code,
    reason = "rustix takes the peer's process id for non-zero, which it is not across pid namespaces"
)]

pub mod limit;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg,
    socket_with, socketpair,
};

/// Most descriptors of one packet: a connection and its clones.
pub const DESCRIPTORS_MAX: usize = 32;
/// Most bytes of one packet; letters are below 4 KiB.
pub const PACKET_BYTES_MAX: usize = 64 << 10;

/// A packet and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The descriptors, in the order in which they were sent, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Listens at `path`. The socket appears there at once and complete, over one that may be there already, by a rename: a
/// peer never finds half a socket, and nobody has to unlink it.
///
/// # Errors
/// When the folder does not exist or cannot be written.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let hidden = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let _ = std::fs::remove_file(&hidden);
    let socket = new_socket()?;
    bind(&socket, &SocketAddrUnix::new(&hidden)?)?;
    listen(&socket, 16)?;
    std::fs::rename(&hidden, path)?;
    Ok(socket)
}

/// Two sockets that are connected with each other.
///
/// # Errors
/// When the process has too many descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// The next peer that connects to a listening socket.
///
/// # Errors
/// When the process has too many descriptors.
pub fn accept_peer(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(accept_with(listener, SocketFlags::CLOEXEC)?)
}

/// Connects to the socket at `path`, which may be longer than the address of a socket. A symbolic link there is not
/// followed: whoever writes the folder of the socket could lead to any other.
///
/// # Errors
/// When nobody listens there.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect_at(&socket, path)?;
    Ok(socket)
}

/// As [`connect_to`], and neither that nor a letter takes longer than `patience`, see [`be_patient`].
///
/// # Errors
/// When nobody listens there, or nobody accepts.
pub fn connect_within(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    be_patient(socket.as_fd(), Some(patience), Some(patience))?;
    connect_at(&socket, path)?;
    Ok(socket)
}

/// How long [`receive`] and [`send`] wait on a socket before they fail with EAGAIN; `None` for ever.
///
/// # Errors
/// When it is no socket.
pub fn be_patient(socket: BorrowedFd<'_>, receiving: Option<Duration>, sending: Option<Duration>) -> io::Result<()> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, receiving)?;
    Ok(sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, sending)?)
}

/// User id and process id of the peer, as the kernel knows them; the process id is 0 for a peer in another pid namespace.
///
/// # Errors
/// When the socket is not connected.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<(u32, i32)> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to `credentials`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    };
    if result == 0 {
        Ok((credentials.uid, credentials.pid))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends one packet. Waits while the peer's queue is full.
///
/// # Errors
/// EPIPE when the peer is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX || bytes.len() > PACKET_BYTES_MAX || bytes.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The next packet; `None` when the peer closed the socket.
///
/// # Errors
/// When a packet was longer than [`PACKET_BYTES_MAX`] or had more than [`DESCRIPTORS_MAX`] descriptors.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
    if received.flags.intersects(cut) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet was cut off"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, descriptors }))
}

fn connect_at(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    let at = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let itself = format!("/proc/self/fd/{}", at.as_raw_fd());
    Ok(connect(socket, &SocketAddrUnix::new(itself)?)?)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Ends both directions of a socket, so that a thread that waits in [`receive`] returns.
pub fn shut_down(socket: &impl AsFd) {
    // It may be closed by the peer already, which is what was wanted.
    let _ = rustix::net::shutdown(socket.as_fd(), rustix::net::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn descriptors_arrive_with_their_packet_and_packets_stay_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = listen_at(&path).unwrap();
        let client = connect_to(&path).unwrap();
        let server = accept_peer(listener.as_fd()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        send(client.as_fd(), b"one", &[file.as_fd(), listener.as_fd()]).unwrap();
        send(client.as_fd(), b"two", &[]).unwrap();

        let one = receive(server.as_fd()).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.descriptors.len()), (&b"one"[..], 2));
        let mut copy = std::fs::File::from(one.descriptors.into_iter().next().unwrap());
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(receive(server.as_fd()).unwrap().unwrap().bytes, b"two");
        assert_eq!(peer(server.as_fd()).unwrap().1, std::process::id() as i32);
        drop(client);
        assert!(receive(server.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(listen_at(&path).unwrap());
        assert!(connect_to(&path).is_err());
        let _listener = listen_at(&path).unwrap();
        connect_to(&path).unwrap();
    }
}
