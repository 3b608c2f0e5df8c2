//! Compiles the control messages without protoc.

/// Messages that hold what must be nowhere in texts; `control.rs` gives them others.
#[cfg(feature = "control")]
const SECRETS: [&str; 7] = [
    "AwsKeys",
    "HttpLogin",
    "GcsKey",
    "AzureKey",
    "HuggingFaceToken",
    "KerberosKey",
    "ReaderToken",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "control")]
    {
        println!("cargo::rerun-if-changed=proto");
        let files = protox::compile(
            [
                "proto/cachenode.proto",
                "proto/inspection.proto",
                "proto/mounter.proto",
                "proto/neighbour.proto",
            ],
            ["proto"],
        )?;
        tonic_prost_build::configure()
            // Their text forms would show them.
            .skip_debug(SECRETS.map(|name| format!(".penstock.cachenode.v1.{name}")))
            .compile_fds(files)?;
    }
    Ok(())
}
