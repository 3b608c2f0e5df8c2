//! Keeps a process running, and its descriptors open while it is not.
//!
//! PID 1 of the csi and of the mounter container is `penstock-supervisor`; what does the work is its child. A container
//! that ends is started again by the kubelet, after a pause that doubles each time, and has lost its descriptors. A worker
//! that ends is started again at once and gets them back:
//!
//! ```text
//! started ─► is given every kept entry, then All ─► says Keep and Forget as it works ─► ends
//!    ▲                                                                                   │
//!    └──────────────── at once, or after a pause when it did not live long ◄─────────────┘
//! ```
//!
//! The two speak by packets over the worker's standard input, a Unix SEQPACKET socket. What a worker sent before it died
//! lies in that socket, descriptors and all, and is read to its end before the next one starts. Must not know what the
//! descriptors are.

mod kept;
pub mod letter;
pub mod restart;
mod store;

pub use kept::Kept;
pub use letter::{Entry, EntryId};
pub use store::Store;
