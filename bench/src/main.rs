//! make bench: ratios against references in the same run
fn main() {}
