//! Leader election by a Lease: a pure decision and a loop around it. Who loses the lease ends its process, because nothing
//! in it may go on writing.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use tokio::time::Instant;

use crate::limits::{LEASE_DURATION, LEASE_HOLD, LEASE_RENEW_INTERVAL};

/// Name of the Lease.
pub const NAME: &str = "penstock-operator";

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Write our name.
    Take,
    /// Somebody else holds it.
    Wait,
}

fn verdict(spec: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> Verdict {
    let Some(spec) = spec else { return Verdict::Take };
    let holder = spec.holder_identity.as_deref().unwrap_or("");
    if holder.is_empty() || holder == identity {
        return Verdict::Take;
    }
    let duration = Duration::from_secs(spec.lease_duration_seconds.unwrap_or(15).unsigned_abs().into());
    let renewed = spec.renew_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let age = Duration::try_from(now.duration_since(renewed)).unwrap_or_default();
    if age > duration { Verdict::Take } else { Verdict::Wait }
}

/// Leadership of one process.
///
/// ```text
/// renewed ─┬─ try ─ pause ─ try ─ ... ─► LEASE_HOLD: we leave ──► LEASE_DURATION: others may take it
///          └─ when the request that succeeded began: the time that the others read is no earlier
/// ```
pub struct Leadership {
    api: Api<Lease>,
    identity: String,
    renewed: Instant,
}

impl Leadership {
    /// Waits until this process leads.
    pub async fn acquire(client: Client, namespace: &str, identity: String) -> Self {
        let mut leadership = Self {
            api: Api::namespaced(client, namespace),
            identity,
            renewed: Instant::now(),
        };
        loop {
            let began = Instant::now();
            if leadership.try_in_time().await == Some(Verdict::Take) {
                leadership.renewed = began;
                return leadership;
            }
            tokio::time::sleep(LEASE_RENEW_INTERVAL).await;
        }
    }

    /// Renews until it cannot any more; then the process must end, before anybody else may take the lease.
    pub async fn keep(self) {
        hold(self.renewed, async || self.renew().await).await;
    }

    /// Tries until one succeeds, and tells when that one began; `None` when somebody else holds the lease.
    async fn renew(&self) -> Option<Instant> {
        loop {
            tokio::time::sleep(LEASE_RENEW_INTERVAL).await;
            let began = Instant::now();
            match self.try_in_time().await {
                Some(Verdict::Take) => return Some(began),
                Some(Verdict::Wait) => return None,
                None => {}
            }
        }
    }

    /// One try; `None` when it failed, which is logged.
    async fn try_in_time(&self) -> Option<Verdict> {
        match tokio::time::timeout(LEASE_RENEW_INTERVAL, self.try_once()).await {
            Ok(Ok(verdict)) => return Some(verdict),
            Ok(Err(error)) => tracing::warn!(%error, "ask for the lease"),
            Err(_) => tracing::warn!("ask for the lease: no answer in {} s", LEASE_RENEW_INTERVAL.as_secs()),
        }
        None
    }

    /// Gives the lease back, so that the next one need not wait for it to run out.
    pub async fn release(client: Client, namespace: &str, identity: &str) {
        let api: Api<Lease> = Api::namespaced(client, namespace);
        let Ok(Some(mut lease)) = api.get_opt(NAME).await else {
            return;
        };
        if let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(identity))
        {
            spec.holder_identity = None;
            if let Err(error) = api.replace(NAME, &PostParams::default(), &lease).await {
                tracing::warn!(%error, "give the lease back; it runs out by itself");
            }
        }
    }

    async fn try_once(&self) -> Result<Verdict, kube::Error> {
        let now = Timestamp::now();
        let found = self.api.get_opt(NAME).await?;
        let verdict = verdict(
            found.as_ref().and_then(|lease| lease.spec.as_ref()),
            &self.identity,
            now,
        );
        if verdict == Verdict::Wait {
            return Ok(verdict);
        }
        let before = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_mine = before.holder_identity.as_deref() == Some(&self.identity);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            renew_time: Some(MicroTime(now)),
            acquire_time: if is_mine {
                before.acquire_time
            } else {
                Some(MicroTime(now))
            },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!is_mine)),
            ..LeaseSpec::default()
        };
        let outcome = match found {
            // With the version that was read: of two that try, one is refused.
            Some(lease) => {
                self.api
                    .replace(
                        NAME,
                        &PostParams::default(),
                        &Lease {
                            spec: Some(spec),
                            ..lease
                        },
                    )
                    .await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                };
                self.api
                    .create(
                        &PostParams::default(),
                        &Lease {
                            metadata,
                            spec: Some(spec),
                        },
                    )
                    .await
            }
        };
        // A conflict may be an earlier try of ours that came late; the next look shows who holds it.
        outcome.map(|_| Verdict::Take)
    }
}

/// Goes on for as long as `renew` tells in time when it last succeeded.
async fn hold(mut renewed: Instant, renew: impl AsyncFn() -> Option<Instant>) {
    while let Ok(Some(began)) = tokio::time::timeout_at(renewed + LEASE_HOLD, renew()).await {
        renewed = began;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leader_whose_request_hangs_leaves_before_others_may_take_the_lease() {
        let almost = LEASE_HOLD - Duration::from_millis(100);
        let (Some(long_ago), begun) = (Instant::now().checked_sub(almost), Instant::now()) else {
            return;
        };
        hold(long_ago, async || std::future::pending().await).await;
        assert!(begun.elapsed() < LEASE_DURATION - LEASE_HOLD);
        // An answer that took long counts from when it was asked for.
        let answers = std::cell::Cell::new(0);
        let slow = async || {
            answers.set(answers.get() + 1);
            if answers.get() > 1 {
                std::future::pending().await
            } else {
                Some(long_ago)
            }
        };
        hold(Instant::now(), slow).await;
        assert!(begun.elapsed() < LEASE_DURATION - LEASE_HOLD);
    }

    fn held(by: &str, renewed_at: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed_at).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_run_out() {
        let now = Timestamp::from_second(1000).unwrap();
        for (spec, expected) in [
            (None, Verdict::Take),
            (Some(held("", 999)), Verdict::Take),
            (Some(held("me", 10)), Verdict::Take),
            (Some(held("other", 990)), Verdict::Wait),
            (Some(held("other", 985)), Verdict::Wait),
            (Some(held("other", 984)), Verdict::Take),
            (Some(held("other", 2000)), Verdict::Wait),
        ] {
            assert_eq!(verdict(spec.as_ref(), "me", now), expected, "{spec:?}");
        }
    }
}
