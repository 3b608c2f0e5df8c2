//! Ledgers of FUSE connections: memory that other processes write.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use penstock_mount::ledger::{self, BYTES, LANES, Ledger, SEATS};

use crate::numbers::Numbers;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "ledgers",
    bytes_max: 1024,
    memory_max: 16 << 20,
    begin,
};

fn begin() -> Trying {
    let memory = ledger::create().expect("there is memory");
    let ledger = Ledger::open(memory.as_fd()).expect("it opens");
    let memory = File::from(memory);
    let mut request = [0; ledger::READ_BYTES];
    request[..4].copy_from_slice(&(ledger::READ_BYTES as u32).to_ne_bytes());
    request[8..16].copy_from_slice(&100u64.to_ne_bytes());
    Trying {
        samples: vec![sample(&ledger, &memory, &request)],
        read: Box::new(move |input| {
            for (place, word) in words(input) {
                memory.write_all_at(&word, place).expect("memory is written");
            }
            read(&ledger, &memory);
            for (place, _) in words(input) {
                memory.write_all_at(&[0; 8], place).expect("memory is written");
            }
        }),
    }
}

/// The words that a seat with a few requests has, as [`words`] gives them.
fn sample(ledger: &Ledger, memory: &File, request: &[u8; ledger::READ_BYTES]) -> Vec<u8> {
    let seat = ledger.seat(2);
    seat.set_used(true);
    for (record, queue) in [(0, 0), (5, 2), (63, 3)] {
        seat.note(record, queue, request);
    }
    let mut bytes = vec![0; BYTES];
    memory.read_exact_at(&mut bytes, 0).expect("memory is read");
    memory.write_all_at(&vec![0; BYTES], 0).expect("memory is written");
    let words = bytes.chunks_exact(8).enumerate().filter(|(_, word)| *word != [0; 8]);
    words
        .flat_map(|(at, word)| [&(at as u32).to_le_bytes(), word].concat())
        .collect()
}

/// Where in the memory which word lies.
fn words(input: &[u8]) -> impl Iterator<Item = (u64, [u8; 8])> {
    let words = input.chunks(12).map(Numbers);
    words.map(|mut word| (u64::from(word.u32()) % (BYTES as u64 / 8) * 8, word.array()))
}

fn read(ledger: &Ledger, memory: &File) {
    let mut bytes = vec![0; BYTES];
    memory.read_exact_at(&mut bytes, 0).expect("memory is read");
    let numbers: Vec<u64> = ledger::numbers(&bytes).collect();
    for seat in 0..SEATS {
        let seat = ledger.seat(seat);
        let _ = seat.is_used();
        for found in seat.found() {
            assert!(found.queue < LANES && found.request.len() <= 16 << 10);
            let number = found.request.get(8..16).map(|number| Numbers(number).u64());
            // INTERRUPT has the number of another request, which is odd.
            assert!(number.is_none_or(|number| number & 1 == 1 || numbers.contains(&number)));
            seat.clear(found.place);
        }
        assert!(seat.found().is_empty(), "what was cleared is still there");
    }
    for cut in [0, 7, 4096, BYTES / 2] {
        let some = ledger::numbers(&bytes[..cut]);
        assert!(some.zip(&numbers).all(|(one, other)| one == *other));
    }
}
