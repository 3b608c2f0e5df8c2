//! Interleaved rounds: ours and the reference in turns, so that whatever else the machine does hits both.

use anyhow::Result;
use penstock_e2e::stop::Stop;

use crate::figure::median;

/// How often, and whether to go on.
pub struct Rounds<'a> {
    /// Rounds of a load that takes a second or less.
    pub short: usize,
    /// Rounds of a load that takes longer.
    pub long: usize,
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
            self.stop.check()?;
            // Who comes first changes: the second finds the machine warmer, or busier with what the first left behind.
            if round.is_multiple_of(2) {
                values.push(ours(round)?);
                references.push(reference(round)?);
            } else {
                references.push(reference(round)?);
                values.push(ours(round)?);
            }
        }
        Ok((median(values), median(references)))
    }
}
