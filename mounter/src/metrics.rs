//! What the mounter counts, for Prometheus. Names and units are in `docs/guide/status.md`.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Answered,
    Drifted,
    Unavailable,
}

/// How much a read asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Size {
    UpTo16KiB,
    UpTo128KiB,
    UpTo1MiB,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    size: Size,
    outcome: Outcome,
}

/// The counters of a process; clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    reads: Family<ReadLabels, Counter>,
    read_bytes: Counter,
    nearby_bytes: Counter,
    read_seconds: Histogram,
    resent: Counter,
    taken_over: Counter,
    connections: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("penstock_mounter");
        let (reads, read_bytes, nearby_bytes) = <(Family<_, _>, Counter, Counter)>::default();
        let (resent, taken_over) = <(Counter, Counter)>::default();
        // 50 µs to 200 s: from memory of the node's own cache node to the end of a patient read.
        let read_seconds = Histogram::new(exponential_buckets(50e-6, 4.0, 12));
        let connections = Gauge::default();
        registry.register("reads", "Cold reads of the kernel", reads.clone());
        registry.register_with_unit("read", "Bytes given to the kernel", Unit::Bytes, read_bytes.clone());
        let help = "Bytes from the files of cache nodes of this node";
        registry.register_with_unit("nearby", help, Unit::Bytes, nearby_bytes.clone());
        registry.register_with_unit("read", "Time of a cold read", Unit::Seconds, read_seconds.clone());
        let help = "Reads that another mounter took and did not answer";
        registry.register("resent_reads", help, resent.clone());
        let help = "Connections that another mounter had served before";
        registry.register("takeovers", help, taken_over.clone());
        registry.register("connections", "Connections that are served", connections.clone());
        Self(Arc::new(Inner {
            registry,
            reads,
            read_bytes,
            nearby_bytes,
            read_seconds,
            resent,
            taken_over,
            connections,
        }))
    }
}

impl Metrics {
    /// In the exposition format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A String has room.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }

    pub(crate) fn read(&self, bytes: usize, outcome: Outcome, took: Duration, is_resent: bool) {
        let size = match bytes {
            ..=0x4000 => Size::UpTo16KiB,
            0x4001..=0x2_0000 => Size::UpTo128KiB,
            _ => Size::UpTo1MiB,
        };
        self.0.reads.get_or_create(&ReadLabels { size, outcome }).inc();
        self.0.read_seconds.observe(took.as_secs_f64());
        if outcome == Outcome::Answered {
            self.0.read_bytes.inc_by(bytes as u64);
        }
        if is_resent {
            self.0.resent.inc();
        }
    }

    pub(crate) fn read_nearby(&self, bytes: u64) {
        self.0.nearby_bytes.inc_by(bytes);
    }

    pub(crate) fn taken_over(&self) {
        self.0.taken_over.inc();
    }

    pub(crate) fn connections(&self, count: usize) {
        self.0.connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown_with_its_labels() {
        let metrics = Metrics::default();
        metrics.read(4096, Outcome::Answered, Duration::from_millis(1), true);
        metrics.read(1 << 20, Outcome::Drifted, Duration::from_secs(1), false);
        metrics.connections(2);
        let text = metrics.text();
        for line in [
            r#"penstock_mounter_reads_total{size="UpTo16KiB",outcome="Answered"} 1"#,
            r#"penstock_mounter_reads_total{size="UpTo1MiB",outcome="Drifted"} 1"#,
            "penstock_mounter_read_bytes_total 4096",
            "penstock_mounter_read_seconds_count 2",
            "penstock_mounter_resent_reads_total 1",
            "penstock_mounter_connections 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
