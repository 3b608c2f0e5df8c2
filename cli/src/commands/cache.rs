//! `penstock cache`: one file a command.

pub mod evict;
pub mod files;
pub mod ls;
pub mod stat;
pub mod verify;
