//! A few small revisions, for targets to begin with.

use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, Outcome, Package, SourceListing, Version, build};

/// The space of all of them.
pub const SPACE: SpaceId = SpaceId([5; 16]);

/// With few and with many files, with empty ones, large ones and folders, and with a parent.
pub fn some() -> Vec<Package> {
    let few = built(None, &[("a", 5), ("b/c", 0), ("b/d/e", 70 << 20)]);
    let names: Vec<String> = (0..300).map(|number| format!("f{:x}/{number}", number % 3)).collect();
    let many: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 4097)).collect();
    let grown = built(
        Some(&few),
        &[("a", 6), ("b/c", 0), ("b/d/e", 70 << 20), ("huge", 9 << 40)],
    );
    vec![built(None, &[("a", 1)]), built(None, &many), few, grown]
}

/// The revision of these objects.
pub fn built(parent: Option<&Package>, objects: &[(&str, u64)]) -> Package {
    let listed = |(key, bytes): &(&str, u64)| Listed {
        key: (*key).to_owned(),
        bytes: *bytes,
        modified_unix_nanos: 1_700_000_000_123_456_789,
        version: Version::ETag(format!("{:x}-{bytes}", key.len())),
    };
    let listing = SourceListing {
        identity: "fake://".to_owned(),
        path: String::new(),
        objects: objects.iter().map(listed).collect(),
    };
    match build(SPACE, parent, &[listing], &BuildOptions::default()) {
        Ok(Outcome::New(package)) => package,
        other => panic!("a revision is built of {objects:?}: {other:?}"),
    }
}
