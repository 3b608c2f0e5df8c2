//! `penstock` without Kubernetes: engine, mounter and kernel mounts in one process, for a laptop, a build machine or a
//! bare-metal node; and a look into the parts of a cluster, which are asked where they answer. A library, so that the bench
//! measures what people run.

pub mod args;
pub mod cache_folder;
pub mod commands;
pub mod credentials;
pub mod dataset_file;
pub mod documents;
pub mod explained;
#[cfg(test)]
mod fake_cache_node;
pub mod kerberos;
pub mod limits;
pub mod listing;
pub mod local;
pub mod out;
pub mod plugin;
pub mod pool;
pub mod rules;
pub mod served;
pub mod status;
pub mod target;
pub mod text;
pub mod users;
