//! The FUSE session and the mounter's process against the kernel of this machine. Needs root and Linux 6.12 or newer.

#[path = "../../../cache-client/tests/client/fake_node.rs"]
mod fake_node;
mod keeper;
mod process;
mod readers;
mod scene;
mod session;
mod takeover;
