//! Whoever dies while a file is read: the reader notices nothing but a pause.

use std::time::{Duration, Instant};

use crate::fake_node::{Behaviour, FakeNode, ring_of};
use crate::keeper::Keeper;
use crate::process::{Process, hand_over};
use crate::scene::{SPACE, Scene, read_aside, until};

#[test]
fn a_killed_mounter_is_replaced_in_the_middle_of_a_read() {
    let rounds = if std::env::var_os("PENSTOCK_LONG").is_some() {
        100
    } else {
        5
    };
    let scene = Scene::new(&[("big", 24 << 20), ("small", 110_000)]);
    let (node, keeper) = (FakeNode::start(SPACE), Keeper::listen(scene.folder.path()));
    let mut process = Process::start(&keeper.socket);
    let mut line = keeper.accept();
    hand_over(&line, &scene, &[&node], false);
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
        hand_over(&line, &scene, &[&node], true);
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
