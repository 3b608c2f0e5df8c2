//! The smallest image: to find out what a kernel does with images.

use penstock_protocol::ids::SpaceId;

use crate::{BuildOptions, Listed, Outcome, SourceListing, Version, build};

/// The image of a tree with one file of so many bytes, which begin the first device.
///
/// # Errors
/// For a name that no file can have.
pub fn image_of_one_file(name: &str, bytes: u64) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let object = Listed {
        key: name.to_owned(),
        bytes,
        modified_unix_nanos: 0,
        version: Version::ETag("1".to_owned()),
    };
    let listing = SourceListing {
        identity: "small".to_owned(),
        path: String::new(),
        objects: vec![object],
    };
    match build(SpaceId([0; 16]), None, &[listing], &BuildOptions::default())? {
        Outcome::New(package) => Ok(package.image()?),
        Outcome::Unchanged => Err("nothing is new".into()),
    }
}
