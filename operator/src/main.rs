//! The controllers of Dataset and CacheRuntime
fn main() {}
