//! When traffic has shown everything that it reads: a round. It must not know what is stored.
//!
//! A round ends when as many reads as there are distinct units have shown hardly any that was not seen before. When a dataset
//! is read in epochs that takes two to three of them, whatever the order, whoever reads and however large the part is that is
//! read; for eight readers at random it takes five to six reads of each unit. So what was not read in a whole round is not in
//! use any more. Traffic with a long tail goes on showing new units, and has no rounds.
//!
//! Distinct units are counted by HyperLogLog (Flajolet and others, 2007), with 2.3 percent of error in 2 KiB. What is seen
//! again changes nothing in it, so that no unit more is no unit more exactly.

const REGISTER_BITS: u32 = 11;
const REGISTERS: usize = 1 << REGISTER_BITS;

/// The part of all units that may be new in the last reads of a round.
const NEW_PART: f64 = 0.02;

/// Looks at the count in as many reads as there are units.
const LOOKS: usize = 4;

/// Counts reads and distinct units since a round began.
#[derive(Debug)]
pub(crate) struct Rounds {
    registers: Box<[u8]>,
    /// Registers that are zero, and the sum of 2^-register over all.
    zeros: u32,
    sum: f64,
    reads: u64,
    next_look: u64,
    /// Distinct units at the last looks; the oldest was as many reads ago as there are units.
    looks: [f64; LOOKS],
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            registers: vec![0; REGISTERS].into(),
            zeros: REGISTERS as u32,
            sum: REGISTERS as f64,
            reads: 0,
            next_look: 1,
            looks: [0.0; LOOKS],
        }
    }
}

impl Rounds {
    /// Counts a read of the unit whose key has this hash. True when it ends the round and begins another. A round has at
    /// least `reads_min` reads, so that a few units that are read again at once do not make one.
    pub(crate) fn read(&mut self, hash: u64, reads_min: u64) -> bool {
        self.reads += 1;
        let register = &mut self.registers[hash as usize % REGISTERS];
        let rank = ((hash as u32) >> REGISTER_BITS | 1 << 21).trailing_zeros() as u8 + 1;
        if rank > *register {
            self.zeros -= u32::from(*register == 0);
            self.sum += (-f64::from(rank)).exp2() - (-f64::from(*register)).exp2();
            *register = rank;
        }
        if self.reads < self.next_look {
            return false;
        }
        let distinct = self.distinct();
        let new = distinct - self.looks[0];
        if self.reads >= reads_min && new <= NEW_PART * distinct {
            *self = Self::default();
            return true;
        }
        self.next_look = self.reads + (distinct / LOOKS as f64).ceil() as u64;
        self.looks.rotate_left(1);
        self.looks[LOOKS - 1] = distinct;
        false
    }

    /// Distinct units, about.
    fn distinct(&self) -> f64 {
        let count = REGISTERS as f64;
        let estimate = 0.7213 / (1.0 + 1.079 / count) * count * count / self.sum;
        if estimate <= 2.5 * count && self.zeros > 0 {
            count * (count / f64::from(self.zeros)).ln()
        } else {
            estimate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hashed;

    #[test]
    fn a_round_of_epochs_is_two_to_three_epochs() {
        for units in [1000_u64, 3000, 50_000, 1_000_000] {
            let mut rounds = Rounds::default();
            let mut reads = (0..).map(|read| hashed(read % units));
            let first = 1 + reads.by_ref().position(|hash| rounds.read(hash, 0)).unwrap() as u64;
            let epochs = first as f64 / units as f64;
            assert!((1.9..2.5).contains(&epochs), "{epochs} epochs of {units} units");
        }
    }
}
