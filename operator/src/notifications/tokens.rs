//! The tokens of Datasets, looked up one at a time and remembered for a while, so that nobody can make us ask the API server often. It must
//! not know who asks, nor what is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use penstock_crds::Dataset;
use tokio::sync::watch;
use tokio::time::Instant;

use super::door::Leader;
use crate::limits::{REFUSAL_DELAY, TOKEN_BYTES_MIN, TOKEN_KEPT};

/// Digests of tokens by UID and Secret, as they were looked up last.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<(String, String), LookUp>>);

/// The API server has not answered.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered;

/// Digests are compared in a time that says nothing of where they differ.
type Found = Result<Option<blake3::Hash>, Unanswered>;

#[derive(Clone)]
struct LookUp {
    began: Instant,
    /// `None` while it is under way.
    found: watch::Receiver<Option<Found>>,
}

impl Tokens {
    /// Digest of the token that is in a Secret, as far as it is known until then. A look-up goes on when nobody waits for it any more.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn right(&self, leader: &Arc<dyn Leader>, dataset: &Dataset, secret: &str, until: Instant) -> Found {
        let mut found = self.look_up(leader, dataset, secret).found;
        // The sender is gone only when the look-up has panicked.
        match tokio::time::timeout_at(until, found.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.unwrap_or(Err(Unanswered)),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }

    /// Whether the API server left a look-up without an answer a moment ago.
    pub fn is_unanswered(&self) -> bool {
        let lookups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.values().any(|lookup| match *lookup.found.borrow() {
            _ if lookup.is_old() => false,
            Some(found) => found.is_err(),
            None => lookup.began.elapsed() >= REFUSAL_DELAY,
        })
    }

    fn look_up(&self, leader: &Arc<dyn Leader>, dataset: &Dataset, secret: &str) -> LookUp {
        let mut lookups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.retain(|_, lookup| !lookup.is_old());
        let key = (dataset.uid().unwrap_or_default(), secret.to_owned());
        let begin = || {
            let (tell, found) = watch::channel(None);
            let (leader, name, secret) = (leader.clone(), dataset.name_any(), secret.to_owned());
            let namespace = dataset.namespace().unwrap_or_default();
            tokio::spawn(async move {
                let found = look_up(&*leader, &name, &namespace, &secret).await;
                // Whether anybody waits for it or not.
                tell.send_replace(Some(found));
            });
            let began = Instant::now();
            LookUp { began, found }
        };
        lookups.entry(key).or_insert_with(begin).clone()
    }
}

impl LookUp {
    fn is_old(&self) -> bool {
        self.began.elapsed() >= TOKEN_KEPT
    }
}

async fn look_up(leader: &dyn Leader, dataset: &str, namespace: &str, secret: &str) -> Found {
    let found = match tokio::time::timeout(TOKEN_KEPT, leader.token(namespace, secret)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(dataset, namespace, %error, "look up the token of notifications");
            return Err(Unanswered);
        }
        Err(_) => {
            tracing::warn!(
                dataset,
                namespace,
                "look up the token of notifications: the API server takes too long"
            );
            return Err(Unanswered);
        }
    };
    let token = found
        .as_deref()
        .map(str::trim)
        .filter(|token| token.len() >= TOKEN_BYTES_MIN);
    if token.is_none() {
        tracing::warn!(
            dataset,
            namespace,
            secret,
            "notifications are refused: the Secret does not exist or has no key `token` of 16 characters or more; create it"
        );
    }
    Ok(token.map(|token| blake3::hash(token.as_bytes())))
}
