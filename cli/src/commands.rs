//! One file a command: it puts the parts together and prints.

pub mod cache;
pub mod cat;
pub mod check;
pub mod doctor;
pub mod explain;
pub mod ls;
pub mod mount;
pub mod mounts;
pub mod stat;
pub mod status;
