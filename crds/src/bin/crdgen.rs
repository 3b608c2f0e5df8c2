//! Prints the CustomResourceDefinitions, or with `--write` puts them into the chart.

use std::path::Path;

use kube::CustomResourceExt;
use penstock_crds::{CacheRuntime, Dataset};

fn main() -> std::io::Result<()> {
    let write = std::env::args().any(|argument| argument == "--write");
    for crd in [Dataset::crd(), CacheRuntime::crd()] {
        let (name, text) = penstock_crds::chart::file(&crd)?;
        if write {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/penstock/templates/crds");
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join(name), text)?;
        } else {
            print!("{text}");
        }
    }
    Ok(())
}
