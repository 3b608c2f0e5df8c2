//! The messages and services of CSI and of the kubelet's plugin registration, generated from `proto/` at build time.

/// The Container Storage Interface, v1.12.
#[allow(missing_docs, reason = "generated: the comments are in the .proto file")]
#[allow(clippy::all, reason = "generated")]
#[allow(rustdoc::all, reason = "generated")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Registration of a plugin with the kubelet, v1.
#[allow(missing_docs, reason = "generated: the comments are in the .proto file")]
#[allow(clippy::all, reason = "generated")]
#[allow(rustdoc::all, reason = "generated")]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}
