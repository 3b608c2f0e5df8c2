//! csi and mounter as processes: who may die while files are read, and who may not.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::SliceRandom;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::fake_node::Behaviour;
use crate::machine::{FILES, Machine, PATIENCE, Resend, binary_of, wait_for_metric};
use crate::mounter::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn readers_do_not_notice_that_their_mounter_is_killed() {
    for resend in Resend::BOTH {
        mounter_is_killed(resend).await;
    }
}

async fn mounter_is_killed(resend: Resend) {
    let machine = Machine::new(resend);
    let _csi = machine.csi();
    let mut mounter = machine.mounter(0);
    machine.publish("a").await;
    assert!(machine.read("a", 0).recv_timeout(PATIENCE).unwrap().unwrap());
    for round in 0..3 {
        // Answers come late, so that requests are in flight when the process dies.
        machine.cache.behave(Behaviour::Late(Duration::from_millis(20)));
        let asked = machine.cache.reads();
        let readers = [1, 2, 3].map(|file| machine.read("a", 3 * round + file));
        wait_until("reads in flight", || machine.cache.reads() >= asked + 3);
        mounter.end(Signal::KILL);
        mounter = machine.mounter(1);
        machine.cache.behave(Behaviour::Serve);
        for reader in readers {
            assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
        }
    }
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_mounter_takes_beside_its_successor_is_not_lost_when_it_dies() {
    for resend in Resend::BOTH {
        old_mounter_dies_beside_its_successor(resend).await;
    }
}

async fn old_mounter_dies_beside_its_successor(resend: Resend) {
    let machine = Machine::new(resend);
    let _csi = machine.csi();
    let mut old = machine.mounter(0);
    machine.publish("a").await;
    let _new = machine.mounter(1);
    let both = || fs::read_to_string(machine.scratch.path().join("csi.log")).unwrap_or_default();
    wait_until("the hand-over", || both().contains("took a connection over"));

    // Both wait for requests now, and the kernel gives them to both.
    machine.cache.behave(Behaviour::Late(Duration::from_secs(1)));
    let asked = machine.cache.reads();
    let readers: Vec<_> = (0..FILES).map(|file| machine.read("a", file)).collect();
    wait_until("reads in flight", || machine.cache.reads() >= asked + 8);
    old.end(Signal::KILL);
    machine.cache.behave(Behaviour::Serve);
    for reader in readers {
        assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    }
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

/// It is the supervisor's to kill it: then the other one answers.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_mounter_took_that_hangs_beside_another_is_answered() {
    for resend in Resend::BOTH {
        a_mounter_hangs_beside_another(resend).await;
    }
}

async fn a_mounter_hangs_beside_another(resend: Resend) {
    let machine = Machine::new(resend);
    let _csi = machine.csi();
    let hangs = machine.supervised_mounter();
    machine.publish("a").await;
    let _other = machine.mounter(1);
    let log = || fs::read_to_string(machine.scratch.path().join("csi.log")).unwrap_or_default();
    wait_until("the hand-over", || log().contains("took a connection over"));

    machine.cache.behave(Behaviour::Late(Duration::from_secs(1)));
    let asked = machine.cache.reads();
    let readers: Vec<_> = (0..FILES).map(|file| machine.read("a", file)).collect();
    wait_until("reads in flight", || machine.cache.reads() >= asked + 8);
    let worker = Pid::from_raw(hangs.worker() as i32).unwrap();
    kill_process(worker, Signal::STOP).unwrap();
    machine.cache.behave(Behaviour::Serve);
    for reader in readers {
        assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    }
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn csi_that_restarts_is_handed_back_what_the_mounter_holds() {
    for resend in Resend::BOTH {
        csi_restarts(resend).await;
    }
}

async fn csi_restarts(resend: Resend) {
    for signal in [Signal::TERM, Signal::KILL] {
        let machine = Machine::new(resend);
        let mut csi = machine.csi();
        let mut mounter = machine.mounter(0);
        machine.publish("old").await;
        assert!(machine.read("old", 0).recv_timeout(PATIENCE).unwrap().unwrap());

        // A read under way, and one that begins while no csi is there.
        machine.cache.behave(Behaviour::Late(Duration::from_millis(20)));
        let (asked, under_way) = (machine.cache.reads(), machine.read("old", 1));
        wait_until("a read in flight", || machine.cache.reads() > asked);
        csi.end(signal);
        let without = machine.read("old", 2);
        for reader in [under_way, without] {
            assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
        }

        let _csi = machine.csi();
        machine.wait_for("penstock_csi_served_connections", 1);
        machine.publish("new").await;
        assert_eq!(machine.images().len(), 1, "the new pod shares the mount of the old one");

        // Now the mounter, with a read under way: csi has everything that its successor needs.
        let (asked, under_way) = (machine.cache.reads(), machine.read("old", 3));
        wait_until("a read in flight", || machine.cache.reads() > asked);
        mounter.end(signal);
        mounter = machine.mounter(1);
        machine.cache.behave(Behaviour::Serve);
        assert!(under_way.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
        assert!(machine.read("new", 4).recv_timeout(PATIENCE).unwrap().unwrap());
        for pod in ["old", "new"] {
            machine.unpublish(pod).await;
        }
        assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
        mounter.end(signal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_lost_new_pods_mount_anew_and_old_pods_keep_what_they_have_read() {
    for resend in Resend::BOTH {
        both_lose_everything(resend).await;
    }
}

async fn both_lose_everything(resend: Resend) {
    let machine = Machine::new(resend);
    let mut csi = machine.csi();
    let mut mounter = machine.mounter(0);
    machine.publish("old").await;
    let warm = machine.read_warm("old", 0);
    csi.end(Signal::KILL);
    mounter.end(Signal::KILL);

    let _csi = machine.csi();
    let _mounter = machine.mounter(0);
    assert!(machine.read("old", 1).recv_timeout(PATIENCE).unwrap().is_err());
    warm.end();
    machine.publish("new").await;
    assert!(machine.read("new", 1).recv_timeout(PATIENCE).unwrap().unwrap());
    for pod in ["old", "new"] {
        machine.unpublish(pod).await;
    }
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_csi_has_everything_before_the_old_one_ends() {
    for resend in Resend::BOTH {
        csi_is_replaced(resend).await;
    }
}

async fn csi_is_replaced(resend: Resend) {
    let machine = Machine::new(resend);
    let mut old = machine.supervised_csi();
    let mut mounter = machine.mounter(0);
    machine.publish("a").await;
    machine.cache.behave(Behaviour::Late(Duration::from_millis(20)));
    let (asked, under_way) = (machine.cache.reads(), machine.read("a", 0));
    wait_until("a read in flight", || machine.cache.reads() > asked);

    // Without a mounter, so that nobody else could have handed it over.
    mounter.end(Signal::KILL);
    let (next, health) = machine.next_csi();
    wait_for_metric(health, "penstock_csi_kept_connections", 1);
    wait_for_metric(health, "penstock_csi_mounter_connected", 0);
    let _mounter = machine.start_mounter(Command::new(binary_of("penstock-mounter")));
    wait_for_metric(health, "penstock_csi_served_connections", 1);
    assert!(under_way.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    machine.publish("b").await;
    assert_eq!(machine.images().len(), 1, "both share one mount");

    // The next one turns out to be bad: the old one, which is still there, works again.
    let under_way = machine.read("b", 1);
    drop(next);
    wait_for_metric(machine.health, "penstock_csi_served_connections", 1);
    assert!(under_way.recv_timeout(PATIENCE).unwrap().unwrap(), "wrong bytes");
    machine.publish("c").await;
    assert!(machine.read("c", 2).recv_timeout(PATIENCE).unwrap().unwrap());

    // And once more, to its end.
    let (_next, health) = machine.next_csi();
    wait_for_metric(health, "penstock_csi_served_connections", 1);
    old.0.end(Signal::TERM);
    assert!(machine.read("c", 3).recv_timeout(PATIENCE).unwrap().unwrap());
    for pod in ["a", "b", "c"] {
        machine.unpublish(pod).await;
    }
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_nobody_answers_fail_after_the_datasets_patience_until_somebody_does() {
    for resend in Resend::BOTH {
        nobody_answers(resend).await;
    }
}

async fn nobody_answers(resend: Resend) {
    let machine = Machine::with_patience(2, resend);
    let _csi = machine.csi();
    let mut mounter = machine.mounter(0);
    machine.publish("a").await;
    machine.publish("b").await;
    let warm = machine.read_warm("a", 0);

    // A mounter that hangs, with a read that it took and one that it never saw.
    machine.cache.behave(Behaviour::Late(Duration::from_secs(1)));
    let (asked, taken) = (machine.cache.reads(), machine.read("a", 1));
    wait_until("a read in flight", || machine.cache.reads() > asked);
    kill_process(Pid::from_child(&mounter.0), Signal::STOP).unwrap();
    let unseen = machine.read("b", 2);
    for reader in [taken, unseen] {
        let read = reader.recv_timeout(PATIENCE).expect("a read hangs");
        assert_eq!(read.unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
    // Nothing of it holds up a pod that ends.
    machine.unpublish("b").await;
    machine.cache.behave(Behaviour::Serve);
    kill_process(Pid::from_child(&mounter.0), Signal::CONT).unwrap();
    machine.wait_for("penstock_csi_served_connections", 1);
    wait_until("reads to work again", || {
        machine
            .read("a", 1)
            .recv_timeout(PATIENCE)
            .unwrap()
            .is_ok_and(|right| right)
    });

    // One that is gone.
    mounter.end(Signal::KILL);
    assert!(
        machine
            .read("a", 3)
            .recv_timeout(PATIENCE)
            .expect("a read hangs")
            .is_err()
    );
    let _mounter = machine.mounter(1);
    wait_until("reads to work again", || {
        machine
            .read("a", 3)
            .recv_timeout(PATIENCE)
            .unwrap()
            .is_ok_and(|right| right)
    });
    warm.end();
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}

/// Kills in any order, at any moment: a supervisor starts each worker again at once, with its descriptors.
#[tokio::test(flavor = "multi_thread")]
async fn workers_under_supervisors_may_be_killed_in_any_order() {
    for (form, resend) in [("file", Resend::Auto), ("loop", Resend::Off), ("fuse", Resend::Off)] {
        workers_are_killed_in(form, resend).await;
    }
}

async fn workers_are_killed_in(form: &'static str, resend: Resend) {
    let rounds = if std::env::var_os("PENSTOCK_LONG").is_some() {
        100
    } else {
        10
    };
    let mut machine = Machine::new(resend);
    machine.form = form;
    let csi = machine.supervised_csi();
    let mounter = machine.supervised_mounter();
    machine.publish("a").await;
    let mut random = rand::rng();
    machine.cache.behave(Behaviour::Late(Duration::from_millis(5)));
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        (0..FILES).for_each(|file| machine.forget("a", file));
        let started = Instant::now();
        let readers = [0, 1, 2].map(|file| machine.read("a", (3 * round + file) % FILES));
        let mut victims = [&csi, &mounter];
        victims.shuffle(&mut random);
        for victim in victims {
            // Not a wait for something: the moment is what is tried.
            std::thread::sleep(Duration::from_millis(random.random_range(0..30)));
            victim.kill_worker();
        }
        for reader in readers {
            assert!(
                reader.recv_timeout(PATIENCE).unwrap().unwrap(),
                "wrong bytes in round {round}"
            );
        }
        longest = longest.max(started.elapsed());
    }
    println!("form {form}, resend {resend:?}: {rounds} rounds of two kills, 0 errors, longest round {longest:?}");
    machine.cache.behave(Behaviour::Serve);
    // One that was killed this moment answers no call; the kubelet would call again.
    machine.wait_for("penstock_csi_served_connections", 1);
    machine.unpublish("a").await;
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
}
