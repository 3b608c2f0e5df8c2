//! Where tickets of Kerberos are for a source, which its author does not say. Pure.

use penstock_crds::KerberosRealm;
use penstock_protocol::control::cache_node as wire;
use wire::source::Origin;

/// The realm of the principal as whom a source is read, if it is one.
pub fn realm(told: &wire::Source) -> Option<&str> {
    let Some(Origin::Hdfs(wire::Hdfs { key: Some(key), .. })) = &told.origin else {
        return None;
    };
    // One without a realm is none, which its client says.
    key.principal.rsplit_once('@').map(|(_, realm)| realm)
}

/// The same source with where tickets are, if it needs any.
pub fn with_kdcs<'a>(mut told: wire::Source, realms: impl IntoIterator<Item = &'a KerberosRealm>) -> wire::Source {
    if let Some(Origin::Hdfs(hdfs)) = &mut told.origin
        && hdfs.key.is_some()
    {
        let of = |KerberosRealm { name, kdcs }: &KerberosRealm| {
            let kdcs = kdcs.iter().map(|kdc| format!("{name}/{kdc}"));
            kdcs.collect::<Vec<_>>()
        };
        hdfs.kdcs = realms.into_iter().flat_map(of).collect();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_reads_as_a_principal_is_told_of_kdcs() {
        let realms =
            [("A.ORG", &["a1", "a2:750"][..]), ("B.ORG", &["[fd00::1]:88"])].map(|(name, kdcs)| KerberosRealm {
                name: name.to_owned(),
                kdcs: kdcs.iter().map(|kdc| (*kdc).to_owned()).collect(),
            });
        let told = |key| {
            let hdfs = wire::Hdfs {
                key,
                ..wire::Hdfs::default()
            };
            let told = wire::Source {
                origin: Some(Origin::Hdfs(hdfs)),
                ..wire::Source::default()
            };
            let realm = realm(&told).map(str::to_owned);
            let Some(Origin::Hdfs(hdfs)) = with_kdcs(told, &realms).origin else {
                panic!("it is HDFS no more");
            };
            (realm, hdfs.kdcs.join(" "))
        };
        let key = |principal: &str| {
            Some(wire::KerberosKey {
                principal: principal.to_owned(),
                keytab: "BQI=".to_owned(),
            })
        };
        let all = "A.ORG/a1 A.ORG/a2:750 B.ORG/[fd00::1]:88";
        assert_eq!(told(key("nn/host@B.ORG")), (Some("B.ORG".to_owned()), all.to_owned()));
        assert_eq!(told(key("nobody")), (None, all.to_owned()));
        assert_eq!(told(None), (None, String::new()));
    }
}
