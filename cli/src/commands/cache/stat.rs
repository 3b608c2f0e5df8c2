//! `penstock cache stat`.

use anyhow::Result;
use penstock_protocol::control::cache_node::{PathRequest, StatReply};
use serde_json::{Value, json};

use super::ls::{by_tier, by_tier_json, sum};
use crate::args::{Asked, CacheStat, Output};
use crate::pool::{Answers, Client, Pool, hex, in_time};
use crate::{out, text};

/// Prints how much of a path the cache nodes of a pool hold.
///
/// # Errors
/// When none answers, or there is no such Dataset or path.
pub async fn run(arguments: CacheStat) -> Result<()> {
    let CacheStat {
        asked: Asked { address, output },
        dataset,
        path,
    } = arguments;
    let (dataset, answers) = ask(&address, &dataset, &path).await?;
    out::print(&match output {
        Output::Json => format!("{}\n", json_of(&dataset, &path, &answers)),
        Output::Text => text_of(&dataset, &path, &answers),
    })
}

async fn ask(address: &str, dataset: &str, path: &str) -> Result<(String, Answers<StatReply>)> {
    let pool = Pool::at(address).await?;
    let dataset = pool.dataset(dataset)?;
    let request = PathRequest {
        dataset: dataset.clone(),
        path: path.to_owned(),
    };
    let stat = |mut client: Client| {
        let request = request.clone();
        async move { in_time(client.stat(request)).await }
    };
    let answers = pool.ask_all(stat).await?;
    Ok((dataset, answers.of_one_revision(|answer| &answer.revision)))
}

fn text_of(dataset: &str, path: &str, answers: &Answers<StatReply>) -> String {
    let Answers { answers: all, silent } = answers;
    let Some((_, first)) = all.first() else {
        return answers.silent_lines();
    };
    let StatReply {
        revision,
        is_folder,
        files,
        bytes,
        block_bytes,
        cached: _,
    } = first;
    let size = match is_folder {
        true => format!("{} files, {}", text::count(*files), text::bytes(*bytes)),
        false => text::bytes(*bytes),
    };
    let cached = all.iter().map(|(_, answer)| sum(&answer.cached)).sum();
    let path = path.trim_matches('/');
    let mut facts = vec![(
        "dataset",
        format!("{}, revision {:.12}", text::name(dataset), hex(revision)),
    )];
    if !path.is_empty() {
        facts.push((if *is_folder { "folder" } else { "file" }, text::name(path)));
    }
    facts.push(("size", size));
    let known = if silent.is_empty() {
        ""
    } else {
        ", and what those have that did not answer"
    };
    facts.push((
        "cached",
        format!("{} ({}){known}", text::bytes(cached), text::share(cached, *block_bytes)),
    ));
    let row = |(node, answer): &(String, StatReply)| {
        let cached = sum(&answer.cached);
        [
            text::name(node),
            text::bytes(cached),
            text::share(cached, *block_bytes),
            by_tier(&answer.cached),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let table = text::table(["NODE", ">CACHED", ">SHARE", "IN"], &rows);
    let silent = answers.silent_lines();
    format!(
        "{}\n{table}{}{silent}",
        text::facts(&facts),
        if silent.is_empty() { "" } else { "\n" }
    )
}

fn json_of(dataset: &str, path: &str, answers: &Answers<StatReply>) -> Value {
    let Answers { answers, silent } = answers;
    let first = answers.first().map(|(_, answer)| answer.clone()).unwrap_or_default();
    let StatReply {
        revision,
        is_folder,
        files,
        bytes,
        block_bytes,
        cached: _,
    } = first;
    let node = |(node, answer): &(String, StatReply)| json!({"node": node, "cachedBytes": sum(&answer.cached), "tiers": by_tier_json(&answer.cached)});
    json!({
        "dataset": dataset, "path": path.trim_matches('/'), "revision": hex(&revision),
        "kind": if is_folder { "directory" } else { "file" },
        "files": files, "bytes": bytes, "blockBytes": block_bytes,
        "cachedBytes": answers.iter().map(|(_, answer)| sum(&answer.cached)).sum::<u64>(),
        "nodes": answers.iter().map(node).collect::<Value>(),
        "unanswered": silent,
    })
}

#[cfg(test)]
mod tests {
    use penstock_protocol::control::cache_node::TierBytes;

    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode};
    use crate::pool::Silent;

    const GIB: u64 = 1 << 30;

    fn stated(ssd: u64) -> StatReply {
        let tier = |tier: &str, bytes| TierBytes {
            tier: tier.into(),
            bytes,
        };
        StatReply {
            revision: vec![0xab; 32],
            is_folder: true,
            files: 1_281_167,
            bytes: 138 * GIB,
            block_bytes: 140 * GIB,
            cached: vec![tier("ssd", ssd), tier("hdd", GIB)],
        }
    }

    fn answers() -> Answers<StatReply> {
        Answers {
            answers: vec![("pool-0".into(), stated(40 * GIB)), ("pool-1".into(), stated(0))],
            silent: vec![Silent {
                node: "pool-2".into(),
                address: "pool-2.pool:7073".into(),
                reason: "connection refused".into(),
            }],
        }
    }

    #[test]
    fn a_person_sees_the_pool_and_each_node_and_who_did_not_answer() {
        let expected = "     dataset  vision/imagenet, revision abababababab
      folder  train
        size  1,281,167 files, 138.0 GiB
      cached  42.0 GiB (30 %), and what those have that did not answer

NODE      CACHED  SHARE  IN
pool-0  41.0 GiB   29 %  ssd 40.0 GiB, hdd 1.0 GiB
pool-1   1.0 GiB    1 %  hdd 1.0 GiB

pool-2 at pool-2.pool:7073 did not answer: connection refused.";
        let shown = text_of("vision/imagenet", "/train/", &answers());
        assert!(shown.starts_with(expected), "{shown}");
        let mut all = answers();
        all.silent.clear();
        let shown = text_of("vision/imagenet", "", &all);
        assert!(
            !shown.contains("folder") && shown.contains("(30 %)\n") && !shown.contains("answer"),
            "{shown}"
        );
    }

    #[test]
    fn a_program_gets_the_same() {
        let json = json_of("vision/imagenet", "train", &answers());
        assert_eq!(json["cachedBytes"], 42 * GIB);
        assert_eq!(json["kind"], "directory");
        assert_eq!(json["nodes"][1]["node"], "pool-1");
        assert_eq!(json["nodes"][1]["tiers"][1]["bytes"], GIB);
        assert_eq!(json["unanswered"][0]["node"], "pool-2");
    }

    #[tokio::test]
    async fn a_path_that_is_not_there_is_said_in_the_words_of_the_cache_node() {
        let fake = FakeCacheNode::named("pool-0");
        fake.set(|answers| answers.listed.datasets = vec![fake_cache_node::dataset("vision/imagenet")]);
        let address = fake_cache_node::serve(fake.clone()).await;
        let error = ask(&address, "imagenet", "x").await.err().unwrap().to_string();
        assert!(error.contains("has no \"x\"; it has nothing"), "{error}");
        fake.set(|answers| answers.stated = Some(stated(7)));
        let (dataset, answers) = ask(&address, "imagenet", "x").await.unwrap();
        assert_eq!((dataset.as_str(), answers.answers.len()), ("vision/imagenet", 1));
        let asked = fake.set(|answers| answers.asked.pop());
        assert_eq!(asked, Some(("vision/imagenet".into(), "x".into())));
    }
}
