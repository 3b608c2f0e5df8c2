//! Makes inputs from inputs.

use rand::Rng;
use rand::rngs::StdRng;

/// Numbers at which lengths, counts and signs go wrong.
const AWKWARD: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 43,
    u64::MAX >> 1,
    u64::MAX,
];

/// Longest run that one step moves, in most of them.
const RUN: usize = 64;

/// `of` after some steps, at most `most` bytes. `other` is another input; `compared` gives two numbers that were compared.
pub fn mutated(
    random: &mut StdRng,
    of: &[u8],
    other: &[u8],
    most: usize,
    compared: impl Fn(u32) -> Option<[u64; 2]>,
) -> Vec<u8> {
    let mut input = of.to_vec();
    for _ in 0..1 << random.random_range(0..5) {
        step(random, &mut input, other, &compared);
    }
    input.truncate(most);
    input
}

fn step(random: &mut StdRng, input: &mut Vec<u8>, other: &[u8], compared: impl Fn(u32) -> Option<[u64; 2]>) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..12) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.random();
            }
        }
        2 => {
            let number = AWKWARD[random.random_range(0..AWKWARD.len())];
            write_number(random, input, at, |_| number);
        }
        3 => {
            let by = random.random_range(0..32u64).wrapping_sub(16);
            write_number(random, input, at, |number| number.wrapping_add(by));
        }
        4 | 5 => {
            if let Some(pair) = compared(random.random()) {
                replace_compared(random, input, pair);
            }
        }
        6 => {
            let run = run(random, input.len());
            input.drain(run);
        }
        7 => {
            let bytes = input[run(random, input.len())].to_vec();
            input.splice(at..at, bytes);
        }
        8 => {
            let bytes = input[run(random, input.len())].to_vec();
            overwrite(input, at, &bytes);
        }
        9 => {
            let bytes = &other[run(random, other.len())];
            input.splice(at..at, bytes.iter().copied());
        }
        10 => overwrite(input, at, &other[run(random, other.len())]),
        _ => {
            input.truncate(at);
            let from = random.random_range(0..=other.len());
            input.extend_from_slice(&other[from..]);
        }
    }
}

/// A run of bytes, mostly a short one.
fn run(random: &mut StdRng, length: usize) -> std::ops::Range<usize> {
    let most = if random.random_ratio(1, 8) { length } else { RUN };
    let start = random.random_range(0..=length);
    start..start + random.random_range(0..=most.min(length - start))
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in input[at..].iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// Changes the number of 1, 2, 4 or 8 bytes at a place, in either order of bytes.
fn write_number(random: &mut StdRng, input: &mut [u8], at: usize, change: impl Fn(u64) -> u64) {
    let (width, big) = (1 << random.random_range(0..4), random.random_ratio(1, 4));
    let Some(place) = input.get_mut(at..at + width) else {
        return;
    };
    if big {
        place.reverse();
    }
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(place);
    place.copy_from_slice(&change(u64::from_le_bytes(bytes)).to_le_bytes()[..width]);
    if big {
        place.reverse();
    }
}

/// Where one of the numbers lies in the input there lies the other then: what was compared comes from somewhere.
fn replace_compared(random: &mut StdRng, input: &mut [u8], pair: [u64; 2]) {
    let [from, to] = if random.random() { pair } else { [pair[1], pair[0]] };
    // The shortest width that holds both.
    let narrow = [1, 2, 4, 8]
        .into_iter()
        .find(|width| *width == 8 || (from | to) >> (width * 8) == 0);
    let width = narrow.unwrap_or(8);
    let (mut from, mut to) = (from.to_le_bytes(), to.to_le_bytes());
    if random.random_ratio(1, 4) {
        from[..width].reverse();
        to[..width].reverse();
    }
    let places: Vec<usize> = (0..(input.len() + 1).saturating_sub(width))
        .filter(|at| input[*at..at + width] == from[..width])
        .collect();
    match places.len() {
        0 => {
            let at = random.random_range(0..=input.len());
            overwrite(input, at, &to[..width]);
        }
        count => overwrite(input, places[random.random_range(0..count)], &to[..width]),
    }
}
