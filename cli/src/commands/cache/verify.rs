//! `penstock cache verify`.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use indicatif::ProgressBar;
use penstock_protocol::control::cache_node::{PathRequest, VerifyProgress};
use serde_json::{Value, json};
use tonic::Status;

use crate::args::{Asked, CacheVerify, Output};
use crate::pool::{Pool, sentence};
use crate::{out, text};

/// Has a cache node compare what it holds with its checksums, and prints what was found.
///
/// # Errors
/// When it does not answer, or there is no such Dataset or path. Damage that was found is none.
pub async fn run(arguments: CacheVerify) -> Result<()> {
    let CacheVerify {
        asked: Asked { address, output },
        dataset,
        path,
    } = arguments;
    let (node, verified) = verify(&address, dataset.as_deref(), &path).await?;
    out::print(&match output {
        Output::Json => format!("{}\n", json_of(&node, &verified)),
        Output::Text => text_of(&node, &verified),
    })
}

async fn verify(address: &str, dataset: Option<&str>, path: &str) -> Result<(String, VerifyProgress)> {
    let mut pool = Pool::at(address).await?;
    let dataset = dataset
        .map(|called| pool.dataset(called))
        .transpose()?
        .unwrap_or_default();
    let path = path.to_owned();
    // Hidden where nobody looks.
    let shown = ProgressBar::new_spinner();
    shown.enable_steady_tick(Duration::from_millis(100));
    let node = pool.listed.node.clone();
    let refused = |status: &Status| anyhow!(sentence(status));
    let parts = pool.asked.verify(PathRequest { dataset, path }).await;
    let mut parts = parts.map_err(|status| refused(&status))?.into_inner();
    while let Some(progress) = parts.message().await.map_err(|status| refused(&status))? {
        if progress.is_done {
            shown.finish_and_clear();
            return Ok((node, progress));
        }
        shown.set_message(so_far(&progress));
    }
    bail!("{node} ended before all was compared: it may be asked again")
}

fn so_far(progress: &VerifyProgress) -> String {
    let VerifyProgress {
        total_bytes,
        compared_bytes,
        damaged_blocks,
        evicted_bytes: _,
        is_done: _,
    } = progress;
    let of = match total_bytes {
        0 => String::new(),
        total => format!(" of {}", text::bytes(*total)),
    };
    let compared = text::bytes(*compared_bytes);
    format!(
        "compared {compared}{of}, {} blocks are damaged",
        text::count(*damaged_blocks)
    )
}

fn text_of(node: &str, verified: &VerifyProgress) -> String {
    let VerifyProgress {
        total_bytes: _,
        compared_bytes,
        damaged_blocks,
        evicted_bytes,
        is_done: _,
    } = verified;
    let (node, compared) = (text::name(node), text::bytes(*compared_bytes));
    match damaged_blocks {
        0 => format!("compared {compared} on {node} with their checksums: all are right\n"),
        damaged => format!(
            "compared {compared} on {node} with their checksums: {} blocks of 4 KiB were damaged or could not be read. {} were \
             evicted with them, and are fetched again when they are read. More than a few mean a bad disk\n",
            text::count(*damaged),
            text::bytes(*evicted_bytes)
        ),
    }
}

fn json_of(node: &str, verified: &VerifyProgress) -> Value {
    let VerifyProgress {
        total_bytes: _,
        compared_bytes,
        damaged_blocks,
        evicted_bytes,
        is_done: _,
    } = verified;
    json!({
        "node": node, "comparedBytes": compared_bytes, "damagedBlocks": damaged_blocks, "evictedBytes": evicted_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode};

    fn part(compared_bytes: u64, damaged_blocks: u64, is_done: bool) -> VerifyProgress {
        VerifyProgress {
            total_bytes: 9 << 20,
            compared_bytes,
            damaged_blocks,
            evicted_bytes: damaged_blocks << 20,
            is_done,
        }
    }

    #[test]
    fn what_was_found_is_said() {
        assert_eq!(
            text_of("pool-0", &part(9 << 20, 0, true)),
            "compared 9.0 MiB on pool-0 with their checksums: all are right\n"
        );
        let shown = text_of("pool-0", &part(9 << 20, 3, true));
        assert!(
            shown.contains("3 blocks of 4 KiB were damaged") && shown.contains("3.0 MiB were evicted"),
            "{shown}"
        );
        assert_eq!(
            so_far(&part(1 << 20, 2, false)),
            "compared 1.0 MiB of 9.0 MiB, 2 blocks are damaged"
        );
        assert_eq!(json_of("pool-0", &part(5, 3, true))["damagedBlocks"], 3);
    }

    #[tokio::test]
    async fn the_last_part_counts_and_without_it_it_has_failed() {
        let fake = FakeCacheNode::named("pool-0");
        fake.set(|answers| {
            answers.listed.datasets = vec![fake_cache_node::dataset("n/d")];
            answers.verified = vec![part(1, 0, false), part(2, 1, true)];
        });
        let address = fake_cache_node::serve(fake.clone()).await;
        for (dataset, asked) in [(None, ("", "")), (Some("d"), ("n/d", "x"))] {
            let (node, last) = verify(&address, dataset, asked.1).await.unwrap();
            assert_eq!((node.as_str(), last), ("pool-0", part(2, 1, true)));
            let was_asked = fake.set(|answers| answers.asked.pop()).unwrap();
            assert_eq!((was_asked.0.as_str(), was_asked.1.as_str()), asked);
        }
        fake.set(|answers| answers.verified.truncate(1));
        let error = verify(&address, None, "").await.unwrap_err().to_string();
        assert!(error.contains("ended before"), "{error}");
    }
}
