//! The csi container's services over fake and real mounts. Needs root for the real ones.

mod controller;
#[path = "../../../cache-client/tests/client/fake_node.rs"]
mod fake_node;
mod keeper;
mod leaks;
mod machine;
mod mounter;
mod processes;
mod publishing;
mod registration;
mod sanity;
mod scene;
mod tiers;
mod told;
