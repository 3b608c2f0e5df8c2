//! The targets.

mod bulk;
mod cloud_listings;
mod frames;
mod images;
mod kerberos;
mod ledgers;
mod letters;
mod listings;
mod manifests;
mod notifications;
mod packages;
mod pages;
mod requests;
mod revisions;
mod side_files;

use crate::Target;

/// All of them.
pub const TARGETS: [Target; 16] = [
    frames::TARGET,
    bulk::TARGET,
    side_files::TARGET,
    packages::TARGET,
    images::TARGET,
    listings::TARGET,
    cloud_listings::GCS,
    cloud_listings::AZURE,
    cloud_listings::HUB,
    notifications::TARGET,
    pages::TARGET,
    manifests::TARGET,
    letters::TARGET,
    requests::TARGET,
    ledgers::TARGET,
    kerberos::TARGET,
];
