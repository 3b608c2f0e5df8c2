//! The default: keeps what it has while epochs are read, and is S3-FIFO for everything else. It must not know more of the
//! traffic than the reads that it is told of: it tries out both on a sample of the keys and follows the better.

use crate::Policy;
use crate::content::Content;
use crate::hold::{self, Sweep};
use crate::s3_fifo;
use crate::trial::{Rules, Trial};

/// The policy.
#[derive(Debug)]
pub struct Auto {
    content: Content,
    sweep: Sweep,
    trial: Trial,
}

impl Auto {
    /// An empty cache of so many bytes.
    pub fn new(capacity: u64) -> Self {
        Self {
            content: Content::new(capacity),
            sweep: Sweep::default(),
            trial: Trial::new(capacity),
        }
    }

    /// Bytes of all units.
    pub fn bytes(&self) -> u64 {
        self.content.shelves.bytes()
    }

    /// The rules that are in force.
    pub fn rules(&self) -> Rules {
        self.trial.better()
    }
}

impl Policy for Auto {
    fn read(&mut self, key: u64, bytes: u32) -> bool {
        self.trial.read(key, bytes);
        match self.trial.better() {
            Rules::Hold => {
                self.sweep.read(&mut self.content, key);
                hold::hit(&mut self.content, key) || hold::admits(&mut self.content, key, bytes)
            }
            Rules::S3Fifo => s3_fifo::hit(&mut self.content, key) || s3_fifo::admits(&self.content, bytes),
        }
    }

    fn inserted(&mut self, key: u64, bytes: u32) {
        let is_known = self.content.shelves.find(key).is_some();
        match self.trial.better() {
            Rules::Hold => hold::insert(&mut self.content, key, bytes),
            Rules::S3Fifo => s3_fifo::insert(&mut self.content, key, bytes),
        }
        // What is here and not in the trial, because others took what is there, must not push out what the trial holds.
        if !is_known {
            self.trial.inserted(key, bytes);
        }
    }

    fn removed(&mut self, key: u64) {
        self.content.removed(key);
    }

    fn victim(&mut self) -> Option<u64> {
        match self.trial.better() {
            Rules::Hold => hold::victim(&mut self.content),
            Rules::S3Fifo => s3_fifo::victim(&mut self.content),
        }
    }

    fn resize(&mut self, capacity: u64) {
        self.content.capacity = capacity;
        self.trial.resize(capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_take_away_does_not_end_holding() {
        let mut auto = Auto::new(3000);
        let mut hits = 0;
        for epoch in 0..20 {
            hits = 0;
            // Another Dataset takes a third, by turns.
            auto.resize(if epoch % 2 == 0 { 3000 } else { 2000 });
            while auto.bytes() > auto.content.capacity {
                let victim = auto.victim().unwrap();
                auto.removed(victim);
            }
            for key in 0..5000 {
                hits += u32::from(auto.content.shelves.find(key).is_some());
                // As the cache tells of a hit: read, and stored all the same.
                if auto.read(key, 1) {
                    auto.inserted(key, 1);
                }
            }
        }
        assert_eq!((auto.rules(), hits), (Rules::Hold, 2000));
    }
}
