use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_buffer::BufferPool;
use penstock_cache_client::CacheClient;
use penstock_mounter::files::Devices;
use penstock_mounter::limits::{MISSES_IN_FLIGHT_MAX, READ_BYTES_MAX};
use penstock_mounter::remote::RemoteSpace;
use penstock_mounter::{Metrics, Neighbours, ReadFailure, Session, SpaceReader, Start};
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::RevisionId;
use penstock_protocol::ring::{Member, Ring};
use rustix::io::Errno;
use tokio::runtime::Runtime;

use crate::fake_node::{Behaviour, FakeNode, content};
use crate::readers::{AtHand, Failing, Fetched, Holding};
use crate::scene::{Aside, PATIENCE, SPACE, Scene, aside, read_aside, until};

/// The tree of most tests: lengths around a block, a page and a read, and a file that lies across a stripe.
const FILES: [(&str, u64); 9] = [
    ("a/empty", 0),
    ("a/one", 1),
    ("a/block", 4096),
    ("a/more", 4097),
    ("b/c/small", 110_000),
    ("b/c/page", 1 << 20),
    ("b/c/odd", (1 << 20) + 12_345),
    ("big", (66 << 20) + 7),
    ("unicode-ü", 5000),
];

fn serve(scene: &Scene, reader: Arc<dyn SpaceReader>) -> (Session, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let session = Session::start(Start {
        descriptors: scene.copies(),
        files: Box::new(Devices(scene.package.device_bytes())),
        reader,
        buffers: BufferPool::new(READ_BYTES_MAX + 8192, 4),
        runtime: runtime.handle().clone(),
        initialised: false,
        notes: None,
        name: "test".to_owned(),
        metrics: Metrics::default(),
    });
    (session.unwrap(), runtime)
}

#[test]
fn every_file_of_the_tree_has_its_bytes_whether_they_are_at_hand_or_fetched() {
    for reader in [Arc::new(AtHand) as Arc<dyn SpaceReader>, Arc::new(Fetched)] {
        let scene = Scene::new(&FILES);
        let (session, _runtime) = serve(&scene, reader);
        scene.show();
        for (path, bytes) in FILES {
            assert_eq!(fs::metadata(scene.tree().join(path)).unwrap().len(), bytes, "{path}");
            scene.check(path);
        }
        scene.unmount();
        session.join();
    }
}

#[test]
fn any_piece_of_the_space_can_be_read_and_nothing_behind_its_end() {
    let scene = Scene::new(&FILES);
    let (_session, _runtime) = serve(&scene, Arc::new(Fetched));
    let space = File::open(scene.space().join("0")).unwrap();
    let length = space.metadata().unwrap().len();
    assert_eq!(length, scene.package.device_bytes()[0]);
    let stripe = 64 << 20;
    for (offset, bytes) in [
        (0, 1),
        (4095, 2),
        (5000, 10),
        (4096, 4096),
        (1, 3 << 20),
        (stripe - 1, 2),
        (stripe - 5000, 1 << 20),
        (length - 3, 3),
    ] {
        let mut into = vec![0; bytes];
        space.read_exact_at(&mut into, offset).unwrap();
        assert!(into == content(offset, bytes), "{bytes} bytes at {offset}");
    }
    let mut into = [0; 100];
    assert_eq!(space.read_at(&mut into, length - 3).unwrap(), 3);
    assert_eq!(space.read_at(&mut into, length).unwrap(), 0);
    assert_eq!(space.read_at(&mut into, length + (1 << 40)).unwrap(), 0);
}

#[test]
fn the_space_has_its_devices_and_no_other_name_and_cannot_be_changed() {
    let scene = Scene::new(&FILES);
    let (_session, _runtime) = serve(&scene, Arc::new(AtHand));
    let space = scene.space();
    for name in ["1", "00", "+0", "-1", "x", "18446744073709551616"] {
        assert_eq!(
            fs::metadata(space.join(name)).unwrap_err().kind(),
            ErrorKind::NotFound,
            "{name}"
        );
    }
    let read_only = Some(Errno::ROFS.raw_os_error());
    assert_eq!(fs::create_dir(space.join("new")).unwrap_err().raw_os_error(), read_only);
    assert_eq!(fs::remove_file(space.join("0")).unwrap_err().raw_os_error(), read_only);
    let writable = File::options().write(true).open(space.join("0")).unwrap();
    assert_eq!(writable.write_at(b"x", 0).unwrap_err().raw_os_error(), read_only);
    assert_eq!(writable.set_len(1).unwrap_err().raw_os_error(), read_only);
}

#[test]
fn a_failed_read_is_an_input_output_error_and_heals() {
    let scene = Scene::new(&FILES);
    let failing = Arc::new(Failing(AtomicBool::new(false)));
    let (_session, _runtime) = serve(&scene, failing.clone());
    scene.show();
    failing.0.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let error = fs::read(scene.tree().join("b/c/small")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
    failing.0.store(false, Ordering::SeqCst);
    scene.check("b/c/small");
}

#[test]
fn reads_that_wait_do_not_hold_up_those_that_are_at_hand() {
    let scene = Scene::new(&[("a-at-hand", 3 << 20), ("b-held", 3 << 20)]);
    let held_from = scene
        .package
        .all_extents()
        .map(Result::unwrap)
        .map(|e| e.address)
        .max()
        .unwrap();
    let holding = Arc::new(Holding::from(held_from));
    let (_session, _runtime) = serve(&scene, holding.clone());
    scene.show();
    let waiting: Vec<_> = (0..8).map(|_| read_aside(&scene.tree().join("b-held"))).collect();
    until("a read is held", || holding.held() > 0);
    scene.check("a-at-hand");
    assert!(waiting.iter().all(|reader| reader.still_waits()));
    holding.permits.add_permits(1000);
    for reader in waiting {
        assert!(reader.answer().unwrap() == scene.expected("b-held"));
    }
}

#[test]
fn a_reader_that_waits_can_be_killed_and_another_one_still_gets_its_bytes() {
    let scene = Scene::new(&[("held", 3 << 20)]);
    let holding = Arc::new(Holding::from(0));
    // The superblock lies in the image, so mounting reads nothing of the space.
    let (_session, _runtime) = serve(&scene, holding.clone());
    scene.show();
    let mut cat = Command::new("cat")
        .arg(scene.tree().join("held"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("its read is held", || holding.held() > 0);
    cat.kill().unwrap();
    aside(move || cat.wait()).answer().unwrap();
    let other = read_aside(&scene.tree().join("held"));
    holding.permits.add_permits(1000);
    assert!(other.answer().unwrap() == scene.expected("held"));
}

#[test]
fn a_hung_cache_node_holds_up_the_stripes_of_others_for_seconds_at_most() {
    let scene = Scene::new(&[("big", 8 * STRIPE_BYTES)]);
    let (hung, healthy) = (FakeNode::start(SPACE), FakeNode::start(SPACE));
    // Names, because placement depends on them and an address has a random port.
    let members = [("hung", &hung), ("healthy", &healthy)].map(|(name, node)| Member {
        name: name.to_owned(),
        address: node.address(),
        weight: 1,
    });
    let ring = Ring {
        epoch: 1,
        members: members.to_vec(),
    };
    hung.tell(&ring);
    healthy.tell(&ring);
    hung.behave(Behaviour::Hang);
    let (of_hung, of_healthy): (Vec<u64>, Vec<u64>) =
        (0..8).partition(|stripe| ring.owners(&SPACE, *stripe)[0].name == "hung");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reader = remote(&healthy, PATIENCE, &runtime);
    let (_session, _runtime) = serve(&scene, Arc::new(reader));
    let started = Instant::now();
    let read_block = |offset: u64| {
        let space = File::open(scene.space().join("0")).unwrap();
        aside(move || {
            let mut into = vec![0; 4096];
            space.read_exact_at(&mut into, offset).unwrap();
            assert!(into == content(offset, 4096), "wrong bytes at {offset}");
        })
    };
    let too_many = 2 * MISSES_IN_FLIGHT_MAX as u64;
    let waiting: Vec<_> = (0..too_many)
        .map(|i| read_block(of_hung[0] * STRIPE_BYTES + i * 4096))
        .collect();
    read_block(of_healthy[0] * STRIPE_BYTES).answer();
    waiting.iter().for_each(Aside::answer);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

/// A space that is read from cache nodes, none of which is on this node.
fn remote(seed: &FakeNode, timeout: Duration, runtime: &tokio::runtime::Runtime) -> RemoteSpace {
    RemoteSpace::new(
        CacheClient::new(vec![seed.address()], PATIENCE),
        (RevisionId([1; 32]), SPACE),
        timeout,
        &Neighbours::new("/nowhere".into(), 0, runtime.handle().clone()),
        Metrics::default(),
    )
}

#[test]
fn a_read_fails_when_its_dataset_has_no_patience_left() {
    let node = FakeNode::start(SPACE);
    node.behave(Behaviour::Hang);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reader = remote(&node, Duration::from_secs(1), &runtime);
    let range = BlockRange::covering(0, 4096).next().unwrap();
    let started = Instant::now();
    let failed = runtime.block_on(reader.read(range, &mut [0; 4096])).unwrap_err();
    assert!(
        matches!(&failed, ReadFailure::Unavailable(why) if why.contains("readTimeoutSeconds")),
        "{failed}"
    );
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
}

#[test]
fn a_revision_that_nobody_reads_is_told_again_and_again_as_long_as_it_is_served() {
    let node = FakeNode::start(SPACE);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reader = remote(&node, PATIENCE, &runtime);
    let tasks = || runtime.metrics().num_alive_tasks();
    let before = tasks();
    let reader = reader.told(runtime.handle(), Duration::from_millis(1));
    until("it was told three times", || node.uses().len() >= 3);
    assert!(node.uses().iter().all(|told| *told == RevisionId([1; 32])));
    assert_eq!(node.reads(), 0);
    drop(reader);
    until("nobody tells it any more", || tasks() <= before);
}

#[test]
fn an_aborted_connection_ends_the_session_and_fails_what_waits() {
    let scene = Scene::new(&[("held", 3 << 20)]);
    let holding = Arc::new(Holding::from(0));
    let (session, _runtime) = serve(&scene, holding.clone());
    scene.show();
    let waiting = read_aside(&scene.tree().join("held"));
    until("its read is held", || holding.held() > 0);
    scene.abort();
    assert_eq!(
        waiting.answer().unwrap_err().raw_os_error(),
        Some(Errno::IO.raw_os_error())
    );
    until("the session has ended", || session.has_ended());
    session.join();
}
