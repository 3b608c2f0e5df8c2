//! The cache engine and its server
fn main() {}
