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
        match self.trial.better() {
            Rules::Hold => hold::insert(&mut self.content, key, bytes),
            Rules::S3Fifo => s3_fifo::insert(&mut self.content, key, bytes),
        }
        self.trial.inserted(key, bytes);
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
