//! Random reads, damages and restarts against the trivial model: the bytes of the objects.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use penstock_cache_node::Engine;
use penstock_cache_node::limits::ORIGIN_ATTEMPTS_MAX;
use penstock_origin::fake::slow_down;
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES, round_up_to_block};
use proptest::prelude::*;

use crate::scene::{Scene, content, read};

#[derive(Clone, Debug)]
enum Step {
    Read { object: usize, from: u64, bytes: u64 },
    ReadAnywhere { address: u64, bytes: u64 },
    FlipByte { stripe: u64, at: u64 },
    FailOrigin,
    CutOrigin { after: u64 },
    Restart,
}

const OBJECTS: [(&str, usize); 6] = [
    ("empty", 0),
    ("byte", 1),
    ("small", 70_000),
    ("page", 1 << 20),
    ("more", (1 << 20) + 1),
    ("large", 66 << 20),
];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..OBJECTS.len(), any::<u64>(), 1u64..3 << 20).prop_map(|(object, from, bytes)| Step::Read { object, from, bytes }),
        1 => (0u64..80 << 20, 1u64..600_000).prop_map(|(address, bytes)| Step::ReadAnywhere { address, bytes }),
        1 => (0u64..2, 0u64..STRIPE_BYTES).prop_map(|(stripe, at)| Step::FlipByte { stripe, at }),
        1 => Just(Step::FailOrigin),
        1 => (0u64..3 << 20).prop_map(|after| Step::CutOrigin { after }),
        1 => Just(Step::Restart),
    ]
}

/// What the space should hold.
fn model(scene: &Scene) -> Vec<u8> {
    let end = scene.package.summary().space_bytes as usize;
    let mut space = vec![0; end];
    for (seed, (key, bytes)) in OBJECTS.iter().enumerate().filter(|(_, (_, bytes))| *bytes > 0) {
        let at = scene.extent(key).address as usize;
        space[at..at + bytes].copy_from_slice(&content(seed as u64, *bytes));
    }
    space
}

async fn run(steps: Vec<Step>, capacities: &[u64]) {
    let scene = Scene::with_tiers(&OBJECTS, capacities).await;
    let model = model(&scene);
    let mut engine = scene.engine.clone();
    for step in steps {
        // As many in a row as a fetch is tried are an error of the origin's, and rightly one of the read.
        let may_fail = scene.origin.failures_left() + 1 < ORIGIN_ATTEMPTS_MAX as usize;
        let (address, bytes) = match step {
            Step::Read { object, from, bytes } => {
                let extent = scene.extent(OBJECTS[object].0);
                let from = from % extent.bytes;
                (extent.address + from, bytes.min(extent.bytes - from))
            }
            Step::ReadAnywhere { address, bytes } => {
                let address = address % model.len() as u64;
                (address, bytes.min(model.len() as u64 - address))
            }
            Step::FlipByte { stripe, at } => {
                let path = scene
                    .folder
                    .path()
                    .join(format!("v1/{}/{stripe}.data", scene.package.space()));
                if let Ok(file) = fs::OpenOptions::new().read(true).write(true).open(path) {
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, at).unwrap();
                    file.write_all_at(&[!byte[0]], at).unwrap();
                }
                continue;
            }
            Step::FailOrigin | Step::CutOrigin { .. } if !may_fail => continue,
            Step::FailOrigin => {
                scene.origin.fail_with([slow_down()]);
                continue;
            }
            Step::CutOrigin { after } => {
                scene.origin.cut_next_after(after);
                continue;
            }
            Step::Restart => {
                engine = scene.restarted();
                continue;
            }
        };
        for range in BlockRange::covering(address, bytes) {
            let got = read(&engine, &scene.package, range).await.unwrap();
            let (start, end) = (range.address() as usize, (range.end() as usize).min(model.len()));
            assert!(got[..end - start] == model[start..end], "wrong bytes at {range:?}");
        }
    }
    let needed: u64 = OBJECTS.iter().map(|(_, bytes)| round_up_to_block(*bytes as u64)).sum();
    assert!(
        engine
            .report()
            .spaces
            .iter()
            .all(|(_, bytes)| *bytes <= needed + (1 << 20)),
        "{:?}",
        engine.report()
    );
    // After a restart it is known at once what the disk has, and a moment later what of it counts.
    let begun = Instant::now();
    let is_over = |engine: &Engine| {
        engine
            .report()
            .tiers
            .iter()
            .any(|tier| tier.used_bytes > tier.capacity_bytes)
    };
    while is_over(&engine) {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", engine.report());
        tokio::task::yield_now().await;
    }
}

fn run_all(steps: Vec<Step>, capacities: &[u64]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(steps, capacities));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn readers_get_the_bytes_of_the_objects_whatever_happens(steps in prop::collection::vec(step(), 1..40)) {
        run_all(steps, &[1 << 40]);
    }

    #[test]
    fn and_whatever_is_evicted_meanwhile(steps in prop::collection::vec(step(), 1..40), capacity in 0u64..24 << 20) {
        run_all(steps, &[capacity]);
    }

    #[test]
    fn and_in_whatever_tiers(steps in prop::collection::vec(step(), 1..40), capacities in prop::collection::vec(0u64..24 << 20, 2..4)) {
        run_all(steps, &capacities);
    }
}
