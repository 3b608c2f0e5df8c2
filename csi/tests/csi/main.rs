//! The csi container's services over fake and real mounts. Needs root for the real ones.

mod controller;
mod keeper;
mod mounter;
mod publishing;
mod registration;
mod sanity;
mod scene;
mod tiers;
