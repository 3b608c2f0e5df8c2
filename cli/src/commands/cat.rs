//! `penstock cat`.

use std::io::Write;

use anyhow::{Context, Result};
use penstock_buffer::BufferPool;
use penstock_mounter::SpaceReader;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};

use crate::args::Cat;
use crate::cache_folder::CacheFolder;
use crate::dataset_file::DatasetFile;
use crate::limits::{CAT_BESIDE_A_MOUNT_BYTES, CAT_BYTES};
use crate::listing::Tree;
use crate::local::Local;

/// Writes files to standard output.
///
/// # Errors
/// When one cannot be read. Nothing is written when one of the paths does not exist.
pub async fn run(arguments: Cat) -> Result<()> {
    let Cat { which, paths, cache } = arguments;
    let dataset = DatasetFile::read(&which)?.local()?;
    let path = dataset.cache_folder(cache.cache_dir);
    // A running mount has the cache, and an ordinary user may have none: then a small one of our own will do.
    let own = tempfile::tempdir()?;
    let (folder, capacity) = match CacheFolder::take(&path, "penstock cat") {
        Ok(folder) => (folder, cache.cache_size.0),
        Err(error) => {
            tracing::debug!("{error:#}");
            let folder = CacheFolder::take(own.path(), "penstock cat")?;
            (folder, CAT_BESIDE_A_MOUNT_BYTES.min(cache.cache_size.0))
        }
    };
    let local = Local::open(&dataset.sources, dataset.ownership, &folder, capacity).await?;
    let reader = local.reader(dataset.read_timeout);
    let tree = Tree::of(local.package().clone())?;
    let places = paths
        .iter()
        .map(|path| Ok((path, tree.place(path)?)))
        .collect::<Result<Vec<_>>>()?;
    for (path, place) in places {
        if let Some((address, bytes)) = place {
            copy(&*reader, address, bytes).await.with_context(|| path.clone())?;
        }
    }
    Ok(())
}

async fn copy(reader: &dyn SpaceReader, address: u64, bytes: u64) -> Result<()> {
    let mut out = std::io::stdout();
    let mut buffer = BufferPool::new((CAT_BYTES + BLOCK_BYTES) as usize, 1).take();
    let (mut at, end) = (address, address + bytes);
    while at < end {
        let piece = CAT_BYTES.min(end - at);
        for range in BlockRange::covering(at, piece) {
            let into = &mut buffer[..range.bytes() as usize];
            reader.read(range, into).await?;
            // The last block of an object is padded.
            let wanted = (end - range.address()).min(range.bytes()) as usize;
            out.write_all(&into[..wanted]).context("write to standard output")?;
        }
        at += piece;
    }
    out.flush().context("write to standard output")
}
