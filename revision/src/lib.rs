//! A revision: one consistent picture of all sources of a Dataset, and the space in which its objects live.
//!
//! ```text
//! listings ──► tree (names) ──► space (addresses) ──► EROFS image ─┐
//!                                    ▲                             ├─► package, its BLAKE3 digest is the revision's id
//!              parent package ───────┘          extents table ─────┘
//! ```
//!
//! Pure: it must not know network, disk, kernel or clock. The same input gives the same bytes.

pub mod build;
pub mod erofs;
mod extents;
pub mod limits;
pub mod object;
pub mod package;
mod small;
mod space;
pub mod tree;

pub use build::{BuildError, BuildOptions, Outcome, build};
pub use object::{Extent, Listed, ObjectVersion, SourceListing, Version};
pub use package::{Package, PackageError, Summary};
pub use small::image_of_one_file;
