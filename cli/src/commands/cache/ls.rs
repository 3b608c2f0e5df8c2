//! `penstock cache ls`.

use anyhow::Result;
use penstock_protocol::control::cache_node::{HeldDataset, ListReply, Quota, Tier, TierBytes};
use serde_json::{Value, json};

use crate::args::{Asked, CacheLs, Output};
use crate::pool::{Pool, hex};
use crate::{out, text};

/// Prints what a cache node holds.
///
/// # Errors
/// When it does not answer.
pub async fn run(arguments: CacheLs) -> Result<()> {
    let CacheLs {
        asked: Asked { address, output },
    } = arguments;
    let Pool { listed, .. } = Pool::at(&address).await?;
    out::print(&match output {
        Output::Json => format!("{}\n", json_of(&listed)),
        Output::Text => text_of(&listed),
    })
}

/// The bytes of each tier that has any: `ssd 1.0 GiB, hdd 2.0 GiB`.
pub fn by_tier(cached: &[TierBytes]) -> String {
    let some = cached.iter().filter(|TierBytes { tier: _, bytes }| *bytes > 0);
    let tiers: Vec<String> = some
        .map(|TierBytes { tier, bytes }| format!("{} {}", text::name(tier), text::bytes(*bytes)))
        .collect();
    if tiers.is_empty() { "-".into() } else { tiers.join(", ") }
}

/// The bytes of all tiers together.
pub fn sum(cached: &[TierBytes]) -> u64 {
    cached.iter().map(|TierBytes { tier: _, bytes }| bytes).sum()
}

/// The bytes of each tier, for a program.
pub fn by_tier_json(cached: &[TierBytes]) -> Value {
    let tiers = cached
        .iter()
        .map(|TierBytes { tier, bytes }| json!({"tier": tier, "bytes": bytes}));
    tiers.collect()
}

fn text_of(listed: &ListReply) -> String {
    let ListReply {
        node,
        members,
        tiers,
        datasets,
        left_out,
        other_bytes,
    } = listed;
    let mut shown = match members.len() {
        0 => format!("{node} has not been told of a ring yet: it waits for the operator\n\n"),
        1 => format!("{node} is the only cache node of its pool\n\n"),
        count => format!("{node} is one of {count} cache nodes: the others hold other parts of the same datasets\n\n"),
    };
    let row = |tier: &Tier| {
        let Tier {
            name,
            capacity_bytes,
            used_bytes,
            fault,
        } = tier;
        [
            text::name(name),
            text::bytes(*used_bytes),
            text::bytes(*capacity_bytes),
            text::share(*used_bytes, *capacity_bytes),
            if fault.is_empty() {
                "-".into()
            } else {
                text::name(fault)
            },
        ]
    };
    let rows: Vec<_> = tiers.iter().map(row).collect();
    shown += &text::table(["TIER", ">USED", ">CAPACITY", ">FULL", "FAULT"], &rows);
    shown += "\n";
    let row = |dataset: &HeldDataset| {
        let HeldDataset {
            name,
            revision,
            revisions,
            files,
            bytes,
            cached,
            pinned_bytes,
            quota,
        } = dataset;
        [
            text::name(name),
            text::bytes(sum(cached)),
            by_tier(cached),
            text::bytes(*pinned_bytes),
            quota_of(quota.as_ref()),
            text::count(*files),
            text::bytes(*bytes),
            match revisions {
                0 => "none yet".into(),
                1 => format!("{:.12}", hex(revision)),
                more => format!("{:.12} and {} older", hex(revision), more - 1),
            },
        ]
    };
    let headings = [
        "DATASET",
        ">CACHED",
        "IN",
        ">PINNED",
        "QUOTA HERE",
        ">FILES",
        ">SIZE",
        "REVISION",
    ];
    let rows: Vec<_> = datasets.iter().map(row).collect();
    shown += &text::table(headings, &rows);
    if *left_out > 0 {
        shown += &format!("{} more datasets are not listed\n", text::count(*left_out));
    }
    if *other_bytes > 0 {
        shown += &format!(
            "{} are of datasets that this cache node was not told of\n",
            text::bytes(*other_bytes)
        );
    }
    shown
}

fn quota_of(quota: Option<&Quota>) -> String {
    let Quota {
        guaranteed_bytes,
        limit_bytes,
    } = quota.copied().unwrap_or_default();
    match (guaranteed_bytes, limit_bytes) {
        (0, None) => "-".into(),
        (guaranteed, None) => format!("at least {}", text::bytes(guaranteed)),
        (0, Some(limit)) => format!("at most {}", text::bytes(limit)),
        (guaranteed, Some(limit)) => format!("{} to {}", text::bytes(guaranteed), text::bytes(limit)),
    }
}

fn json_of(listed: &ListReply) -> Value {
    let ListReply {
        node,
        members,
        tiers,
        datasets,
        left_out,
        other_bytes,
    } = listed;
    let tier = |tier: &Tier| {
        let Tier {
            name,
            capacity_bytes,
            used_bytes,
            fault,
        } = tier;
        let fault = Some(fault).filter(|fault| !fault.is_empty());
        json!({"name": name, "capacityBytes": capacity_bytes, "usedBytes": used_bytes, "fault": fault})
    };
    let dataset = |dataset: &HeldDataset| {
        let HeldDataset {
            name,
            revision,
            revisions,
            files,
            bytes,
            cached,
            pinned_bytes,
            quota,
        } = dataset;
        let Quota {
            guaranteed_bytes,
            limit_bytes,
        } = quota.unwrap_or_default();
        json!({
            "name": name, "revision": hex(revision), "revisions": revisions, "files": files, "bytes": bytes,
            "cachedBytes": sum(cached), "tiers": by_tier_json(cached), "pinnedBytes": pinned_bytes,
            "quota": {"guaranteedBytes": guaranteed_bytes, "limitBytes": limit_bytes},
        })
    };
    let members: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    json!({
        "node": node, "members": members, "tiers": tiers.iter().map(tier).collect::<Value>(),
        "datasets": datasets.iter().map(dataset).collect::<Value>(), "leftOut": left_out, "otherBytes": other_bytes,
    })
}

#[cfg(test)]
mod tests {
    use penstock_protocol::control::cache_node::Member;

    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode};

    const GIB: u64 = 1 << 30;

    fn listed() -> ListReply {
        let tier = |name: &str, used_bytes, fault: &str| Tier {
            name: name.into(),
            capacity_bytes: 100 * GIB,
            used_bytes,
            fault: fault.into(),
        };
        let imagenet = HeldDataset {
            name: "vision/imagenet".into(),
            revision: vec![0xab; 32],
            revisions: 3,
            files: 1_281_167,
            bytes: 138 * GIB,
            cached: vec![
                TierBytes {
                    tier: "ssd".into(),
                    bytes: 40 * GIB,
                },
                TierBytes {
                    tier: "hdd".into(),
                    bytes: GIB,
                },
            ],
            pinned_bytes: 1 << 20,
            quota: Some(Quota {
                guaranteed_bytes: 10 * GIB,
                limit_bytes: Some(50 * GIB),
            }),
        };
        ListReply {
            node: "pool-0".into(),
            members: vec![Member::default(); 3],
            tiers: vec![tier("ssd", 42 * GIB, ""), tier("hdd", GIB, "tier hdd is full")],
            datasets: vec![imagenet, fake_cache_node::dataset("vision/new")],
            left_out: 0,
            other_bytes: GIB,
        }
    }

    #[test]
    fn a_person_sees_tiers_and_datasets_below_each_other() {
        let expected = "\
pool-0 is one of 3 cache nodes: the others hold other parts of the same datasets

TIER      USED   CAPACITY  FULL  FAULT
ssd   42.0 GiB  100.0 GiB  42 %  -
hdd    1.0 GiB  100.0 GiB   1 %  tier hdd is full

DATASET            CACHED  IN                          PINNED  QUOTA HERE                FILES       SIZE  REVISION
vision/imagenet  41.0 GiB  ssd 40.0 GiB, hdd 1.0 GiB  1.0 MiB  10.0 GiB to 50.0 GiB  1,281,167  138.0 GiB  abababababab and 2 older
vision/new            0 B  -                              0 B  -                             0        0 B  none yet
1.0 GiB are of datasets that this cache node was not told of
";
        assert_eq!(text_of(&listed()), expected);
        let quota = |guaranteed_bytes, limit_bytes| {
            quota_of(Some(&Quota {
                guaranteed_bytes,
                limit_bytes,
            }))
        };
        assert_eq!(quota(GIB, None), "at least 1.0 GiB");
        assert_eq!(quota(0, Some(GIB)), "at most 1.0 GiB");
    }

    #[test]
    fn a_program_gets_numbers_and_no_fault_where_there_is_none() {
        let json = json_of(&listed());
        assert_eq!(json["tiers"][0]["fault"], Value::Null);
        assert_eq!(json["tiers"][1]["fault"], "tier hdd is full");
        let imagenet = &json["datasets"][0];
        assert_eq!(imagenet["cachedBytes"], 41 * GIB);
        assert_eq!(imagenet["tiers"][1], json!({"tier": "hdd", "bytes": GIB}));
        assert_eq!(imagenet["quota"]["limitBytes"], 50 * GIB);
        assert_eq!(json["datasets"][1]["quota"]["limitBytes"], Value::Null);
        assert_eq!(json["otherBytes"], GIB);
    }

    #[tokio::test]
    async fn it_is_asked_of_the_cache_node_at_the_address() {
        let fake = FakeCacheNode::named("pool-0");
        fake.set(|answers| answers.listed = listed());
        let address = fake_cache_node::serve(fake).await;
        assert_eq!(Pool::at(&address).await.unwrap().listed, listed());
        let output = Output::Json;
        run(CacheLs {
            asked: Asked { address, output },
        })
        .await
        .unwrap();
    }
}
