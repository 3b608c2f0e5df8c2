//! Prints what is generated from the types, or with `--write` puts it where it belongs: the CustomResourceDefinitions into the
//! chart, the page about their fields into `docs/reference`.

use std::io;
use std::path::Path;

use kube::CustomResourceExt;
use penstock_crds::{CacheRuntime, Dataset, chart, reference};

fn main() -> io::Result<()> {
    let write = std::env::args().any(|argument| argument == "--write");
    let crds = [Dataset::crd(), CacheRuntime::crd()];
    let mut files = vec![("docs/reference/README.md".to_owned(), reference::page(&crds)?)];
    for crd in &crds {
        let (name, text) = chart::file(crd)?;
        files.push((format!("charts/penstock/templates/crds/{name}"), text));
    }
    for (path, text) in files {
        if write {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            std::fs::write(path, text)?;
        } else {
            println!("---- {path}\n{text}");
        }
    }
    Ok(())
}
