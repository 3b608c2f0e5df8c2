//! Answers the kernel's reads of cold blocks.
//!
//! ```text
//! kernel: EROFS ──read──► FUSE ──/dev/fuse──► session ──► SpaceReader: the engine in this process, or cache nodes
//! ```
//!
//! The session serves nothing but the pieces of one space as files; names never pass through it. It holds no state that a
//! successor could not derive from the revision, so a process can be replaced while files are read.

mod abi;
pub mod keeper;
pub mod limits;
mod metrics;
pub mod reader;
pub mod remote;
mod session;
mod sessions;

pub use metrics::Metrics;
pub use reader::{ReadFailure, SpaceReader, TryRead};
pub use session::{Session, Start};
pub use sessions::{Left, Sessions};
