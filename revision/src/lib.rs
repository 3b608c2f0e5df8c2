//! A revision: one consistent picture of all sources of a Dataset, and the space in which its objects live.
//!
//! ```text
//! listings ──► names, sorted ──► space (addresses) ──► EROFS image ─┐
//!                                     ▲                             ├─► package, its BLAKE3 digest is the revision's id
//!               parent package ───────┘          extents table ─────┘
//! ```
//!
//! Each arrow is a list that is written once and read from the front, in memory while it is short and else in a file of the
//! folder that was handed in ([`Scratch`]); so a build takes little more memory than its package.
//!
//! Pure: it must not know network, kernel or clock, and of a disk that folder only. The same input gives the same bytes.

mod arrival;
pub mod build;
mod carried;
mod cases;
mod contents;
mod entry;
pub mod erofs;
mod extents;
pub mod gathering;
pub mod limits;
mod names;
pub mod object;
pub mod package;
mod scratch;
mod small;
mod sorter;
mod space;
pub mod tree;
mod unversioned;

pub use arrival::Arrival;
pub use build::{BuildError, BuildOptions, Outcome, build};
pub use gathering::{Gathering, SourceNumber};
pub use object::{Extent, Listed, ObjectVersion, SourceListing, Version};
pub use package::{Package, PackageError, Summary};
pub use scratch::Scratch;
pub use small::image_of_one_file;
pub use unversioned::Unversioned;
