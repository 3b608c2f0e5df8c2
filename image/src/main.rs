//! Writes OCI image tars
fn main() {}
