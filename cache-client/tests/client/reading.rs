use std::time::{Duration, Instant};

use penstock_cache_client::ClientError;
use penstock_protocol::frame::Status;

use crate::fake_node::{Behaviour, FakeNode};
use crate::scene::{PATIENT, SHORT, SPACE, Scene, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_asked_and_nobody_else() {
    let scene = Scene::new(3, PATIENT);
    for (address, bytes) in [(0, 4096), (4096, 1 << 20), (1 << 20, 4 << 20), (8192, 9 << 20)] {
        scene.read(address, bytes).await.unwrap();
    }
    // The last one is above the bound of one request, so it is three.
    assert_eq!(scene.reads(), [6, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_at_once_get_their_own_bytes() {
    let scene = Scene::new(2, PATIENT);
    let reads = (0..200u64).map(|i| {
        let client = scene.client.clone();
        tokio::spawn(async move { crate::scene::read(&client, i * 65536 + i % 16 * 4096, 65536).await })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap().unwrap();
    }
    assert_eq!(scene.reads(), [200, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_is_replaced_by_the_next_within_two_seconds() {
    let scene = Scene::new(3, PATIENT);
    scene.read(0, 4096).await.unwrap();
    scene.nodes[0].kill();
    let killed = Instant::now();
    scene.read(4096, 1 << 20).await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    for block in 0..100 {
        scene.read(block * 4096, 4096).await.unwrap();
    }
    assert_eq!(scene.reads(), [1, 101, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_owner_is_replaced_by_the_next_within_two_seconds() {
    for behaviour in [Behaviour::Hang, Behaviour::HangInside] {
        let scene = Scene::new(3, PATIENT);
        scene.read(0, 4096).await.unwrap();
        scene.nodes[0].behave(behaviour);
        let hung = Instant::now();
        let reads: Vec<_> = (0..32u64)
            .map(|i| {
                let client = scene.client.clone();
                tokio::spawn(async move { crate::scene::read(&client, i * 4096, 65536).await })
            })
            .collect();
        for read in reads {
            read.await.unwrap().unwrap();
        }
        assert!(
            hung.elapsed() < Duration::from_secs(2),
            "{behaviour:?}: {:?}",
            hung.elapsed()
        );
        assert_eq!(scene.reads(), [33, 32, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_only_slow_is_waited_for_and_nobody_else_is_asked() {
    let scene = Scene::new(2, PATIENT);
    scene.nodes[0].behave(Behaviour::Late(Duration::from_millis(2500)));
    let reads: Vec<_> = (0..32u64)
        .map(|i| {
            let client = scene.client.clone();
            tokio::spawn(async move { crate::scene::read(&client, i * 4096, 4096).await })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(scene.reads(), [32, 0]);
    let rings = scene.nodes[0].rings();
    assert!(
        (2..16).contains(&rings),
        "reads that wait share their probes: {rings} requests for the ring"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_waits_for_the_probes_of_a_hung_owner_and_it_is_asked_again_once_it_answers() {
    let scene = Scene::new(2, PATIENT);
    scene.nodes[0].behave(Behaviour::Hang);
    scene.read(0, 4096).await.unwrap();
    let (reads, rings) = (scene.reads()[0], scene.nodes[0].rings());
    while scene.nodes[0].rings() < rings + 2 {
        let started = Instant::now();
        scene.read(0, 4096).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    assert_eq!(scene.reads()[0], reads, "it is probed, not read from");
    scene.nodes[0].behave(Behaviour::Serve);
    let healed = Instant::now();
    while scene.reads()[0] == reads {
        scene.read(0, 4096).await.unwrap();
        assert!(healed.elapsed() < PATIENT, "it answers, but is not asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_in_flight_survive_a_kill() {
    let scene = Scene::new(2, PATIENT);
    scene.nodes[0].behave(Behaviour::Late(Duration::from_secs(60)));
    let reads: Vec<_> = (0..32u64)
        .map(|i| {
            let client = scene.client.clone();
            tokio::spawn(async move { crate::scene::read(&client, i * 4096, 4096).await })
        })
        .collect();
    until("all reads are in flight", || scene.reads()[0] == 32).await;
    scene.nodes[0].kill();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(scene.reads(), [32, 32]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_at_its_address_is_asked_again() {
    let mut scene = Scene::new(1, PATIENT);
    scene.read(0, 4096).await.unwrap();
    let address = scene.nodes[0].socket_address();
    scene.nodes[0].kill();
    let (client, started) = (scene.client.clone(), Instant::now());
    let waiting = tokio::spawn(async move { crate::scene::read(&client, 4096, 4096).await });
    scene.nodes[0] = FakeNode::start_at(SPACE, address);
    waiting.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_owner_does_wrong_the_next_one_is_right() {
    for behaviour in [
        Behaviour::Refuse(Status::UnknownRevision),
        Behaviour::Refuse(Status::Busy),
        Behaviour::Refuse(Status::OriginUnavailable),
        Behaviour::Refuse(Status::Internal),
        Behaviour::Refuse(Status::Unsupported),
        Behaviour::Damage,
        Behaviour::Garbage,
        Behaviour::HangUp,
        Behaviour::Confuse,
        Behaviour::Exaggerate,
        Behaviour::Foreign,
    ] {
        let scene = Scene::new(2, PATIENT);
        scene.nodes[0].behave(behaviour);
        let started = Instant::now();
        for _ in 0..3 {
            scene.read(8192, 1 << 20).await.unwrap();
        }
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{behaviour:?} took {:?}",
            started.elapsed()
        );
        assert_eq!(scene.reads()[1], 3, "{behaviour:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_never_delivered() {
    let scene = Scene::new(2, SHORT);
    scene.nodes.iter().for_each(|node| node.behave(Behaviour::Damage));
    let error = scene.read(0, 4096).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Unavailable { last, .. } if last.contains("damaged")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_sent_a_damaged_block_unread_is_asked_to_look_at_it() {
    let scene = Scene::new(2, PATIENT);
    scene.nodes[0].behave(Behaviour::DamageUnread);
    scene.read(0, 1 << 20).await.unwrap();
    assert_eq!(scene.reads(), [2, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_drifted_only_when_nobody_has_its_block_any_more() {
    let scene = Scene::new(2, PATIENT);
    let drifted = Behaviour::Refuse(Status::Drifted);
    scene.nodes[0].behave(drifted);
    scene.read(0, 4096).await.unwrap();
    scene.nodes[1].behave(drifted);
    let started = Instant::now();
    let error = scene.read(0, 4096).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Drifted(said) if said.contains("refuse")),
        "{error}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "it is final, so nobody waits for the deadline"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_not_final_while_an_owner_that_may_hold_the_block_is_away() {
    for nodes in [2, 4] {
        let mut scene = Scene::new(nodes, PATIENT);
        scene.read(0, 4096).await.unwrap();
        let others = &scene.nodes[1..];
        others
            .iter()
            .for_each(|node| node.behave(Behaviour::Refuse(Status::Drifted)));
        let address = scene.nodes[0].socket_address();
        scene.nodes[0].kill();
        let client = scene.client.clone();
        let waiting = tokio::spawn(async move { crate::scene::read(&client, 0, 4096).await });
        until("all others said that it drifted", || {
            others.iter().all(|node| node.reads() > 0)
        })
        .await;
        scene.nodes[0] = FakeNode::start_at(SPACE, address);
        waiting.await.unwrap().unwrap();
        assert!(
            scene.reads()[1..].iter().all(|reads| *reads == 1),
            "{:?}",
            scene.reads()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_drift_is_what_the_others_said() {
    let scene = Scene::new(2, SHORT);
    scene.read(0, 4096).await.unwrap();
    scene.nodes[1].behave(Behaviour::Refuse(Status::Drifted));
    scene.nodes[0].kill();
    let started = Instant::now();
    let error = scene.read(0, 4096).await.unwrap_err();
    assert!(matches!(&error, ClientError::Drifted(_)), "{error}");
    assert!(
        started.elapsed() >= SHORT / 2,
        "the owner may come back until the deadline"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_nodes_are_asked_until_they_have_time() {
    let scene = Scene::new(2, PATIENT);
    scene
        .nodes
        .iter()
        .for_each(|node| node.behave(Behaviour::Refuse(Status::Busy)));
    let client = scene.client.clone();
    let waiting = tokio::spawn(async move { crate::scene::read(&client, 0, 4096).await });
    until("both were asked twice", || scene.reads()[1] >= 2).await;
    scene.nodes[0].behave(Behaviour::Serve);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_deadline_the_error_says_who_said_what() {
    let scene = Scene::new(2, SHORT);
    scene
        .nodes
        .iter()
        .for_each(|node| node.behave(Behaviour::Refuse(Status::OriginUnavailable)));
    let started = Instant::now();
    let text = scene.read(0, 4096).await.unwrap_err().to_string();
    assert!(started.elapsed() < 10 * SHORT, "{:?}", started.elapsed());
    assert!(text.contains("127.0.0.1:") && text.contains("told to refuse"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_speaks_another_version_is_reported_in_its_own_words() {
    let scene = Scene::new(1, SHORT);
    scene.read(0, 4096).await.unwrap();
    scene.nodes[0].behave(Behaviour::Foreign);
    let text = scene.read(0, 4096).await.unwrap_err().to_string();
    assert!(text.contains("version 1 is not spoken here"), "{text}");
}
