//! `penstock` without Kubernetes: engine, mounter and kernel mounts in one process, for a laptop, a build machine or a
//! bare-metal node. A library, so that the bench measures what people run.

pub mod args;
pub mod cache_folder;
pub mod credentials;
pub mod documents;
pub mod limits;
pub mod listing;
pub mod text;
pub mod users;
