//! `penstock cache evict`.

use anyhow::{Result, ensure};
use penstock_protocol::control::cache_node::{EvictReply, PathRequest};
use serde_json::{Value, json};

use crate::args::{Asked, CacheEvict, Output};
use crate::pool::{Answers, Client, Pool, in_time};
use crate::{out, text};

/// Has the cache nodes of a pool evict a path, and prints how much that was.
///
/// # Errors
/// When there is no such Dataset or path, or not all cache nodes have done it.
pub async fn run(arguments: CacheEvict) -> Result<()> {
    let CacheEvict {
        asked: Asked { address, output },
        dataset,
        path,
    } = arguments;
    let pool = Pool::at(&address).await?;
    let dataset = pool.dataset(&dataset)?;
    let request = PathRequest {
        dataset: dataset.clone(),
        path: path.clone(),
    };
    let evict = |mut client: Client| {
        let request = request.clone();
        async move { in_time(client.evict(request)).await }
    };
    let answers = pool.ask_all(evict).await?;
    out::print(&match output {
        Output::Json => format!("{}\n", json_of(&dataset, &path, &answers)),
        Output::Text => text_of(&dataset, &path, &answers),
    })?;
    let silent = answers.silent_lines();
    ensure!(
        answers.silent.is_empty(),
        "not all cache nodes have evicted it:\n{}",
        silent.trim_end()
    );
    Ok(())
}

fn text_of(dataset: &str, path: &str, answers: &Answers<EvictReply>) -> String {
    let all = answers.answers.iter();
    let (bytes, pinned) = all.fold((0, 0), |(bytes, pinned), (_, evicted)| {
        (bytes + evicted.bytes, pinned + evicted.pinned_bytes)
    });
    let of = match path.trim_matches('/') {
        "" => text::name(dataset),
        path => format!("{} of {}", text::name(path), text::name(dataset)),
    };
    let nodes = answers.answers.iter().filter(|(_, evicted)| evicted.bytes > 0);
    let nodes: Vec<String> = nodes
        .map(|(node, evicted)| format!("{} from {}", text::bytes(evicted.bytes), text::name(node)))
        .collect();
    let mut shown = match bytes {
        0 => format!("nothing of {of} was cached\n"),
        _ => format!("evicted {} of {of}: {}\n", text::bytes(bytes), nodes.join(", ")),
    };
    if pinned > 0 {
        shown += &format!(
            "{} of it are pinned by a rule of the Dataset: whoever reads them next has them fetched and pinned again\n",
            text::bytes(pinned)
        );
    }
    shown
}

fn json_of(dataset: &str, path: &str, answers: &Answers<EvictReply>) -> Value {
    let Answers { answers, silent } = answers;
    let node = |(node, evicted): &(String, EvictReply)| json!({"node": node, "bytes": evicted.bytes, "pinnedBytes": evicted.pinned_bytes});
    json!({
        "dataset": dataset, "path": path.trim_matches('/'),
        "bytes": answers.iter().map(|(_, evicted)| evicted.bytes).sum::<u64>(),
        "nodes": answers.iter().map(node).collect::<Value>(),
        "unanswered": silent,
    })
}

#[cfg(test)]
mod tests {
    use penstock_protocol::control::cache_node::Member;

    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode};

    fn answers(of: &[(&str, u64, u64)]) -> Answers<EvictReply> {
        let answer = |(node, bytes, pinned_bytes): &(&str, u64, u64)| {
            let reply = EvictReply {
                revision: Vec::new(),
                bytes: *bytes,
                pinned_bytes: *pinned_bytes,
            };
            ((*node).to_owned(), reply)
        };
        Answers {
            answers: of.iter().map(answer).collect(),
            silent: Vec::new(),
        }
    }

    #[test]
    fn what_was_evicted_is_said_and_what_is_pinned_comes_again() {
        for (of, path, expected) in [
            (&[("a", 0, 0)][..], "x", "nothing of x of n/d was cached\n"),
            (
                &[("a", 4096, 0), ("b", 0, 0)],
                "/",
                "evicted 4.0 KiB of n/d: 4.0 KiB from a\n",
            ),
            (
                &[("a", 4096, 0), ("b", 8192, 8192)],
                "x/",
                "evicted 12.0 KiB of x of n/d: 4.0 KiB from a, 8.0 KiB from b\n8.0 KiB of it are pinned by a rule of the \
                 Dataset: whoever reads them next has them fetched and pinned again\n",
            ),
        ] {
            assert_eq!(text_of("n/d", path, &answers(of)), expected);
        }
        let json = json_of("n/d", "/x", &answers(&[("a", 1, 0), ("b", 2, 2)]));
        assert_eq!((&json["bytes"], &json["path"]), (&json!(3), &json!("x")));
        assert_eq!(json["nodes"][1], json!({"node": "b", "bytes": 2, "pinnedBytes": 2}));
    }

    #[tokio::test]
    async fn a_cache_node_that_has_not_done_it_makes_it_fail() {
        let fake = FakeCacheNode::named("pool-0");
        fake.set(|answers| {
            answers.listed.datasets = vec![fake_cache_node::dataset("n/d")];
            answers.evicted = Some(EvictReply::default());
        });
        let address = fake_cache_node::serve(fake.clone()).await;
        let arguments = |address: &str| CacheEvict {
            asked: Asked {
                address: address.to_owned(),
                output: Output::Text,
            },
            dataset: "d".into(),
            path: "x".into(),
        };
        run(arguments(&address)).await.unwrap();
        let other = Member {
            name: "pool-1".into(),
            address: "127.0.0.9:7070".into(),
            weight: 1,
        };
        fake.set(|answers| answers.listed.members = vec![other]);
        let error = run(arguments(&address)).await.unwrap_err().to_string();
        assert!(
            error.contains("not all cache nodes") && error.contains("pool-1"),
            "{error}"
        );
        let asked = fake.set(|answers| std::mem::take(&mut answers.asked));
        assert_eq!(asked, [("n/d".into(), "x".into()), ("n/d".into(), "x".into())]);
    }
}
