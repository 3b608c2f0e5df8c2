//! What the cache node counts, for Prometheus. Names and units are in `docs/guide/status.md`.

use std::collections::BTreeMap;
use std::fmt;

use penstock_cache_node::Engine;
use penstock_cache_node::limits::TIERS_MAX;
use penstock_cache_node::report::{Cause, Counters, OriginOutcome, SourceReport, TierReport};
use penstock_cache_node::server::bulk::Queues;
use penstock_origin::meter::Tally;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// The text of `/metrics`.
pub(crate) struct Metrics(Registry);

struct OfNode(Engine, Queues, Tally);

impl Metrics {
    /// Those of an engine, of the server before it, and of the clients of origins behind it.
    pub(crate) fn of(engine: &Engine, queues: Queues, asked: Tally) -> Self {
        let mut registry = Registry::with_prefix("penstock");
        engine.counters().register(&mut registry);
        registry.register_collector(Box::new(OfNode(engine.clone(), queues, asked)));
        Self(registry)
    }

    /// In the exposition format of Prometheus.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // A String has room.
        let _ = text::encode(&mut text, &self.0);
        text
    }
}

impl fmt::Debug for OfNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfNode")
    }
}

impl Collector for OfNode {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (engine, report) = (&self.0, self.0.report());
        let counters = engine.counters();
        let tiers: Vec<&str> = report.tiers.iter().map(|tier| tier.name.as_str()).collect();
        let traffic = engine.traffic();

        let hits = traffic.iter().flat_map(|of| {
            let of_tier = move |(tier, name): (usize, &&str)| {
                let labels = [("dataset", of.dataset.clone()), ("tier", (*name).to_owned())];
                (labels, Counters::get(&of.hit_bytes[tier]))
            };
            tiers.iter().take(TIERS_MAX).enumerate().map(of_tier)
        });
        let help = "Bytes that reads got from the cache";
        counter(&mut encoder, "cache_hit", help, Some(&Unit::Bytes), hits)?;
        let misses = traffic
            .iter()
            .map(|of| ([("dataset", of.dataset.clone())], Counters::get(&of.miss_bytes)));
        let help = "Bytes that reads had to wait for";
        counter(&mut encoder, "cache_miss", help, Some(&Unit::Bytes), misses)?;
        let evicted = Cause::ALL.map(|cause| {
            let bytes = Counters::get(&counters.evicted_bytes[cause as usize]);
            ([("cause", cause.name().to_owned())], bytes)
        });
        let help = "Bytes that were evicted";
        counter(&mut encoder, "cache_evicted", help, Some(&Unit::Bytes), evicted)?;
        let moved = [
            ([("to", "faster")], Counters::get(&counters.risen_cells)),
            ([("to", "slower")], Counters::get(&counters.sunk_cells)),
        ];
        let help = "Pages and small files that changed their tier";
        counter(&mut encoder, "cache_moves", help, None, moved)?;
        let mut plain = |name, help, unit, value| {
            let family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            ConstCounter::new(Counters::get(value)).encode(family)
        };
        let bytes = Some(&Unit::Bytes);
        let help = "Bytes that were not cached: not worth it, or there was no room";
        plain("cache_passed", help, bytes, &counters.passed_bytes)?;
        let help = "Bytes that were compared with their checksums, in the background or for a person";
        plain("cache_scrubbed", help, bytes, &counters.scrubbed_bytes)?;
        let help = "Cached blocks that did not match their checksums";
        plain("cache_damaged_blocks", help, None, &counters.damaged_blocks)?;
        plain("origin", "Bytes that origins sent", bytes, &counters.origin_bytes)?;
        let outcomes = OriginOutcome::ALL.map(|outcome| {
            let count = counters.origin_outcomes.get(outcome);
            ([("outcome", outcome.label())], count)
        });
        let help = "Requests to origins, by how they ended";
        counter(&mut encoder, "origin_requests", help, None, outcomes)?;

        let asked = self.2.asked().into_iter();
        let asked = asked.map(|(source, kind, count)| ([("source", source), ("kind", kind.label().to_owned())], count));
        let help = "Requests that were sent to a source, each one that it may count: for listings, and for reads";
        counter(&mut encoder, "origin_asked", help, None, asked)?;
        let sources = engine.sources();
        let mut of_sources = |name, help, value: fn(&SourceReport) -> u64| {
            let values = sources
                .iter()
                .map(|source| ([("source", source.identity.clone())], value(source)));
            gauge(&mut encoder, name, help, None, values)
        };
        let help = "1 while a source does not answer";
        of_sources("origin_gone", help, |source| u64::from(source.is_gone))?;
        let help = "Requests that a source may be sent at the same time";
        of_sources("origin_requests_max", help, |source| source.requests_max as u64)?;

        let mut of_tiers = |name, help, unit, value: fn(&TierReport) -> u64| {
            let values = report
                .tiers
                .iter()
                .map(|tier| ([("tier", tier.name.clone())], value(tier)));
            gauge(&mut encoder, name, help, unit, values)
        };
        of_tiers("tier_used", "Bytes that a tier holds", bytes, |tier| tier.used_bytes)?;
        of_tiers("tier_capacity", "Bytes that a tier may hold", bytes, |tier| {
            tier.capacity_bytes
        })?;
        of_tiers("tier_broken", "Whether a tier takes no more data", None, |tier| {
            u64::from(tier.fault.is_some())
        })?;
        let depths = self.1.depths();
        let used = depths.map(|(queue, (used, _))| ([("queue", queue)], used as u64));
        let help = "Buffers of answers, and pages of reads that wait for origins, that are used";
        gauge(&mut encoder, "queue_used", help, None, used)?;
        let waiting = depths.map(|(queue, (_, waiting))| ([("queue", queue)], waiting as u64));
        let help = "Reads that wait for one of them";
        gauge(&mut encoder, "queue_waiting", help, None, waiting)?;
        let help = "Bytes of a Dataset that are cached here";
        let held: BTreeMap<String, u64> = engine.held();
        let held = held.into_iter().map(|(dataset, bytes)| ([("dataset", dataset)], bytes));
        gauge(&mut encoder, "dataset_cached", help, bytes, held)
    }
}

fn counter<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in values {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use penstock_cache_node::memory::Budget;
    use penstock_cache_node::server::bulk::BulkServer;
    use penstock_cache_node::server::node::Node;
    use penstock_cache_node::{EngineConfig, TierConfig};
    use penstock_protocol::control::cache_node as wire;

    use super::*;

    #[tokio::test]
    async fn what_was_counted_is_shown_under_the_names_of_the_guide() {
        let folder = tempfile::tempdir().unwrap();
        let tier = TierConfig {
            name: "ssd".into(),
            path: folder.path().into(),
            capacity_bytes: Some(5 << 20),
        };
        let engine = Engine::open(EngineConfig {
            tiers: vec![tier],
            memory: Budget::default(),
            scratch: penstock_revision::Scratch::memory(),
        })
        .unwrap();
        let node = Node::open(engine.clone(), &[folder.path().into()], None).unwrap();
        // Nobody listens there, and it is asked all the same.
        let source = wire::Source {
            origin: Some(wire::source::Origin::S3(wire::S3 {
                bucket: "b".into(),
                endpoint: "http://127.0.0.1:1".into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let dataset = wire::Dataset {
            sources: vec![source],
            ..Default::default()
        };
        let config = wire::NodeConfig {
            datasets: vec![dataset.clone()],
            ..Default::default()
        };
        node.apply(config).await.unwrap();
        for told in node.sources(&dataset.sources).await.unwrap() {
            told.origin.list_all().await.unwrap_err();
        }
        let asked = node.asked().clone();
        let text = Metrics::of(&engine, BulkServer::new(node).queues(), asked).text();
        for line in [
            "penstock_cache_miss_seconds_count 0",
            "penstock_cache_evicted_bytes_total{cause=\"limit\"} 0",
            "penstock_cache_evicted_bytes_total{cause=\"asked\"} 0",
            "penstock_cache_moves_total{to=\"faster\"} 0",
            "penstock_cache_passed_bytes_total 0",
            "penstock_cache_damaged_blocks_total 0",
            "penstock_origin_requests_total{outcome=\"ok\"} 0",
            "penstock_origin_bytes_total 0",
            "penstock_origin_asked_total{source=\"s3://b/@http://127.0.0.1:1\",kind=\"list\"} 1",
            "penstock_queue_used{queue=\"answers\"} 0",
            "penstock_queue_waiting{queue=\"origins\"} 0",
            "penstock_tier_capacity_bytes{tier=\"ssd\"} 5242880",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
