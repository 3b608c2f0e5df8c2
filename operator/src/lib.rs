//! The operator: turns Datasets and CacheRuntimes into cache nodes, revisions and volumes.
//!
//! ```text
//! watch ─► reconcile: observe ─► validate ─► desired ─► apply ─► status        (one file per kind, a folder for its steps)
//!                         │                                ▲
//!                         ├─► links: one gRPC stream per cache node: configuration out, reports in
//!                         └─► builds: asks a cache node for the next revision; `commit` writes it by optimistic lock
//! ```
//!
//! The only writer to the API server is [`apply`] (and [`commit`] for `status.revision`). Bytes never pass through here.

pub mod announced;
pub mod apply;
pub mod builds;
pub mod cache_runtime;
mod caching;
pub mod children;
pub mod cluster;
pub mod commit;
pub mod conditions;
pub mod context;
pub mod dataset;
pub mod error;
#[cfg(test)]
mod fake_api;
pub mod host_paths;
pub mod lease;
pub mod limits;
pub mod links;
pub mod metrics;
pub mod names;
pub mod notifications;
pub mod others;
pub mod sources;
pub mod terms;
pub mod uninstall;
pub mod unusable;
pub mod uses;
pub mod volumes;
