//! `make bench`: measures Penstock beside a reference of each path, in the same run on the same machine.

mod data;
mod download;
mod figure;
mod load;
mod namespace;
mod random;
mod revision_build;
mod sendfile_loop;

fn main() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&revision_build::measure(1_000_000)?)?);
    Ok(())
}
