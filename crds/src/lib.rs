//! The API of Penstock: `Dataset` and `CacheRuntime` of `penstock.io/v1alpha1`.
//!
//! Types, bounds and rules only; no behaviour and no client. The YAML in `charts/penstock/templates/crds` and the page in
//! `docs/reference` are generated from here by `make generate`; tests keep them fresh. Only fields that work are here.

mod cache_runtime;
mod caching;
pub mod chart;
mod dataset;
mod kerberos;
mod origins;
mod quantity;
pub mod reference;
mod source;
mod source_limits;
mod workload_identity;

pub use cache_runtime::{CacheRuntime, CacheRuntimeSpec, CacheRuntimeStatus, Medium, Tier, TierVolume};
pub use caching::{CacheRule, Caching, Eviction, Quota};
pub use dataset::{
    Dataset, DatasetSpec, DatasetStatus, FormerSource, Notifications, Ownership, Refresh, Revision, Unversioned,
};
pub use kerberos::{Kerberos, KerberosRealm};
pub use origins::Origins;
pub use quantity::bytes_of;
pub use source::{
    AddressingStyle, AzureSource, ClaimSource, DatasetSource, FolderSource, GcsSource, HdfsSource, HttpSource,
    HuggingFaceSource, RepositoryKind, S3Source, SecretRef, Source,
};
pub use source_limits::SourceLimits;
pub use workload_identity::WorkloadIdentity;

/// Conditions of both kinds; kstatus reads the first three.
pub mod condition {
    /// Everything that was asked for is there.
    pub const READY: &str = "Ready";
    /// Something is being done, or waited for.
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing will happen before somebody changes the object.
    pub const STALLED: &str = "Stalled";
    /// Every source was listed the last time.
    pub const SOURCE_REACHABLE: &str = "SourceReachable";
    /// A cache node of the CacheRuntime serves.
    pub const RUNTIME_READY: &str = "RuntimeReady";
    /// An object changed at the origin before it was cached.
    pub const SOURCE_DRIFTED: &str = "SourceDrifted";
    /// An origin lists objects that it does not give away: archived, encrypted with a key of their own, not allowed.
    pub const SOURCE_UNREADABLE: &str = "SourceUnreadable";
    /// Nothing shows that some files change, which their source allows.
    pub const SOURCE_UNVERSIONED: &str = "SourceUnversioned";
    /// Notifications are asked for, and the operator takes none.
    pub const NOTIFICATIONS_UNHEARD: &str = "NotificationsUnheard";
    /// Something of how a Dataset is to be cached is not done.
    pub const CACHING_REFUSED: &str = "CachingRefused";
    /// Pods mount as many older revisions as are kept, so that none is made.
    pub const REVISIONS_IN_USE: &str = "RevisionsInUse";
    /// What a deletion waits for.
    pub const DELETION_BLOCKED: &str = "DeletionBlocked";
    /// The disk of a tier is full or broken.
    pub const CACHE_DEGRADED: &str = "CacheDegraded";
}

/// Name of the driver of the volumes.
pub const CSI_DRIVER: &str = "csi.penstock.io";
/// Annotation of a Dataset: any new value looks for changes at once.
pub const REFRESH_ANNOTATION: &str = "penstock.io/refresh";
/// Port of the bulk protocol on a cache node.
pub const BULK_PORT: u16 = 7070;
/// Port of the control protocol on a cache node.
pub const CONTROL_PORT: u16 = 7071;
/// Port of `/livez`, `/readyz` and `/metrics` on a cache node.
pub const HEALTH_PORT: u16 = 7072;
/// Port on which the reader of a claim serves cache nodes.
pub const READER_PORT: u16 = 7074;
/// Port of `penstock cache` and `penstock explain` on a cache node. Not that of the operator, who may do more.
pub const INSPECTION_PORT: u16 = 7073;
