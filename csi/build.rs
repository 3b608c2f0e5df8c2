//! Compiles the CSI and registration messages without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/csi.proto", "proto/pluginregistration.proto"], ["proto"])?;
    // Default stubs: a service answers UNIMPLEMENTED to calls that it does not have.
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .compile_fds(files)?;
    Ok(())
}
