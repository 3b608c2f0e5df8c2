//! Who may speak to the keeper.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use penstock_csi::folders::Folders;
use penstock_csi::keeper::Keeper;
use penstock_csi::limits::STRANGERS_MAX;
use penstock_csi::metrics::Metrics;
use penstock_csi::mounts::fake::FakeMounts;
use penstock_csi::mounts::{Mounts, Source};
use penstock_csi::revisions::Revisions;
use penstock_descriptors as descriptors;
use penstock_mount::fuse;
use penstock_mount::fuse::For;
use penstock_mount::ledger::{self, Ledger};
use penstock_protocol::connection::{Connection, Shows, Unanswered};
use penstock_protocol::control::mounter::{
    Completed, FromMounter, HandedBack, Hello, Stopped, ToMounter, from_mounter, to_mounter,
};
use penstock_protocol::ids::{ConnectionId, RevisionId, SpaceId};
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
    let keeper = Keeper::new(0, Store::default(), Metrics::default(), |_, _| None);
    keeper.listen(&socket, 65532).unwrap();
    // The file keeps others out already; the keeper must not rely on it.
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!is_heard(&socket, 65531, &keeper));
    assert!(is_heard(&socket, 65532, &keeper));
}

/// A keeper for whom everything is mounted, and its socket.
fn trusting(folder: &Path) -> (std::sync::Arc<Keeper>, std::path::PathBuf) {
    let socket = folder.join("socket");
    let keeper = Keeper::new(0, Store::default(), Metrics::default(), |_, held| Some(held));
    keeper.listen(&socket, rustix::process::getuid().as_raw()).unwrap();
    (keeper, socket)
}

/// A connection that the kernel calls 7.
fn number_seven(id: ConnectionId, unanswered: Unanswered) -> Connection {
    Connection {
        id,
        number: 7,
        revision: RevisionId([1; 32]),
        space: SpaceId([2; 16]),
        device_bytes: vec![4096],
        seeds: Vec::new(),
        read_timeout: Duration::from_secs(300),
        shows: Shows::Devices,
        unanswered,
    }
}

#[test]
fn a_number_is_handed_back_once_whatever_ids_a_mounter_makes_up() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, socket) = trusting(folder.path());
    let peer = descriptors::connect_to(&socket).unwrap();
    let say = |id: u64, letter: from_mounter::Letter, held: &[BorrowedFd<'_>]| {
        let letter = Some(letter);
        descriptors::send(peer.as_fd(), &FromMounter { id, letter }.encode_to_vec(), held).unwrap();
    };
    let ids: Vec<_> = (1..=5).map(|byte| [byte; 16].to_vec()).collect();
    let hello = Hello {
        version: 1,
        connections: ids.clone(),
    };
    say(0, from_mounter::Letter::Hello(hello), &[]);
    // csi aborts what it believes in and finds ended, so it must be one that lives.
    let mount = folder.path().join("space");
    fs::create_dir(&mount).unwrap();
    let connection = fuse::mount(Path::new("test"), &mount, For::Image).unwrap();
    let (mut handed_back, mut stopped) = (0, 0);
    while handed_back + stopped < 2 * ids.len() - 1 {
        let packet = descriptors::receive(peer.as_fd()).unwrap().unwrap();
        let ToMounter { id, letter } = ToMounter::decode(packet.bytes.as_slice()).unwrap();
        match letter.unwrap() {
            to_mounter::Letter::HandBack(asked) => {
                handed_back += 1;
                let id_of_it = asked.connection.as_slice().try_into().unwrap();
                let letter = from_mounter::Letter::HandedBack(HandedBack {
                    connection: Some((&number_seven(id_of_it, Unanswered::Resent)).into()),
                });
                say(id, letter, &[connection.as_fd()]);
            }
            to_mounter::Letter::Stop(_) => {
                stopped += 1;
                say(id, from_mounter::Letter::Stopped(Stopped {}), &[]);
            }
            to_mounter::Letter::Complete(_) => say(id, from_mounter::Letter::Completed(Completed {}), &[]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((keeper.kept(), handed_back, stopped), (1, 5, 4));
    penstock_mount::bind::detach(&mount).unwrap();
}

#[test]
fn what_is_handed_back_as_a_ledger_is_kept_if_it_is_one_and_replaced_if_not() {
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders {
        kubelet: folder.path().to_owned(),
        state: folder.path().to_owned(),
        private: folder.path().to_owned(),
    };
    let connection = number_seven(ConnectionId([1; 16]), Unanswered::InLedger);
    let (mounts, mounted) = (FakeMounts::default(), folders.revision(&connection.revision, 7));
    fs::create_dir_all(&mounted).unwrap();
    let source = Source::Revision {
        image: folder.path().join("image"),
        space: folder.path().to_owned(),
        devices: 1,
    };
    mounts.mount(&source, &mounted).unwrap();
    let queue = || -> OwnedFd { fs::File::open("/dev/null").unwrap().into() };
    let adopted = |descriptors| Revisions::adopted(&mounts, &folders, &connection, descriptors);

    let honest = ledger::create().unwrap();
    Ledger::open(honest.as_fd()).unwrap().seat(0).set_used(true);
    let copy = honest.try_clone().unwrap();
    let [_, kept]: [OwnedFd; 2] = adopted(vec![queue(), copy]).unwrap().try_into().unwrap();
    assert!(Ledger::open(kept.as_fd()).unwrap().seat(0).is_used());

    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let [_, made]: [OwnedFd; 2] = adopted(vec![queue(), file]).unwrap().try_into().unwrap();
    assert!(!Ledger::open(made.as_fd()).unwrap().seat(0).is_used());
    // A ledger alone is no connection.
    assert!(adopted(vec![honest]).is_none());
}

#[test]
fn who_does_not_say_who_it_is_does_not_multiply() {
    let folder = tempfile::tempdir().unwrap();
    let (_keeper, socket) = trusting(folder.path());
    let silent: Vec<_> = (0..3 * STRANGERS_MAX)
        .map(|_| descriptors::connect_to(&socket).unwrap())
        .collect();
    let refused = || silent.iter().filter(hung_up).count();
    // Before the first of them is given up for its silence.
    wait_until("most to be refused", || refused() >= 2 * STRANGERS_MAX);
    assert_eq!(refused(), 2 * STRANGERS_MAX);
}
