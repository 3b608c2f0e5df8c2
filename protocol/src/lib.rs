//! What travels between the parts of Penstock: typed ids, the geometry of a space, the ring, the frames of the bulk
//! protocol and (feature `control`) the gRPC control messages.
//!
//! This crate must not know sockets, disks, Kubernetes or origins. Everything here is pure and versioned from the first
//! byte, because two releases of Penstock meet on one wire during every upgrade.

pub mod checksum;
#[cfg(feature = "control")]
pub mod connection;
#[cfg(feature = "control")]
pub mod control;
pub mod frame;
pub mod geometry;
pub mod ids;
#[cfg(feature = "control")]
pub mod level;
pub mod ring;
pub mod side;
