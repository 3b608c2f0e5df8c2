//! Puts records in order: sorted runs of what memory may hold go to a log, and are merged when they are read.

use std::cmp::Ordering;
use std::io;
use std::ops::Range;
use std::slice;

use crate::scratch::{Log, Records, Scratch};

/// Which of two records is the first.
pub(crate) type Order = fn(&[u8], &[u8]) -> Ordering;

/// Records of which more may come.
pub(crate) struct Sorter {
    scratch: Scratch,
    order: Order,
    /// The records that are no run yet, one behind the other.
    arena: Vec<u8>,
    places: Vec<Place>,
    log: Log,
    runs: Vec<Range<u64>>,
}

/// Where a record lies in the arena.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    bytes: u32,
}

impl Place {
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.start..self.start + self.bytes as usize]
    }
}

impl Sorter {
    pub(crate) fn new(scratch: &Scratch, order: Order) -> Self {
        Self {
            scratch: scratch.clone(),
            order,
            arena: Vec::new(),
            places: Vec::new(),
            log: Log::new(scratch),
            runs: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, record: &[u8]) -> io::Result<()> {
        self.places.push(Place {
            start: self.arena.len(),
            // No record is nearly as long as 4 GiB.
            bytes: record.len() as u32,
        });
        self.arena.extend_from_slice(record);
        if self
            .scratch
            .is_full(self.arena.len() + self.places.len() * size_of::<Place>())
        {
            self.end_run()?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        let (arena, order) = (&self.arena, self.order);
        self.places.sort_unstable_by(|a, b| order(a.of(arena), b.of(arena)));
    }

    fn end_run(&mut self) -> io::Result<()> {
        self.sort();
        let start = self.log.end();
        for place in &self.places {
            self.log.append(place.of(&self.arena))?;
        }
        self.log.spill()?;
        self.runs.push(start..self.log.end());
        self.arena.clear();
        self.places.clear();
        Ok(())
    }

    /// The records in their order, to be read as often as wanted.
    pub(crate) fn sorted(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            self.sort();
        } else if !self.places.is_empty() {
            self.end_run()?;
        }
        if !self.runs.is_empty() {
            (self.arena, self.places) = (Vec::new(), Vec::new());
        }
        let Self {
            scratch: _,
            order,
            arena,
            places,
            log,
            runs,
        } = self;
        Ok(Sorted {
            order,
            arena,
            places,
            log,
            runs,
        })
    }
}

/// Records in their order: either all in memory, or runs of them in a log.
pub(crate) struct Sorted {
    order: Order,
    arena: Vec<u8>,
    places: Vec<Place>,
    log: Log,
    runs: Vec<Range<u64>>,
}

impl Sorted {
    pub(crate) fn merged(&self) -> io::Result<Merged<'_>> {
        let memory = Run::Memory {
            arena: &self.arena,
            rest: self.places.iter(),
            current: &[],
        };
        let logged = self
            .runs
            .iter()
            .map(|run| Run::Logged(self.log.records_of(run.clone())));
        let mut merged = Merged {
            order: self.order,
            runs: Vec::with_capacity(self.runs.len() + 1),
            heap: Vec::with_capacity(self.runs.len() + 1),
            is_begun: false,
        };
        for mut run in logged.chain([memory]) {
            if run.advance()? {
                merged.heap.push(merged.runs.len());
                merged.runs.push(run);
            }
        }
        for at in (0..merged.heap.len() / 2).rev() {
            merged.sink(at);
        }
        Ok(merged)
    }
}

enum Run<'a> {
    Memory {
        arena: &'a [u8],
        rest: slice::Iter<'a, Place>,
        current: &'a [u8],
    },
    Logged(Records<'a>),
}

impl Run<'_> {
    fn advance(&mut self) -> io::Result<bool> {
        match self {
            Self::Memory { arena, rest, current } => {
                let next = rest.next().map(|place| place.of(arena));
                *current = next.unwrap_or_default();
                Ok(next.is_some())
            }
            Self::Logged(records) => records.advance(),
        }
    }

    fn current(&self) -> &[u8] {
        match self {
            Self::Memory { current, .. } => current,
            Self::Logged(records) => records.current(),
        }
    }
}

/// A walk through all runs at the same time.
pub(crate) struct Merged<'a> {
    order: Order,
    runs: Vec<Run<'a>>,
    /// Numbers of the runs that have a record, none after one that it stands below of.
    heap: Vec<usize>,
    is_begun: bool,
}

impl Merged<'_> {
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.is_begun
            && let Some(first) = self.heap.first()
        {
            if !self.runs[*first].advance()? {
                self.heap.swap_remove(0);
            }
            self.sink(0);
        }
        self.is_begun = true;
        Ok(self.heap.first().map(|run| self.runs[*run].current()))
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.heap[a], self.heap[b]);
        let order = (self.order)(self.runs[a].current(), self.runs[b].current());
        order.then(a.cmp(&b)).is_lt()
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let mut first = at;
            for below in [2 * at + 1, 2 * at + 2] {
                if below < self.heap.len() && self.is_before(below, first) {
                    first = below;
                }
            }
            if first == at {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_in_their_order_from_memory_and_from_any_number_of_runs(
            mut records in prop::collection::vec(prop::collection::vec(0u8..3, 0..9), 0..200),
            memory_bytes in 1usize..2000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let scratches = [Scratch::memory(), Scratch::folder_beyond(folder.path(), memory_bytes)];
            let unsorted = records.clone();
            records.sort();
            for scratch in scratches {
                let mut sorter = Sorter::new(&scratch, |a, b| a.cmp(b));
                for record in &unsorted {
                    sorter.push(record).unwrap();
                }
                let sorted = sorter.sorted().unwrap();
                for _ in 0..2 {
                    let mut merged = sorted.merged().unwrap();
                    for record in &records {
                        prop_assert_eq!(merged.next().unwrap(), Some(record.as_slice()));
                    }
                    prop_assert_eq!(merged.next().unwrap(), None);
                    prop_assert_eq!(merged.next().unwrap(), None);
                }
            }
        }
    }
}
