//! CSI services, mount(2) and the keeper of FUSE descriptors
fn main() {}
