//! A client, the nodes of one ring, and what every test asks of them.

use std::time::{Duration, Instant};

use penstock_cache_client::{CacheClient, ClientError};
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::fake_node::{FakeNode, content, ring_of};

pub const SPACE: SpaceId = SpaceId([3; 16]);
pub const REVISION: RevisionId = RevisionId([7; 32]);
/// Longer than any test that must succeed takes.
pub const PATIENT: Duration = Duration::from_secs(30);
/// For tests that must fail.
pub const SHORT: Duration = Duration::from_millis(400);

pub struct Scene {
    pub client: CacheClient,
    /// In the order in which they own the first stripe.
    pub nodes: Vec<FakeNode>,
}

impl Scene {
    pub fn new(nodes: usize, patience: Duration) -> Self {
        let mut nodes: Vec<FakeNode> = (0..nodes).map(|_| FakeNode::start(SPACE)).collect();
        let ring = ring_of(&nodes.iter().collect::<Vec<_>>(), 1);
        nodes.iter().for_each(|node| node.tell(&ring));
        let order: Vec<String> = ring.owners(&SPACE, 0).into_iter().map(|m| m.address.clone()).collect();
        nodes.sort_by_key(|node| order.iter().position(|address| *address == node.address()));
        let client = CacheClient::new(order, patience);
        Self { client, nodes }
    }

    /// Reads at `address` and compares.
    pub async fn read(&self, address: u64, bytes: usize) -> Result<(), ClientError> {
        read(&self.client, address, bytes).await
    }

    /// Reads of the first stripe so far, by node.
    pub fn reads(&self) -> Vec<usize> {
        self.nodes.iter().map(FakeNode::reads).collect()
    }
}

pub async fn read(client: &CacheClient, address: u64, bytes: usize) -> Result<(), ClientError> {
    assert!(
        address + bytes as u64 <= STRIPE_BYTES,
        "the scene knows the owners of the first stripe only"
    );
    let range = BlockRange::new(address, bytes as u64).unwrap();
    let mut into = vec![0xee; bytes];
    client.read(&REVISION, &SPACE, range, &mut into).await?;
    assert!(into == content(address, bytes), "wrong bytes at {address}");
    Ok(())
}

/// Waits until something is so; a test that waits for nothing fails instead of hanging.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENT, "waited in vain until {what}");
        tokio::task::yield_now().await;
    }
}
