use std::time::{Duration, Instant};

use penstock_cache_client::{CacheClient, ClientError};

use crate::fake_node::{Behaviour, FakeNode, ring_of};
use crate::scene::{PATIENT, SHORT, SPACE, read, until};

#[tokio::test(flavor = "multi_thread")]
async fn any_one_seed_that_answers_is_enough() {
    let (gone, node) = (FakeNode::start(SPACE), FakeNode::start(SPACE));
    let seeds = vec![gone.address(), "no.such.host.invalid:7070".to_owned(), node.address()];
    gone.kill();
    read(&CacheClient::new(seeds, PATIENT), 0, 4096).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_are_asked_until_one_has_told_the_ring() {
    let nodes = [FakeNode::start(SPACE), FakeNode::start(SPACE), FakeNode::start(SPACE)];
    let seeds = nodes.iter().map(FakeNode::address).collect();
    nodes[0].behave(Behaviour::Hang);
    let started = Instant::now();
    read(&CacheClient::new(seeds, PATIENT), 0, 4096).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(nodes.each_ref().map(FakeNode::rings), [1, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_seed_answers_the_error_names_one() {
    let gone = FakeNode::start(SPACE);
    gone.kill();
    let client = CacheClient::new(vec![gone.address()], SHORT);
    let error = read(&client, 0, 4096).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Unavailable { last, .. } if last.contains(&gone.address())),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_members_are_gone_the_seeds_tell_the_new_ones() {
    let (old, new) = (FakeNode::start(SPACE), FakeNode::start(SPACE));
    let client = CacheClient::new(vec![old.address(), new.address()], PATIENT);
    read(&client, 0, 4096).await.unwrap();
    assert_eq!((old.reads(), new.reads()), (1, 0));
    new.tell(&ring_of(&[&new], 2));
    old.kill();
    read(&client, 4096, 4096).await.unwrap();
    assert_eq!(new.reads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_does_not_know_its_ring_yet_is_asked_again() {
    let node = FakeNode::start(SPACE);
    node.tell(&ring_of(&[], 0));
    let client = CacheClient::new(vec![node.address()], PATIENT);
    let waiting = tokio::spawn(async move { read(&client, 0, 4096).await });
    until("it was asked twice", || node.rings() >= 2).await;
    node.tell(&ring_of(&[&node], 1));
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_carries_a_newer_epoch_lets_the_ring_be_learnt_once() {
    let nodes = [FakeNode::start(SPACE), FakeNode::start(SPACE)];
    let ring = ring_of(&[&nodes[0], &nodes[1]], 2);
    let owner = ring.owners(&SPACE, 0)[0].address.clone();
    let (old, new) = if nodes[0].address() == owner {
        (&nodes[1], &nodes[0])
    } else {
        (&nodes[0], &nodes[1])
    };
    let client = CacheClient::new(vec![old.address()], PATIENT);
    read(&client, 0, 4096).await.unwrap();
    nodes.iter().for_each(|node| node.tell(&ring));
    let started = Instant::now();
    while new.reads() == 0 {
        let reads: Vec<_> = (0..16)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { read(&client, 0, 4096).await })
            })
            .collect();
        for read in reads {
            read.await.unwrap().unwrap();
        }
        assert!(started.elapsed() < PATIENT, "the new member is never asked");
    }
    assert_eq!(
        old.rings() + new.rings(),
        2,
        "at the beginning, and when the epoch grew"
    );
}
