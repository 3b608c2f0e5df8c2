//! One request for each block, whoever comes when, and nobody waits for ever.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::future::block_on;
use loom::thread;
use penstock_buffer::BufferPool;
use penstock_protocol::ids::SpaceId;

use crate::error::ReadError;
use crate::inflight::{self, Arrived, Fate, InFlight, Unit};
use crate::presence::{Bits, Presence};
use crate::sync::in_all_orders;

const SPACE: SpaceId = SpaceId([1; 16]);

/// An engine without files and an origin: an address is a block here.
struct Engine {
    in_flight: InFlight,
    presence: Presence,
    buffers: BufferPool,
    /// Requests for each block. Not part of what is tried.
    asked: [AtomicUsize; 4],
}

impl Engine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            in_flight: InFlight::default(),
            presence: Presence::new(Bits::new(std::iter::once(0))),
            buffers: BufferPool::new(1, 0),
            asked: Default::default(),
        })
    }

    /// As `Inner::start` does: the units that begin, and all that have blocks of the range.
    fn start(&self, wanted: Range<u64>) -> (Vec<Arc<Unit>>, Vec<Arc<Unit>>) {
        let mut units = self.in_flight.lock();
        let is_stored = |block: &u64| self.presence.blocks().has(*block as u32);
        let stored = wanted.clone().filter(is_stored).map(|block| block..block + 1).collect();
        let missing = inflight::missing(&units, &SPACE, wanted.clone(), stored);
        let begun = missing
            .into_iter()
            .map(|range| inflight::begin(&mut units, &SPACE, range, Fate::Kept, false))
            .collect();
        (begun, inflight::overlapping(&units, &SPACE, &wanted))
    }

    /// As a fetch does: the blocks are stored before the unit leaves the map.
    fn fetch(&self, unit: &Unit) {
        for block in unit.range.clone() {
            self.asked[block as usize].fetch_add(1, Ordering::Relaxed);
            self.presence.blocks().set(block as u32);
        }
        let arrived = Arrived::Here(Arc::new(self.buffers.take()));
        self.in_flight.end(&SPACE, unit, arrived);
    }

    /// How the units of a read ended.
    fn read(&self, wanted: Range<u64>) -> Vec<Arrived> {
        let (begun, needed) = self.start(wanted);
        begun.iter().for_each(|unit| self.fetch(unit));
        needed.iter().map(|unit| block_on(unit.arrived())).collect()
    }

    fn asked(&self) -> Vec<usize> {
        self.asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect()
    }
}

fn is_here(arrived: &Arrived) -> bool {
    matches!(arrived, Arrived::Here(_))
}

#[test]
fn each_block_is_asked_for_once_whoever_comes_when() {
    in_all_orders(|| {
        let engine = Engine::new();
        let other = engine.clone();
        let other = thread::spawn(move || assert!(other.read(1..4).iter().all(is_here)));
        assert!(engine.read(0..2).iter().all(is_here));
        other.join().unwrap();
        assert_eq!(engine.asked(), [1; 4]);
        assert!(engine.in_flight.lock().is_empty());
    });
}

#[test]
fn three_readers_of_one_block_ask_for_it_once() {
    in_all_orders(|| {
        let engine = Engine::new();
        let others = [(); 2].map(|()| {
            let engine = engine.clone();
            thread::spawn(move || assert!(engine.read(2..3).iter().all(is_here)))
        });
        assert!(engine.read(2..3).iter().all(is_here));
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(engine.asked(), [0, 0, 1, 0]);
    });
}

/// As those of `fetch` do: ends its unit when it is dropped.
struct Fetching(Arc<Engine>, Arc<Unit>);

impl Drop for Fetching {
    fn drop(&mut self) {
        let given_up = Arrived::Failed(ReadError::Unavailable("given up".to_owned()));
        self.0.in_flight.end(&SPACE, &self.1, given_up);
    }
}

#[test]
fn whoever_waits_for_a_fetch_that_is_given_up_goes_on_and_the_next_reader_asks_again() {
    in_all_orders(|| {
        let engine = Engine::new();
        let (begun, _) = engine.start(0..1);
        let fetching: Vec<_> = begun.into_iter().map(|unit| Fetching(engine.clone(), unit)).collect();
        let reader = {
            let engine = engine.clone();
            thread::spawn(move || {
                let first = engine.read(0..1);
                let is_given_up = first.iter().any(|arrived| !is_here(arrived));
                (is_given_up, engine.read(0..1).iter().all(is_here))
            })
        };
        drop(fetching);
        let (is_given_up, is_read) = reader.join().unwrap();
        // Whoever comes while it is on its way fails with it, whoever comes later asks anew.
        assert!(is_read);
        assert_eq!(engine.asked(), [1, 0, 0, 0], "{is_given_up}");
    });
}
