//! Whom the unprivileged processes of a node run as. They are two, so that the mounter, which is handed the files of a cache
//! node for reading, cannot open them again for writing.

/// User and group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// Of the mounter.
    pub mounter: u32,
    /// Of cache nodes.
    pub cache_node: u32,
}
