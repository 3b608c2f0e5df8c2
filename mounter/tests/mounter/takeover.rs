//! Whoever dies while a file is read: the reader notices nothing but a pause.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::fake_node::{Behaviour, FakeNode, content, ring_of};
use crate::keeper::Keeper;
use crate::process::{Process, hand_over};
use crate::scene::{Aside, SPACE, Scene, aside, read_aside, until};

const FILES: [(&str, u64); 2] = [("big", 24 << 20), ("small", 110_000)];

#[test]
fn a_killed_mounter_is_replaced_in_the_middle_of_a_read() {
    is_replaced_in_the_middle_of_a_read(&Scene::new(&FILES));
}

#[test]
fn a_killed_mounter_is_replaced_where_the_kernel_cannot_resend() {
    is_replaced_in_the_middle_of_a_read(&Scene::with_ledger(&FILES));
}

fn is_replaced_in_the_middle_of_a_read(scene: &Scene) {
    let rounds = if std::env::var_os("PENSTOCK_LONG").is_some() {
        100
    } else {
        5
    };
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let mut process = Process::start(&keeper.socket);
    let mut line = keeper.accept();
    hand_over(&line, scene, &[&node], false);
    scene.show();
    let mut longest = Duration::ZERO;
    for _ in 0..rounds {
        scene.forget();
        // Answers come late, so that requests are in flight when the process dies.
        node.behave(Behaviour::Late(Duration::from_millis(20)));
        let asked = node.reads();
        let readers = [
            read_aside(&scene.tree().join("big")),
            read_aside(&scene.tree().join("small")),
        ];
        until("reads are in flight", || node.reads() >= asked + 3);
        let killed = Instant::now();
        process.kill();
        // What the kernel knows already needs nobody.
        assert_eq!(std::fs::metadata(scene.tree().join("big")).unwrap().len(), 24 << 20);
        assert!(
            readers[0].still_waits(),
            "the read ended before its mounter was replaced"
        );
        process = Process::start(&keeper.socket);
        line = keeper.accept();
        hand_over(&line, scene, &[&node], true);
        longest = longest.max(killed.elapsed());
        node.behave(Behaviour::Serve);
        for (reader, path) in readers.iter().zip(["big", "small"]) {
            let got = reader.answer().expect("the reader must not see an error");
            assert!(got == scene.expected(path), "{path} has wrong bytes");
        }
    }
    println!("{rounds} kills, 0 errors, longest time without a mounter {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn files_are_read_while_the_keeper_is_gone_and_it_finds_its_mounter_again() {
    let scene = Scene::new(&[("one", 3 << 20), ("two", 3 << 20)]);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let _process = Process::start(&keeper.socket);
    let line = keeper.accept();
    hand_over(&line, &scene, &[&node], false);
    scene.show();
    drop((line, keeper));
    scene.check("one");
    let keeper = Keeper::listen(scene.folder.path());
    let line = keeper.accept();
    hand_over(&line, &scene, &[&node], true);
    scene.check("two");
}

#[test]
fn a_cache_node_that_is_killed_in_the_middle_of_a_read_is_not_noticed() {
    let scene = Scene::new(&[("big", 64 << 20)]);
    let nodes = [FakeNode::start(SPACE), FakeNode::start(SPACE)];
    let both = [&nodes[0], &nodes[1]];
    both.iter().for_each(|node| node.tell(&ring_of(&both, 1)));
    let keeper = Keeper::listen(scene.folder.path());
    let _process = Process::start(&keeper.socket);
    let line = keeper.accept();
    hand_over(&line, &scene, &both, false);
    scene.show();
    both.iter()
        .for_each(|node| node.behave(Behaviour::Late(Duration::from_millis(20))));
    let reader = read_aside(&scene.tree().join("big"));
    until("reads are in flight", || both.iter().any(|node| node.reads() >= 3));
    let owner = both.iter().max_by_key(|node| node.reads()).unwrap();
    owner.kill();
    both.iter().for_each(|node| node.behave(Behaviour::Serve));
    let killed = Instant::now();
    assert!(reader.answer().unwrap() == scene.expected("big"));
    println!("the rest of 64 MiB took {:?} after the kill", killed.elapsed());
}

/// Reads of a block, each of which is one request, as fast as they go, and mounters that are killed at any instruction.
#[test]
fn no_read_is_lost_at_whatever_moment_a_mounter_is_killed_where_the_kernel_cannot_resend() {
    let rounds = if std::env::var_os("PENSTOCK_LONG").is_some() {
        1000
    } else {
        50
    };
    let scene = Scene::with_ledger(&FILES);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let mut process = Process::start(&keeper.socket);
    let mut line = keeper.accept();
    hand_over(&line, &scene, &[&node], false);
    // Each process that is started closes the files of this one. After the first time the kernel asks nobody about that.
    drop(File::open(scene.space().join("0")).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (stop, space) = (stop.clone(), File::open(scene.space().join("0")).unwrap());
            aside(move || {
                let (mut reads, mut into) = (0, vec![0; 4096]);
                while !stop.load(Ordering::Relaxed) {
                    let offset = (reader + reads * READERS) % 5000 * 4096;
                    space.read_exact_at(&mut into, offset).expect("a read must not fail");
                    assert!(into == content(offset, 4096), "wrong bytes at {offset}");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut random = rand::rng();
    for _ in 0..rounds {
        // Not a wait for something: the moment is what is tried.
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        process.kill();
        process = Process::start(&keeper.socket);
        line = keeper.accept();
        hand_over(&line, &scene, &[&node], true);
    }
    stop.store(true, Ordering::Relaxed);
    let reads: u64 = readers.iter().map(Aside::answer).sum();
    println!("{rounds} kills, {reads} reads, none is lost");
    assert!(reads > rounds, "{reads}");
    drop(line);
}

const READERS: u64 = 8;

#[test]
fn a_mounter_answers_what_another_one_beside_it_took_and_left_where_the_kernel_cannot_resend() {
    let scene = Scene::with_ledger(&FILES);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let mut processes = Vec::new();
    let mut lines = Vec::new();
    for initialised in [false, true] {
        processes.push(Process::start(&keeper.socket));
        lines.push(keeper.accept());
        hand_over(lines.last().unwrap(), &scene, &[&node], initialised);
    }
    scene.show();
    for _ in 0..5 {
        scene.forget();
        node.behave(Behaviour::Late(Duration::from_millis(300)));
        let asked = node.reads();
        let reader = read_aside(&scene.tree().join("big"));
        until("both took some", || node.reads() >= asked + 8);
        // Nobody tells the other one, which is a newer or an older one in turn.
        processes.remove(0).kill();
        lines.remove(0);
        node.behave(Behaviour::Serve);
        assert!(reader.answer().unwrap() == scene.expected("big"), "wrong bytes");
        processes.push(Process::start(&keeper.socket));
        lines.push(keeper.accept());
        hand_over(lines.last().unwrap(), &scene, &[&node], true);
    }
}
