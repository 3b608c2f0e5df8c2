//! penstock: mount, ls, stat, cat, status
fn main() {}
