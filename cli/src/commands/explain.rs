//! `penstock explain`.

use std::collections::BTreeMap;

use anyhow::Result;
use penstock_protocol::control::cache_node::cache_rule::Eviction;
use penstock_protocol::control::cache_node::explained_range::State;
use penstock_protocol::control::cache_node::{CacheRule, ExplainReply, ExplainRequest};
use serde_json::{Value, json};
use tonic::Status;

use crate::args::{Asked, Explain, Output};
use crate::explained::{Part, is_cached, merged};
use crate::limits::{EXPLAIN_ANSWERS_MAX, PARTS_SHOWN_MAX};
use crate::pool::{Answers, Client, Pool, Silent, hex, in_time, silent_lines};
use crate::{out, text};

/// Prints where the parts of a file are cached in a pool, or why they are not.
///
/// # Errors
/// When no cache node answers, or there is no such Dataset or file.
pub async fn run(arguments: Explain) -> Result<()> {
    let Explain {
        asked: Asked { address, output },
        dataset,
        path,
    } = arguments;
    let explained = ask(&address, &dataset, &path).await?;
    out::print(&match output {
        Output::Json => format!("{}\n", json_of(&explained)),
        Output::Text => text_of(&explained),
    })
}

/// What all nodes say of a file.
struct Explained {
    dataset: String,
    path: String,
    /// Of the first that answered; without ranges.
    file: ExplainReply,
    parts: Vec<Part>,
    silent: Vec<Silent>,
}

async fn ask(address: &str, dataset: &str, path: &str) -> Result<Explained> {
    let pool = Pool::at(address).await?;
    let dataset = pool.dataset(dataset)?;
    let explain = |client: Client| explain(client, dataset.clone(), path.to_owned());
    let answers = pool.ask_all(explain).await?;
    let Answers { mut answers, silent } = answers.of_one_revision(|answer| &answer.revision);
    let said: Vec<_> = answers
        .iter_mut()
        .map(|(node, answer)| (node.clone(), std::mem::take(&mut answer.ranges)))
        .collect();
    let mut files = answers.into_iter().map(|(_, answer)| answer);
    let mut file = files.next().unwrap_or_default();
    // Whoever reads it finds that out, which may be another.
    file.has_drifted |= files.any(|other| other.has_drifted);
    Ok(Explained {
        path: path.trim_matches('/').to_owned(),
        dataset,
        file,
        parts: merged(&said),
        silent,
    })
}

/// All answers of a node as one.
async fn explain(mut client: Client, dataset: String, path: String) -> Result<ExplainReply, Status> {
    let mut explained = ExplainReply::default();
    for answer in 0..EXPLAIN_ANSWERS_MAX {
        let request = ExplainRequest {
            dataset: dataset.clone(),
            path: path.clone(),
            offset: explained.next_offset,
        };
        let more = in_time(client.explain(request)).await?;
        if answer == 0 {
            explained = more;
        } else if more.revision == explained.revision {
            explained.ranges.extend(more.ranges);
            explained.next_offset = more.next_offset;
        } else {
            return Err(Status::aborted("it got another revision while it was asked: ask again"));
        }
        if explained.next_offset == 0 {
            break;
        }
    }
    Ok(explained)
}

fn text_of(explained: &Explained) -> String {
    let Explained {
        dataset,
        path,
        file,
        parts,
        silent,
    } = explained;
    let ExplainReply {
        revision,
        bytes,
        source,
        key,
        has_drifted,
        rule,
        ranges: _,
        next_offset,
    } = file;
    let cached = parts
        .iter()
        .filter(|part| is_cached(part.state))
        .map(|part| part.bytes)
        .sum();
    let mut facts = vec![
        (
            "dataset",
            format!("{}, revision {:.12}", text::name(dataset), hex(revision)),
        ),
        ("file", format!("{}, {}", text::name(path), text::bytes(*bytes))),
    ];
    if !source.is_empty() {
        facts.push(("object", format!("{} of {}", text::name(key), text::name(source))));
    }
    facts.push(("rule", rule_of(rule.clone().unwrap_or_default())));
    facts.push((
        "cached",
        format!("{} ({})", text::bytes(cached), text::share(cached, *bytes)),
    ));
    if *has_drifted {
        let drifted = "the source has another version of it by now: what is not cached cannot be read in this revision. Refresh \
                       the Dataset, and start pods anew";
        facts.push(("fault", drifted.into()));
    }
    let rows: Vec<_> = parts.iter().take(PARTS_SHOWN_MAX).map(row).collect();
    let mut shown = text::facts(&facts);
    if !rows.is_empty() {
        shown += "\n";
        shown += &text::table([">FROM", ">SIZE", "IS", "ON", "BELONGS TO"], &rows);
    }
    if let Some(more @ 1..) = parts.len().checked_sub(PARTS_SHOWN_MAX) {
        shown += &format!("... and {} more parts: -o json shows all\n", text::count(more as u64));
    }
    if *next_offset > 0 {
        shown += &format!(
            "what is behind {} was not asked for: too much of it differs\n",
            text::bytes(*next_offset)
        );
    }
    let states: BTreeMap<&str, &str> = parts.iter().map(|part| words(part.state)).collect();
    if !states.is_empty() {
        shown += "\n";
    }
    for (word, meaning) in states {
        shown += &format!("{word}: {meaning}\n");
    }
    if !silent.is_empty() {
        shown += &format!("\n{}", silent_lines(silent));
    }
    shown
}

fn row(part: &Part) -> [String; 5] {
    let Part {
        offset,
        bytes,
        owner,
        state,
        places,
    } = part;
    let place = |(node, tier): &(String, String)| match tier.as_str() {
        _ if !is_cached(*state) => text::name(node),
        tier => format!("{} in {}", text::name(node), text::name(tier)),
    };
    // Why something is missing is said of no place.
    let is_somewhere = is_cached(*state) || matches!(state, State::Coming | State::ComingBy);
    let places: Vec<String> = places.iter().filter(|_| is_somewhere).map(place).collect();
    [
        text::bytes(*offset),
        text::bytes(*bytes),
        words(*state).0.into(),
        if places.is_empty() {
            "-".into()
        } else {
            places.join(", ")
        },
        if owner.is_empty() {
            "-".into()
        } else {
            text::name(owner)
        },
    ]
}

/// What a state is called, and what it means.
fn words(state: State) -> (&'static str, &'static str) {
    match state {
        State::Pinned => ("pinned", "cached, and never evicted"),
        State::Kept => ("kept", "cached, until something else is worth more"),
        State::Passing => (
            "passing",
            "cached until it was read: it was fetched ahead, or is not worth keeping. It goes first",
        ),
        State::Coming => ("coming", "on its way from the source, and is kept then"),
        State::ComingBy => (
            "coming by",
            "on its way from the source for whoever reads it now. It was not worth keeping, or is fetched ahead",
        ),
        State::Others => (
            "elsewhere",
            "not cached. The nodes do not agree yet who has it: ask again in some seconds",
        ),
        State::NoTier => (
            "no tier",
            "not cached. The node that it belongs to takes no data: `penstock cache ls` there says what is wrong with its tiers",
        ),
        State::NoSource => (
            "no source",
            "not cached, and cannot be fetched: the node that it belongs to was not told of its source. It waits for the operator, \
             or the Dataset has that source no more",
        ),
        State::Unread => (
            "unread",
            "not cached. Nobody read it since the node began, or it is gone since: what is gone is not remembered. It is kept when \
             it is read",
        ),
        State::Contested => (
            "contested",
            "not cached, as unread; but what falls under its rule has no more room. When it is read the policy decides whether it \
             is worth more than what is there",
        ),
        State::Unknown => ("unknown", "the node that it belongs to did not answer"),
    }
}

fn rule_of(rule: CacheRule) -> String {
    let eviction = rule.eviction();
    let CacheRule {
        path,
        pin,
        ttl_seconds,
        priority,
        eviction: _,
        tier,
    } = rule;
    let mut says = vec![if path.is_empty() {
        "that for all of the Dataset".to_owned()
    } else {
        format!("that for {}", text::name(&path))
    }];
    if pin {
        says.push("pinned".into());
    }
    if ttl_seconds > 0 {
        says.push(format!("evicted when unread for {} s", text::count(ttl_seconds)));
    }
    says.push(format!("priority {priority}"));
    says.push(format!("eviction {}", eviction_name(eviction)));
    if !tier.is_empty() {
        says.push(format!("no tier above {}", text::name(&tier)));
    }
    says.join(", ")
}

/// As in the YAML of a Dataset.
fn eviction_name(eviction: Eviction) -> &'static str {
    match eviction {
        Eviction::Auto => "Auto",
        Eviction::Lru => "LRU",
        Eviction::Lfu => "LFU",
    }
}

fn json_of(explained: &Explained) -> Value {
    let Explained {
        dataset,
        path,
        file,
        parts,
        silent,
    } = explained;
    let ExplainReply {
        revision,
        bytes,
        source,
        key,
        has_drifted,
        rule,
        ranges: _,
        next_offset,
    } = file;
    let rule = rule.clone().unwrap_or_default();
    let place =
        |(node, tier): &(String, String)| json!({"node": node, "tier": Some(tier).filter(|tier| !tier.is_empty())});
    let part = |part: &Part| {
        let Part {
            offset,
            bytes,
            owner,
            state,
            places,
        } = part;
        json!({
            "offset": offset, "bytes": bytes, "owner": owner, "state": words(*state).0,
            "places": places.iter().map(place).collect::<Value>(),
        })
    };
    json!({
        "dataset": dataset, "path": path, "revision": hex(revision), "bytes": bytes, "source": source, "key": key,
        "drifted": has_drifted,
        "rule": {
            "path": rule.path, "pin": rule.pin, "ttlSeconds": Some(rule.ttl_seconds).filter(|seconds| *seconds > 0),
            "priority": rule.priority, "eviction": eviction_name(rule.eviction()),
            "tier": Some(&rule.tier).filter(|tier| !tier.is_empty()),
        },
        "ranges": parts.iter().map(part).collect::<Value>(),
        "notExplainedFrom": Some(next_offset).filter(|offset| **offset > 0),
        "unanswered": silent,
    })
}

#[cfg(test)]
mod tests {
    use penstock_protocol::control::cache_node::ExplainedRange;

    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode};

    const MIB: u64 = 1 << 20;

    fn file() -> ExplainReply {
        ExplainReply {
            revision: vec![0xab; 32],
            bytes: 138 * MIB,
            source: "s3://bucket/train/".into(),
            key: "shard-000.tar".into(),
            rule: Some(CacheRule {
                path: "train".into(),
                pin: true,
                ttl_seconds: 3600,
                priority: 70,
                eviction: Eviction::Lru.into(),
                tier: "hdd".into(),
            }),
            ..ExplainReply::default()
        }
    }

    fn explained() -> Explained {
        let part = |offset, bytes, owner: &str, state, places: &[(&str, &str)]| Part {
            offset: offset * MIB,
            bytes: bytes * MIB,
            owner: owner.into(),
            state,
            places: places
                .iter()
                .map(|(node, tier)| ((*node).into(), (*tier).into()))
                .collect(),
        };
        Explained {
            dataset: "vision/imagenet".into(),
            path: "train/shard-000.tar".into(),
            file: file(),
            parts: vec![
                part(0, 64, "pool-0", State::Kept, &[("pool-0", "ssd"), ("pool-1", "hdd")]),
                part(64, 10, "pool-1", State::Coming, &[("pool-1", "")]),
                part(74, 54, "pool-1", State::Unread, &[("pool-1", "")]),
                part(128, 10, "pool-2", State::Unknown, &[]),
            ],
            silent: vec![Silent {
                node: "pool-2".into(),
                address: "pool-2.pool:7073".into(),
                reason: "connection refused".into(),
            }],
        }
    }

    #[test]
    fn a_person_sees_where_each_part_is_and_what_the_words_mean() {
        let expected = "     dataset  vision/imagenet, revision abababababab
        file  train/shard-000.tar, 138.0 MiB
      object  shard-000.tar of s3://bucket/train/
        rule  that for train, pinned, evicted when unread for 3,600 s, priority 70, eviction LRU, no tier above hdd
      cached  64.0 MiB (46 %)

     FROM      SIZE  IS       ON                            BELONGS TO
      0 B  64.0 MiB  kept     pool-0 in ssd, pool-1 in hdd  pool-0
 64.0 MiB  10.0 MiB  coming   pool-1                        pool-1
 74.0 MiB  54.0 MiB  unread   -                             pool-1
128.0 MiB  10.0 MiB  unknown  -                             pool-2

coming: on its way from the source, and is kept then
kept: cached, until something else is worth more
unknown: the node that it belongs to did not answer
unread: not cached. Nobody read it since the node began, or it is gone since: what is gone is not remembered. It is kept when it is read

pool-2 at pool-2.pool:7073 did not answer: connection refused.";
        let shown = text_of(&explained());
        assert!(shown.starts_with(expected), "{shown}");
        let mut many = explained();
        many.parts = (0..100).flat_map(|_| explained().parts).collect();
        many.file.has_drifted = true;
        let shown = text_of(&many);
        assert!(
            shown.contains("... and 360 more parts") && shown.contains("another version"),
            "{shown}"
        );
    }

    #[test]
    fn a_program_gets_the_same() {
        let json = json_of(&explained());
        assert_eq!(json["rule"]["eviction"], "LRU");
        assert_eq!(json["rule"]["pin"], true);
        let states: Vec<_> = json["ranges"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| part["state"].clone())
            .collect();
        assert_eq!(states, ["kept", "coming", "unread", "unknown"]);
        assert_eq!(json["ranges"][0]["places"][1], json!({"node": "pool-1", "tier": "hdd"}));
        assert_eq!(json["ranges"][1]["places"][0]["tier"], Value::Null);
        assert_eq!(json["unanswered"][0]["node"], "pool-2");
    }

    #[tokio::test]
    async fn a_long_file_is_asked_for_until_all_of_it_is_explained() {
        let fake = FakeCacheNode::named("pool-0");
        let piece = |offset, next_offset| {
            let range = ExplainedRange {
                offset,
                bytes: MIB,
                owner: String::new(),
                state: State::Unread.into(),
                tier: String::new(),
            };
            let reply = ExplainReply {
                ranges: vec![range],
                next_offset,
                ..file()
            };
            (offset, reply)
        };
        fake.set(|answers| {
            answers.listed.datasets = vec![fake_cache_node::dataset("vision/imagenet")];
            answers.explained = vec![piece(0, MIB), piece(MIB, 2 * MIB), piece(2 * MIB, 0)];
        });
        let address = fake_cache_node::serve(fake.clone()).await;
        let explained = ask(&address, "imagenet", "/train/shard-000.tar").await.unwrap();
        let parts: Vec<_> = explained.parts.iter().map(|part| (part.offset, part.bytes)).collect();
        assert_eq!(parts, [(0, 3 * MIB)]);
        assert_eq!(explained.path, "train/shard-000.tar");
        fake.set(|answers| answers.explained[1].1.revision = vec![1]);
        let error = ask(&address, "imagenet", "x").await.err().unwrap().to_string();
        assert!(error.contains("another revision"), "{error}");
    }
}
