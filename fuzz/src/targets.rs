//! The targets.

mod bulk;
mod frames;
mod images;
mod ledgers;
mod letters;
mod listings;
mod packages;
mod pages;
mod requests;
mod revisions;
mod side_files;

use crate::Target;

/// All of them.
pub const TARGETS: [Target; 10] = [
    frames::TARGET,
    bulk::TARGET,
    side_files::TARGET,
    packages::TARGET,
    images::TARGET,
    listings::TARGET,
    pages::TARGET,
    letters::TARGET,
    requests::TARGET,
    ledgers::TARGET,
];
