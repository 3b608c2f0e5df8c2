//! Hadoop's own NameNode and DataNode, for whoever says his name and with Kerberos.

use std::net::SocketAddr;

use async_trait::async_trait;
use penstock_e2e::origin::{HdfsCluster, Realm};
use penstock_protocol::control::cache_node as wire;
use wire::source::Origin;

use super::{HERE, source};
use crate::conformance::{Store, conforms};
use crate::kerberos::{kdcs, key_of, keytab};

struct Hdfs {
    cluster: HdfsCluster,
    kerberos: Option<Realm>,
}

impl Hdfs {
    fn at(&self, address: SocketAddr, path: &str) -> wire::Source {
        let kerberos = self.kerberos.as_ref();
        self.as_who(address, path, kerberos.map(|realm| key_of(realm, "reader")))
    }

    fn as_who(&self, address: SocketAddr, path: &str, key: Option<wire::KerberosKey>) -> wire::Source {
        source(Origin::Hdfs(wire::Hdfs {
            name_nodes: vec![address.to_string()],
            path: path.into(),
            user: String::new(),
            key,
            kdcs: self.kerberos.as_ref().map(kdcs).unwrap_or_default(),
        }))
    }
}

#[async_trait]
impl Store for Hdfs {
    fn address(&self) -> SocketAddr {
        self.cluster.rpc[0]
    }

    fn source(&self, address: SocketAddr) -> wire::Source {
        self.at(address, "/data")
    }

    /// Without Kerberos names of users are believed.
    fn wrong_keys(&self, address: SocketAddr) -> Option<(wire::Source, &'static str)> {
        const SECRET: &str = "a key that is none: hush-hush...";
        let principal = self.kerberos.as_ref()?.principal("reader");
        let key = wire::KerberosKey {
            keytab: keytab(&principal, 18, SECRET.as_bytes()),
            principal,
        };
        Some((self.as_who(address, "/data", Some(key)), SECRET))
    }

    fn nowhere(&self, address: SocketAddr) -> wire::Source {
        self.at(address, "/not-there")
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.cluster.put(&format!("/data/{key}"), bytes).unwrap();
    }

    async fn remove(&self, key: &str) {
        self.cluster.remove(&format!("/data/{key}")).unwrap();
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
    let cluster = HdfsCluster::on(HERE).unwrap();
    let kerberos = None;
    conforms(&Hdfs { cluster, kerberos }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hdfs_with_kerberos_conforms() {
    let realm = Realm::on(HERE, "CONFORMS.ORG").unwrap();
    let cluster = HdfsCluster::with_kerberos_on(HERE, &realm, "privacy").unwrap();
    let kerberos = Some(realm);
    conforms(&Hdfs { cluster, kerberos }).await;
}
