//! Interleaved rounds: ours and the reference in turns, so that whatever else the machine does hits both.

use anyhow::Result;
use penstock_e2e::stop::Stop;

use crate::figure::median;
use crate::memory;

/// How often, and whether to go on.
pub struct Rounds<'a> {
    /// Rounds of a load that takes a second or less.
    pub short: usize,
    /// Rounds of a load that takes longer.
    pub long: usize,
    /// Bytes of memory that a round may take anew.
    pub memory_bytes: usize,
    /// The person may want to end it.
    pub stop: &'a Stop,
}

impl Rounds<'_> {
    /// Medians of `ours` and `reference` over `rounds` rounds; each gets the number of the round.
    ///
    /// # Errors
    /// When a load fails, or the person wants to end.
    pub fn run(
        &self,
        rounds: usize,
        mut ours: impl FnMut(u64) -> Result<f64>,
        mut reference: impl FnMut(u64) -> Result<f64>,
    ) -> Result<(f64, f64)> {
        let (mut values, mut references) = (Vec::new(), Vec::new());
        for round in 0..rounds as u64 {
            let turn = |load: &mut dyn FnMut(u64) -> Result<f64>| {
                self.stop.check()?;
                memory::page_in(self.memory_bytes)?;
                load(round)
            };
            // Who comes first changes: the second finds the machine warmer, or busier with what the first left behind.
            if round.is_multiple_of(2) {
                values.push(turn(&mut ours)?);
                references.push(turn(&mut reference)?);
            } else {
                references.push(turn(&mut reference)?);
                values.push(turn(&mut ours)?);
            }
        }
        Ok((median(values), median(references)))
    }
}
