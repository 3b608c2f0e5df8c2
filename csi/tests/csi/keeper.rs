//! Who may speak to the keeper.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use penstock_csi::keeper::Keeper;
use penstock_csi::metrics::Metrics;
use penstock_mount::descriptors;
use penstock_protocol::control::mounter::{FromMounter, Hello, from_mounter};
use penstock_supervisor::Store;
use prost::Message;
use rustix::process::Uid;

use crate::mounter::wait_until;

/// Connects as a user, who then says Hello, and whether that was heard. The user is that of the thread alone.
fn is_heard(socket: &Path, uid: u32, keeper: &Keeper) -> bool {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_uid(Uid::from_raw(uid)).unwrap();
            let peer = descriptors::connect_to(socket).unwrap();
            let letter = Some(from_mounter::Letter::Hello(Hello {
                version: 1,
                connections: Vec::new(),
            }));
            let hello = FromMounter { id: 0, letter }.encode_to_vec();
            // Whoever is refused may find the socket closed already.
            let _ = descriptors::send(peer.as_fd(), &hello, &[]);
            let mut heard = false;
            wait_until("a decision", || {
                heard = keeper.has_mounter();
                heard || hung_up(&peer)
            });
            heard
        });
        thread.join().unwrap()
    })
}

fn hung_up(peer: &impl AsFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(peer, rustix::event::PollFlags::RDHUP)];
    rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).unwrap() > 0
}

#[test]
fn only_the_mounters_user_is_heard() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test takes other users: run it as root"
    );
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let keeper = Keeper::new(0, Store::default(), Metrics::default(), |_, _| false);
    keeper.listen(&socket, 65532).unwrap();
    // The file keeps others out already; the keeper must not rely on it.
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!is_heard(&socket, 65531, &keeper));
    assert!(is_heard(&socket, 65532, &keeper));
}
