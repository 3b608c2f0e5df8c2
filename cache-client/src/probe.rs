//! A probe: the request for the ring, on a connection of its own and with a short limit. It tells whether a node answers
//! at all, and what the ring is.

use std::time::Duration;

use penstock_protocol::frame::{Header, Kind, TEXT_BYTES_MAX};
use penstock_protocol::ids::RevisionId;
use penstock_protocol::ring::Ring;
use penstock_tls::Identity;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::lane::{Lane, LaneError};

/// How a probe that may still run ends, for any number of those who wait for it.
#[derive(Clone)]
pub(crate) struct Verdict(watch::Receiver<Option<Result<(), String>>>);

/// The other end of a [`Verdict`].
pub(crate) struct Judge(watch::Sender<Option<Result<(), String>>>);

impl Verdict {
    pub(crate) fn pending() -> (Judge, Self) {
        let (sender, receiver) = watch::channel(None);
        (Judge(sender), Self(receiver))
    }

    /// Whether somebody will still say something.
    pub(crate) fn is_pending(&self) -> bool {
        self.0.has_changed().is_ok()
    }

    /// Whether the node answered; else why not.
    pub(crate) async fn wait(mut self) -> Result<(), String> {
        let said = self.0.wait_for(Option::is_some).await.map(|said| said.clone());
        said.ok()
            .flatten()
            .unwrap_or_else(|| Err("the probe was given up".to_owned()))
    }
}

impl Judge {
    pub(crate) fn say(self, said: Result<(), String>) {
        self.0.send_replace(Some(said));
    }
}

/// Asks the member at `address` for its ring.
pub(crate) async fn ring_of(
    (member, address): (&str, &str),
    identity: Option<&Identity>,
    longest: Duration,
) -> Result<Ring, String> {
    let asking = timeout(longest, ask((member, address), identity)).await;
    let ring = asking.unwrap_or(Err(LaneError::Late));
    ring.map_err(|error| format!("{address} asked for its ring: {error}"))
}

async fn ask(node: (&str, &str), identity: Option<&Identity>) -> Result<Ring, LaneError> {
    let mut lane = Lane::connect(node, identity, None).await?;
    let reply = lane
        .ask(&Header::request(Kind::Ring, 0, RevisionId([0; 32]), 0, 0, 0))
        .await?;
    if reply.kind == Kind::Error {
        return Err(LaneError::Refused(lane.text(reply.length).await?));
    }
    if reply.length > TEXT_BYTES_MAX {
        return Err(LaneError::Nonsense("a ring that is too long"));
    }
    let mut bytes = vec![0; reply.length as usize];
    lane.body(&mut bytes).await?;
    Ring::decode(&bytes).map_err(|_| LaneError::Nonsense("no ring"))
}
