//! The privileged part of a node: CSI services, mount(2), and the side that keeps FUSE descriptors.
//!
//! ```text
//! kubelet ──gRPC──► identity, node ──► request ──► volume_lock ──► revisions ──► mounts (the kernel)
//!            registration                             │                │
//!                                        kubernetes ◄─┘ tier           └──► keeper ──SEQPACKET──► mounter
//! ```
//!
//! Only [`kubernetes`] talks to the API server; only [`mounts`] and [`namespace`] change the kernel's mounts. Of two
//! processes one at a time works on a node: [`succession`]. Nothing here opens a connection to a cache node or an origin:
//! bytes come through the unprivileged mounter and are verified.

pub mod authority;
pub mod cache_nodes;
pub mod doctor;
pub mod error;
pub mod folders;
pub mod identity;
pub mod images;
pub mod keeper;
pub mod kubernetes;
pub mod leaving;
pub mod limits;
pub mod metrics;
pub mod mounts;
pub mod namespace;
pub mod neighbours;
pub mod node;
pub mod proto;
pub mod registration;
pub mod request;
pub mod revisions;
pub mod socket;
pub mod succession;
pub mod tier;
pub mod told;
pub mod users;
pub mod volume_lock;

/// Name of the driver, in the API and towards the kubelet. Never changes.
pub use penstock_crds::CSI_DRIVER as DRIVER;
