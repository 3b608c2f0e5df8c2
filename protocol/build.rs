//! Compiles the control messages without protoc.

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
        tonic_prost_build::configure().compile_fds(files)?;
    }
    Ok(())
}
