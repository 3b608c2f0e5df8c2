//! Hadoop's own NameNode and DataNode.

use std::net::SocketAddr;

use async_trait::async_trait;
use penstock_e2e::origin::HdfsCluster;
use penstock_protocol::control::cache_node as wire;
use wire::source::Origin;

use super::{HERE, source};
use crate::conformance::{Store, conforms};

struct Hdfs(HdfsCluster);

impl Hdfs {
    fn at(address: SocketAddr, path: &str) -> wire::Source {
        source(Origin::Hdfs(wire::Hdfs {
            name_nodes: vec![address.to_string()],
            path: path.into(),
            user: String::new(),
        }))
    }
}

#[async_trait]
impl Store for Hdfs {
    fn address(&self) -> SocketAddr {
        self.0.rpc[0]
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "/data")
    }

    /// Names of users are believed.
    fn wrong_keys(&self, _: SocketAddr) -> Option<(wire::Source, &'static str)> {
        None
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        Self::at(address, "/not-there")
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.0.put(&format!("/data/{key}"), bytes).unwrap();
    }

    async fn remove(&self, key: &str) {
        self.0.remove(&format!("/data/{key}")).unwrap();
    }

    fn odd_keys(&self) -> Vec<&'static str> {
        vec![
            " a b ",
            "a+b",
            "é/ü",
            "q?a&b=c;d",
            "100%25 #1",
            "<b>'\"+~",
            "back\\slash",
            "%2E%2E",
            "日本 語",
        ]
    }

    /// Bytes come from DataNodes, whose addresses clients are told.
    fn is_http(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_conforms() {
    conforms(&Hdfs(HdfsCluster::on(HERE).unwrap())).await;
}
