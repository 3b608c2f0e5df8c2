//! A server that answers as the Hugging Face hub does.

use std::net::SocketAddr;
use std::sync::Mutex;

use async_trait::async_trait;
use penstock_protocol::control::cache_node as wire;
use wire::source::Origin;

use super::{WRONG, source};
use crate::conformance::{Store, conforms};
use crate::hub::server::{How, Hub, TOKEN};

struct Repository {
    hub: Hub,
    files: Mutex<std::collections::BTreeMap<String, Vec<u8>>>,
}

impl Repository {
    fn at(address: SocketAddr, repository: &str, token: &str) -> wire::Source {
        source(Origin::HuggingFace(wire::HuggingFace {
            repository: repository.into(),
            endpoint: format!("http://{address}"),
            token: Some(wire::HuggingFaceToken { value: token.into() }),
            ..Default::default()
        }))
    }
}

#[async_trait]
impl Store for Repository {
    fn address(&self) -> SocketAddr {
        self.hub.endpoint.trim_start_matches("http://").parse().unwrap()
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "owner/name", TOKEN)
    }

    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)> {
        Some((Self::at(address, "owner/name", WRONG), WRONG))
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "not/there", TOKEN)
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        let mut files = self.files.lock().unwrap();
        files.insert(key.to_owned(), bytes.to_vec());
        self.hub.commit("main", files.clone());
    }

    async fn remove(&self, key: &str) {
        let mut files = self.files.lock().unwrap();
        files.remove(key).unwrap();
        self.hub.commit("main", files.clone());
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        vec![
            "a b",
            "data/é",
            "data/q?a&b=c;d",
            "100%25 #1",
            "<b>'\"+~",
            "back\\slash",
            "%2E%2E",
            "日本 語.bin",
        ]
    }

    /// At the commit that was listed.
    fn keeps_versions(&self) -> bool {
        true
    }

    fn has_times(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_conforms() {
    let hub = Hub::with(How::Open, &[]).await;
    let files = Mutex::default();
    conforms(&Repository { hub, files }).await;
}
