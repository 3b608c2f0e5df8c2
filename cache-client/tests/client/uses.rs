//! Who serves a revision says so, whether or not anybody reads it.

use penstock_cache_client::CacheClient;

use crate::fake_node::{Behaviour, FakeNode, ring_of};
use crate::scene::{PATIENT, REVISION, SHORT, SPACE, Scene, until};

/// How often each node of a scene was told that the revision is in use.
fn told(scene: &Scene) -> Vec<usize> {
    let told = |node: &FakeNode| node.uses().iter().filter(|revision| **revision == REVISION).count();
    scene.nodes.iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_in_use_is_told_to_two_nodes_and_always_to_the_same() {
    let scene = Scene::new(5, PATIENT);
    scene.client.tell_use(&REVISION).await.unwrap();
    let first = told(&scene);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 0, 0, 1, 1]);
    // Another mounter, which knows the nodes in another order.
    let seeds = scene.nodes.iter().rev().map(FakeNode::address).collect();
    CacheClient::new(seeds, PATIENT).tell_use(&REVISION).await.unwrap();
    assert_eq!(told(&scene), first.iter().map(|times| times * 2).collect::<Vec<_>>());
    assert_eq!(scene.reads(), [0; 5], "nothing is read for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_of_nodes_that_do_not_answer_others_are_told() {
    let scene = Scene::new(4, PATIENT);
    scene.client.tell_use(&REVISION).await.unwrap();
    let first = told(&scene);
    for (node, _) in scene.nodes.iter().zip(&first).filter(|(_, times)| **times > 0) {
        node.behave(Behaviour::Hang);
    }
    scene.client.tell_use(&REVISION).await.unwrap();
    let others = scene.nodes.iter().zip(&first).filter(|(_, times)| **times == 0);
    assert!(
        others.map(|(node, _)| node.uses().len()).eq([1, 1]),
        "{:?}",
        told(&scene)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_hears_it_that_is_said_and_the_next_time_others_are_found() {
    let (old, new) = (FakeNode::start(SPACE), FakeNode::start(SPACE));
    let client = CacheClient::new(vec![old.address(), new.address()], SHORT);
    client.tell_use(&REVISION).await.unwrap();
    assert_eq!((old.uses().len(), new.uses().len()), (1, 0));
    new.tell(&ring_of(&[&new], 2));
    old.kill();
    assert!(client.tell_use(&REVISION).await.is_err());
    client.tell_use(&REVISION).await.unwrap();
    assert_eq!(new.uses(), [REVISION]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_tells_learns_a_new_ring_too() {
    let (old, new) = (FakeNode::start(SPACE), FakeNode::start(SPACE));
    let client = CacheClient::new(vec![old.address()], PATIENT);
    client.tell_use(&REVISION).await.unwrap();
    old.tell(&ring_of(&[&old, &new], 2));
    client.tell_use(&REVISION).await.unwrap();
    until("its ring was asked for", || old.rings() >= 2).await;
    let learnt = || async {
        client.tell_use(&REVISION).await.unwrap();
        !new.uses().is_empty()
    };
    let patience = tokio::time::timeout(PATIENT, async { while !learnt().await {} });
    patience.await.expect("the new member is never told");
}
