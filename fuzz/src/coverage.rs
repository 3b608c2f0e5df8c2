//! Where the code under test has been, and which numbers it compared: the other end of what `fuzz/rustc` compiles into it.
//! <https://clang.llvm.org/docs/SanitizerCoverage.html>
#![allow(
    unsafe_code,
    reason = "compiled code calls these by name and hands over its counters as pointers"
)]

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Comparisons that are remembered, the newest.
const COMPARED: usize = 256;

static START: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static WORDS: AtomicUsize = AtomicUsize::new(0);
static PAIRS: [[AtomicU64; 2]; COMPARED] = [const { [const { AtomicU64::new(0) }; 2] }; COMPARED];
static PAIRS_SEEN: AtomicUsize = AtomicUsize::new(0);
static IS_NOTING: AtomicBool = AtomicBool::new(false);

/// Takes the counters of all places, eight in a word, with their number, and begins to count anew; none when the code was compiled
/// without.
pub fn take_counts(mut each: impl FnMut(usize, [u8; 8])) {
    for (at, word) in words().iter().enumerate() {
        if word.load(Ordering::Relaxed) != 0 {
            each(at * 8, word.swap(0, Ordering::Relaxed).to_ne_bytes());
        }
    }
}

/// How many places there are.
pub fn places() -> usize {
    words().len() * 8
}

/// Whether comparisons are noted from now on, which takes most of the time of some targets.
pub fn note_compared(is_noting: bool) {
    IS_NOTING.store(is_noting, Ordering::Relaxed);
}

/// Two numbers that were compared lately and differ; `which` is any number.
pub fn compared(which: u32) -> Option<[u64; 2]> {
    let count = PAIRS_SEEN.load(Ordering::Relaxed).min(COMPARED);
    let [one, other] = PAIRS.get((which as usize).checked_rem(count)?)?;
    Some([one.load(Ordering::Relaxed), other.load(Ordering::Relaxed)])
}

fn words() -> &'static [AtomicU64] {
    let start = START.load(Ordering::Relaxed);
    if start.is_null() {
        return &[];
    }
    // SAFETY: the counters of a static binary lie there for ever, and whoever counts meanwhile does so by single bytes, of which
    // one may get lost.
    unsafe { std::slice::from_raw_parts(start, WORDS.load(Ordering::Relaxed)) }
}

fn note(one: u64, other: u64) {
    if IS_NOTING.load(Ordering::Relaxed) && one != other {
        // Threads may overwrite each other's, which does no harm.
        let seen = PAIRS_SEEN.load(Ordering::Relaxed);
        PAIRS_SEEN.store(seen.wrapping_add(1), Ordering::Relaxed);
        let [first, second] = &PAIRS[seen % COMPARED];
        first.store(one, Ordering::Relaxed);
        second.store(other, Ordering::Relaxed);
    }
}

/// Each object file says so at the start; all of them mean the same section.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let aligned = start.addr().next_multiple_of(8);
    WORDS.store(stop.addr().saturating_sub(aligned) / 8, Ordering::Relaxed);
    START.store(start.with_addr(aligned).cast(), Ordering::Relaxed);
}

macro_rules! compares {
    ($($name:ident: $number:ty),*) => {
        $(
            // SAFETY: nothing else has this name.
            #[unsafe(no_mangle)]
            extern "C" fn $name(one: $number, other: $number) {
                note(one.into(), other.into());
            }
        )*
    };
}

compares!(
    __sanitizer_cov_trace_cmp1: u8,
    __sanitizer_cov_trace_cmp2: u16,
    __sanitizer_cov_trace_cmp4: u32,
    __sanitizer_cov_trace_cmp8: u64,
    __sanitizer_cov_trace_const_cmp1: u8,
    __sanitizer_cov_trace_const_cmp2: u16,
    __sanitizer_cov_trace_const_cmp4: u32,
    __sanitizer_cov_trace_const_cmp8: u64
);

/// `cases` are how many there are, their bits, and the cases.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_switch(value: u64, cases: *const u64) {
    // SAFETY: the compiler put that many there, behind the two.
    let cases = unsafe { std::slice::from_raw_parts(cases.add(2), *cases as usize) };
    if let Some(case) = cases.get(PAIRS_SEEN.load(Ordering::Relaxed) % cases.len().max(1)) {
        note(value, *case);
    }
}
