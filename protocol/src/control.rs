//! The control messages: operator → cache node by gRPC, and the letters between the csi container and the mounter.
//!
//! Generated from `proto/` at build time; the `.proto` files are the reference.

/// Bytes of a message of the control protocol, at most: 1,000 Datasets with 256 revisions each are 8 MiB, and gRPC's own 4 MiB would
/// end the link for good.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Operator → cache node, and a person → cache node.
#[allow(missing_docs, reason = "generated: the comments are in the .proto file")]
#[allow(clippy::all, reason = "generated")]
pub mod cache_node {
    tonic::include_proto!("penstock.cachenode.v1");
}

/// csi ↔ mounter, over a Unix SEQPACKET socket that also carries descriptors.
#[allow(missing_docs, reason = "generated: the comments are in the .proto file")]
#[allow(clippy::all, reason = "generated")]
pub mod mounter {
    tonic::include_proto!("penstock.mounter.v1");
}

/// Cache node ↔ the mounter of the same node, in the same way.
#[allow(missing_docs, reason = "generated: the comments are in the .proto file")]
#[allow(clippy::all, reason = "generated")]
pub mod neighbour {
    tonic::include_proto!("penstock.neighbour.v1");
}

/// Text forms of messages that hold what must be nowhere in texts.
macro_rules! hidden {
    ($($message:ident),*) => {$(
        impl std::fmt::Debug for cache_node::$message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), "(hidden)"))
            }
        }
    )*};
}

hidden!(
    AwsKeys,
    HttpLogin,
    GcsKey,
    AzureKey,
    HuggingFaceToken,
    KerberosKey,
    ReaderToken
);
