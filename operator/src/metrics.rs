//! What the operator counts, for Prometheus. Names and units are in `docs/guide/status.md`.

use std::fmt;
use std::sync::{Arc, OnceLock};

use kube::ResourceExt;
use kube::runtime::reflector::Store;
use penstock_crds::Dataset;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// It names objects of a source.
    Marked,
    /// It is about nothing that the Dataset has.
    Ignored,
    /// Nobody understands it, so all is looked at.
    NotUnderstood,
    /// A part of the way in which a sender finds out whether we want to be told.
    Handshake,
    /// The token is wrong, or there is no such Dataset.
    Refused,
    /// Too many, too large or too slow.
    TooMuch,
    /// This process does not lead.
    NotLeading,
    /// The API server does not answer.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

/// The counters of a process; clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    notifications: Family<OutcomeLabel, Counter>,
    datasets: Datasets,
}

/// All Datasets, once this process leads.
#[derive(Clone, Default)]
struct Datasets(Arc<OnceLock<Store<Dataset>>>);

impl fmt::Debug for Datasets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Datasets")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("penstock");
        let (notifications, datasets) = (Family::default(), Datasets::default());
        let help = "Notifications of changed objects, by what became of them";
        registry.register("notifications", help, notifications.clone());
        registry.register_collector(Box::new(datasets.clone()));
        Self(Arc::new(Inner {
            registry,
            notifications,
            datasets,
        }))
    }
}

impl Metrics {
    /// This process leads, and these are the Datasets.
    pub fn lead(&self, datasets: Store<Dataset>) {
        // A process leads once.
        let _ = self.0.datasets.0.set(datasets);
    }

    /// A notification has come to its end.
    pub fn notified(&self, outcome: Outcome) {
        self.0.notifications.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// In the exposition format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A String has room.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }
}

impl Collector for Datasets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "When the newest look at all sources began that found the committed revision right";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("dataset_observed_timestamp", help, unit, MetricType::Gauge)?;
        for dataset in self.0.get().map(Store::state).unwrap_or_default() {
            let revision = dataset.status.as_ref().and_then(|status| status.revision.as_ref());
            let Some(observed_at) = revision.and_then(|revision| revision.observed_at.as_ref()) else {
                continue;
            };
            let labels = [
                ("namespace", dataset.namespace().unwrap_or_default()),
                ("dataset", dataset.name_any()),
            ];
            ConstGauge::new(observed_at.0.as_second()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_leader_shows_when_each_dataset_was_looked_at() {
        let metrics = Metrics::default();
        let line = "penstock_dataset_observed_timestamp_seconds{namespace=\"n\",dataset=\"d\"} 1767323045";
        assert!(!metrics.text().contains("{namespace"), "nobody leads");
        let (datasets, mut writer) = store();
        let revision = |observed_at: Value| {
            json!({"revision": {
                "id": "11", "space": "22", "files": 1, "bytes": 1, "sourcesDigest": "33", "createdAt": "", "observedAt": observed_at,
            }})
        };
        for (name, status) in [
            ("d", revision(json!("2026-01-02T03:04:05Z"))),
            // As it was written before revisions had it: it is nothing that a status must not have.
            ("old", json!({"observedAt": "2026-01-02T03:04:05Z"})),
            ("part", revision(json!(null))),
            ("new", json!({})),
        ] {
            let dataset = json!({
                "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"namespace": "n", "name": name},
                "spec": {"sources": []}, "status": status,
            });
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value(dataset).unwrap()));
        }
        metrics.lead(datasets);
        metrics.notified(Outcome::NotUnderstood);
        let text = metrics.text();
        for line in [line, "penstock_notifications_total{outcome=\"NotUnderstood\"} 1"] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(
            text.matches("{namespace").count(),
            1,
            "of one that was not looked at nothing is said"
        );
    }
}
