//! Answers the kernel's reads of cold blocks.
//!
//! ```text
//! kernel: EROFS ──read──► FUSE ──/dev/fuse──► session ──► SpaceReader: the engine in this process, or cache nodes
//! ```
//!
//! The session shows the pieces of one space as files, over which the kernel mounts the revision's image; where the kernel
//! has no EROFS, it shows the tree of the image itself. It holds no state that a successor could not derive from the
//! revision, so a process can be replaced while files are read.

mod abi;
pub mod files;
pub mod keeper;
pub mod limits;
mod metrics;
mod neighbours;
mod notes;
pub mod reader;
pub mod remote;
mod session;
mod sessions;
mod telling;

pub use metrics::Metrics;
#[cfg(feature = "test-support")]
pub use neighbours::NearFiles;
pub use neighbours::Neighbours;
pub use notes::Notes;
pub use reader::{ReadFailure, SpaceReader, TryRead};
pub use session::{Session, Start};
pub use sessions::{Left, Sessions};
