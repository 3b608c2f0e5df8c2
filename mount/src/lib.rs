//! What needs mount(2): FUSE connections, EROFS images over them, binds.
//!
//! Used by the csi container and by `penstock mount`; the mounter uses what needs no privilege. Must not know Kubernetes,
//! revisions or the bulk protocol.

pub mod bind;
pub mod erofs;
mod error;
pub mod forms;
pub mod fuse;
pub mod fusermount;
pub mod ledger;
pub mod loop_device;
pub mod mapped;
pub mod memory;
pub mod read_ahead;
pub mod table;

pub use error::MountError;
