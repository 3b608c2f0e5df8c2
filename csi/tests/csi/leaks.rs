//! Nothing grows with the number of mounts.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::machine::{Machine, Resend, SPACE};
use crate::mounter::wait_until;
use crate::scene::package_of;

const DATASETS: usize = 50;

/// What a process has of the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    descriptors: usize,
    threads: usize,
}

fn counts(process: u32) -> Counts {
    let count = |what: &str| {
        let folder = format!("/proc/{process}/{what}");
        fs::read_dir(folder).unwrap().count()
    };
    Counts {
        descriptors: count("fd"),
        threads: count("task"),
    }
}

/// Resident memory in KiB.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Every Dataset is mounted, read and unmounted.
async fn round(machine: &Machine, number: usize) {
    let pods: Vec<_> = (0..DATASETS).map(|dataset| format!("pod-{number}-{dataset}")).collect();
    for (dataset, pod) in pods.iter().enumerate() {
        machine.publish_dataset(pod, &format!("d{dataset}")).await;
        assert_eq!(fs::read(machine.target(pod).join("file")).unwrap().len(), 5000);
    }
    for pod in &pods {
        machine.unpublish(pod).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_mounts_of_fifty_datasets_leave_nothing() {
    // With ledgers there is more that could be left.
    let machine = Machine::new(Resend::Off);
    for number in 0..DATASETS {
        let files = [("file".to_owned(), 5000)];
        let package = package_of(SPACE, &number.to_string(), &files);
        machine.add_dataset(&format!("d{number}"), &package, 300);
    }
    let (csi, mounter) = (machine.supervised_csi(), machine.supervised_mounter());
    let workers = [csi.worker(), mounter.worker()];
    // What a process takes for good, it takes in the first rounds.
    let first = 4;
    for number in 0..first {
        round(&machine, number).await;
    }
    let settled = |process: u32| {
        let mut last = counts(process);
        // Idle threads end after a while.
        wait_until("threads and descriptors to come to rest", || {
            std::thread::park_timeout(Duration::from_secs(2));
            let now = counts(process);
            now == std::mem::replace(&mut last, counts(process))
        });
        last
    };
    let (before, memory_before) = (workers.map(settled), workers.map(memory));
    let rounds = 1000 / DATASETS;
    for number in first..rounds {
        round(&machine, number).await;
    }
    assert_eq!(machine.mounts_left(), Vec::<PathBuf>::new());
    let is_less = |(now, then): (&Counts, &Counts)| now.descriptors <= then.descriptors && now.threads <= then.threads;
    wait_until(&format!("no more than {before:?}"), || {
        workers.map(counts).iter().zip(&before).all(is_less)
    });
    let memory_after = workers.map(memory);
    println!(
        "{} mounts: {before:?}; KiB {memory_before:?} before, {memory_after:?} after",
        rounds * DATASETS
    );
    for (now, then) in memory_after.iter().zip(memory_before) {
        assert!(*now <= then + then / 4, "memory grew from {then} to {now} KiB");
    }
}
