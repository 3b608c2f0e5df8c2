//! Tries one target: inputs that come to places where none before came are kept and changed further.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_fuzz::{Target, Trying};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{coverage, memory, mutation};

/// Processor time that one input may take, with what it has others do.
const INPUT_MAX: Duration = Duration::from_secs(2);
/// Exit code of a process in which an input panicked.
const PANICKED: i32 = 101;

/// What came of it.
pub struct Explored {
    /// Inputs that were tried.
    pub inputs: u64,
    /// Those that came to new places, or came more often to them.
    pub kept: usize,
    /// Places where they came.
    pub places: usize,
}

/// Tries a target for some time, from what it begins with and from what was kept of earlier faults. The input at hand is in the
/// file `note`, behind its length, whatever becomes of this process.
pub fn explore(target: &Target, seed: u64, time: Duration, note: &Path) -> io::Result<Explored> {
    let Trying { samples, mut read } = (target.begin)();
    let mut corpus = [samples, penstock_fuzz::kept(target.name)?].concat();
    let mut subject = Subject::new(target, &mut read, note)?;
    let mut seen = Seen::new();
    for input in &corpus {
        subject.read(input)?;
        seen.take();
    }
    if seen.places() == 0 {
        return Err(io::Error::other(
            "the code under test counts nothing: it is built by `fuzz/run`",
        ));
    }
    let mut random = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    while begun.elapsed() < time {
        // The newest ones more often: they are where nobody was before.
        let newest = random
            .random_range(0..corpus.len())
            .max(random.random_range(0..corpus.len()));
        let other = random.random_range(0..corpus.len());
        for number in 0..32 {
            coverage::note_compared(number == 0);
            let (of, other) = (&corpus[newest], &corpus[other]);
            let input = mutation::mutated(&mut random, of, other, target.bytes_max, coverage::compared);
            subject.read(&input)?;
            if seen.take() {
                corpus.push(input);
            }
        }
    }
    Ok(Explored {
        inputs: subject.number.load(Ordering::Relaxed),
        kept: corpus.len(),
        places: seen.places(),
    })
}

/// Tries one input.
pub fn repeat(target: &Target, input: &[u8], note: &Path) -> io::Result<()> {
    let Trying { samples: _, mut read } = (target.begin)();
    Subject::new(target, &mut read, note)?.read(input)
}

/// The target, watched.
struct Subject<'a> {
    read: &'a mut dyn FnMut(&[u8]),
    memory_max: usize,
    note: File,
    number: Arc<AtomicU64>,
}

impl<'a> Subject<'a> {
    fn new(target: &Target, read: &'a mut dyn FnMut(&[u8]), note: &Path) -> io::Result<Self> {
        let by_default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            memory::limit(None);
            by_default(panic);
            std::process::exit(PANICKED);
        }));
        let number = Arc::new(AtomicU64::new(0));
        let watched = number.clone();
        std::thread::Builder::new().spawn(move || watch(&watched))?;
        Ok(Self {
            read,
            memory_max: target.memory_max,
            note: File::create(note)?,
            number,
        })
    }

    fn read(&mut self, input: &[u8]) -> io::Result<()> {
        let length = (input.len() as u32).to_le_bytes();
        self.note.write_all_at(&[&length[..], input].concat(), 0)?;
        self.number.fetch_add(1, Ordering::Relaxed);
        memory::limit(Some(self.memory_max));
        (self.read)(input);
        memory::limit(None);
        Ok(())
    }
}

/// Ends the process when one input takes too long.
fn watch(number: &AtomicU64) {
    let (mut last, mut since) = (0, Duration::ZERO);
    loop {
        std::thread::sleep(INPUT_MAX / 8);
        let (now, used) = (number.load(Ordering::Relaxed), processor_time());
        if now != last {
            (last, since) = (now, used);
        } else if used - since > INPUT_MAX {
            eprintln!("an input took more than {INPUT_MAX:?} of processor time");
            std::process::exit(PANICKED);
        }
    }
}

/// Of the first thread, which is where inputs are read.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// For each place, how often inputs have come there: a bit for 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, and more.
struct Seen(Vec<u8>);

impl Seen {
    fn new() -> Self {
        Self(vec![0; coverage::places()])
    }

    /// Takes over the counts of an input; whether there was something new.
    fn take(&mut self) -> bool {
        let mut is_new = false;
        coverage::take_counts(|at, counts| {
            for (seen, count) in self.0[at..].iter_mut().zip(counts) {
                let bit = match count {
                    0 => 0,
                    1..=3 => 1 << (count - 1),
                    4..=7 => 1 << 3,
                    8..=15 => 1 << 4,
                    16..=31 => 1 << 5,
                    32..=127 => 1 << 6,
                    128..=255 => 1 << 7,
                };
                is_new |= *seen | bit != *seen;
                *seen |= bit;
            }
        });
        is_new
    }

    fn places(&self) -> usize {
        self.0.iter().filter(|seen| **seen != 0).count()
    }
}
