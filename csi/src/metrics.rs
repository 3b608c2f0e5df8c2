//! What the csi container counts, for Prometheus. Names and units are in `docs/guide/status.md`.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use penstock_mount::forms::Form;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    call: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FormLabel {
    form: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoneLabel {
    done: Done,
}

/// What was done so that everybody holds everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Done {
    /// A mounter was given a connection.
    HandedOver,
    /// A mounter, or a csi container that was replaced, gave one back.
    TakenBack,
    /// The kernel was asked to send again what somebody left unanswered.
    Resent,
    /// Nobody answered for too long; csi answers with EIO.
    Refused,
}

/// What is there at the moment of a look.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The form of each mounted revision.
    pub forms: Vec<Form>,
    /// Connections whose descriptors are held here.
    pub kept: usize,
    /// Of these, how many a mounter serves.
    pub served: usize,
    /// Whether a mounter is here.
    pub has_mounter: bool,
}

type Count = Gauge<i64, AtomicI64>;

/// The counters of a process; clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<CallLabel, Histogram, fn() -> Histogram>,
    done: Family<DoneLabel, Counter>,
    mounted: Family<FormLabel, Count>,
    kept: Count,
    served: Count,
    mounter: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("penstock_csi");
        // 1 ms to 65 s: from a bind to a call that waits for everything it may wait for.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(1e-3, 4.0, 9));
        let inner = Inner {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(seconds),
            done: Family::default(),
            mounted: Family::default(),
            kept: Gauge::default(),
            served: Gauge::default(),
            mounter: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("calls", "Calls of the kubelet", inner.calls.clone());
        let help = "Time of a call";
        registry.register_with_unit("call", help, Unit::Seconds, inner.call_seconds.clone());
        registry.register("takeover_steps", "What keeps every holder complete", inner.done.clone());
        registry.register("mounted_revisions", "Revisions that are mounted", inner.mounted.clone());
        let help = "Connections whose descriptors are held here";
        registry.register("kept_connections", help, inner.kept.clone());
        let help = "Of these, how many a mounter serves";
        registry.register("served_connections", help, inner.served.clone());
        registry.register("mounter_connected", "Whether a mounter is here", inner.mounter.clone());
        Self(Arc::new(Inner { registry, ..inner }))
    }
}

impl Metrics {
    /// In the exposition format of Prometheus.
    pub fn text(&self, seen: &Seen) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for form in Form::ALL {
            let count = seen.forms.iter().filter(|found| **found == form).count();
            self.0
                .mounted
                .get_or_create(&FormLabel { form: form.name() })
                .set(number(count));
        }
        self.0.kept.set(number(seen.kept));
        self.0.served.set(number(seen.served));
        self.0.mounter.set(seen.has_mounter.into());
        let mut text = String::new();
        // A String has room.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }

    /// A call has ended.
    pub fn called(&self, call: &'static str, code: Code, took: Duration) {
        let code = format!("{code:?}");
        self.0.calls.get_or_create(&CallLabels { call, code }).inc();
        let seconds = self.0.call_seconds.get_or_create(&CallLabel { call });
        seconds.observe(took.as_secs_f64());
    }

    /// Something was done for take-overs.
    pub fn done(&self, done: Done) {
        self.0.done.get_or_create(&DoneLabel { done }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_and_seen_is_shown_with_its_labels() {
        let metrics = Metrics::default();
        metrics.called("NodePublishVolume", Code::Unavailable, Duration::from_millis(2));
        metrics.done(Done::HandedOver);
        let text = metrics.text(&Seen {
            forms: vec![Form::Loop, Form::Loop, Form::File],
            kept: 3,
            served: 2,
            has_mounter: true,
        });
        for line in [
            r#"penstock_csi_calls_total{call="NodePublishVolume",code="Unavailable"} 1"#,
            r#"penstock_csi_call_seconds_count{call="NodePublishVolume"} 1"#,
            r#"penstock_csi_takeover_steps_total{done="HandedOver"} 1"#,
            r#"penstock_csi_mounted_revisions{form="Loop"} 2"#,
            "penstock_csi_kept_connections 3",
            "penstock_csi_served_connections 2",
            "penstock_csi_mounter_connected 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
