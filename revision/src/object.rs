//! What an origin lists, and what an address of a space stands for.

/// The id of what has no version but may be read all the same, or the first word of it: its length is all that is compared.
pub const UNVERSIONED: &str = "unversioned";

/// What proves that bytes belong to the version of an object that was listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// The origin gives nothing that a read could be checked against.
    None,
    /// An HTTP entity tag without its quotes (RFC 9110 §8.8.3).
    ETag(String),
    /// What the origin calls this version among those of the object, and under which it gives this one or none: a generation. Or
    /// what its client makes of all that is known of it; [`UNVERSIONED`] if that is too little.
    Id(String),
    /// When it changed last, nanoseconds since 1970, of an origin that says nothing better. With the length it proves a version as
    /// far as the origin's clock tells two changes apart.
    Modified(i64),
}

impl Version {
    /// Whether a change shows only if the length changes too.
    pub fn is_unversioned(&self) -> bool {
        match self {
            Self::Id(id) => id.split(' ').next() == Some(UNVERSIONED),
            Self::None | Self::ETag(_) | Self::Modified(_) => false,
        }
    }
}

/// One object as an origin lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Key relative to the source's prefix.
    pub key: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_unix_nanos: i64,
    /// What a read can be checked against.
    pub version: Version,
}

/// Everything that one source holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceListing {
    /// What names the source across revisions, for example `s3://bucket/prefix/`. Objects keep their addresses only as
    /// long as it stays the same.
    pub identity: String,
    /// Where the source stands in the tree; "" is the root.
    pub path: String,
    /// In any order.
    pub objects: Vec<Listed>,
}

/// One version of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectVersion {
    /// Index into [`crate::Package::sources`].
    pub source: u16,
    /// Key relative to the source's prefix.
    pub key: String,
    /// What a read is checked against.
    pub version: Version,
}

/// Where an object version lies in the space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Address of the first byte, a multiple of the block.
    pub address: u64,
    /// Length of the object in bytes, not rounded; never 0.
    pub bytes: u64,
    /// Whose bytes they are.
    pub object: ObjectVersion,
}
