//! Which KDCs this machine knows: what `krb5.conf` says of realms. Of a CacheRuntime they are in its spec.
//!
//! Only `kdc` of `[realms]` is read. Files that it includes are not, and no names of DNS are looked up for a realm.

use std::path::PathBuf;

use penstock_crds::KerberosRealm;

/// Where everybody has it.
const FILE: &str = "/etc/krb5.conf";

/// The realms of this machine; of several files the first that names a realm counts, as for everybody else.
pub fn realms(krb5_config: Option<&str>) -> Vec<KerberosRealm> {
    let mut realms: Vec<KerberosRealm> = Vec::new();
    for file in files(krb5_config) {
        // One that is not there says nothing; a realm that is missing is told by who needs it.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for realm in of_text(&text) {
            if !realms.iter().any(|known| known.name == realm.name) {
                realms.push(realm);
            }
        }
    }
    realms
}

fn files(krb5_config: Option<&str>) -> Vec<PathBuf> {
    let named = krb5_config.filter(|named| !named.is_empty()).unwrap_or(FILE);
    named.split(':').map(PathBuf::from).collect()
}

fn of_text(text: &str) -> Vec<KerberosRealm> {
    let (mut realms, mut is_in_realms): (Vec<KerberosRealm>, _) = (Vec::new(), false);
    // How many braces are open.
    let mut depth = 0;
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) || line.is_empty() {
            continue;
        }
        if depth == 0 && line.starts_with('[') {
            is_in_realms = line.starts_with("[realms]");
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if value.starts_with('{') {
            if is_in_realms && depth == 0 {
                realms.push(KerberosRealm {
                    name: name.to_owned(),
                    kdcs: Vec::new(),
                });
            }
            depth += 1;
        } else if line.starts_with('}') {
            depth = (depth - 1).max(0);
        } else if is_in_realms && depth == 1 && name == "kdc" {
            // All are asked over TCP.
            let kdc = value.strip_prefix("tcp/").unwrap_or(value).to_owned();
            if let Some(realm) = realms.last_mut() {
                realm.kdcs.push(kdc);
            }
        }
    }
    realms.retain(|realm| !realm.kdcs.is_empty());
    realms
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# kdc = not.this.one
[libdefaults]
    default_realm = A.ORG
    kdc = nor.this.one
[realms]
    A.ORG = {
        kdc = kdc1.a.org:88
        kdc = tcp/kdc2.a.org
        admin_server = kdc1.a.org
        auth_to_local_names = {
            kdc = nor.this.one
        }
    }
    B.ORG = {
        admin_server = b.org
    }
    C.ORG = {
        kdc = [fd00::1]:750
    }
[domain_realm]
    .a.org = A.ORG
";

    fn shown(realms: &[KerberosRealm]) -> Vec<String> {
        let shown = |realm: &KerberosRealm| format!("{} {}", realm.name, realm.kdcs.join(" "));
        realms.iter().map(shown).collect()
    }

    #[test]
    fn realms_have_the_kdcs_that_stand_in_their_braces() {
        let expected = ["A.ORG kdc1.a.org:88 kdc2.a.org", "C.ORG [fd00::1]:750"];
        assert_eq!(shown(&of_text(TEXT)), expected);
        assert_eq!(of_text("[realms]\n}\n}\nkdc = x"), []);
    }

    #[test]
    fn of_several_files_the_first_that_names_a_realm_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, "[realms]\nA.ORG = {\nkdc = first\n}\n").unwrap();
        std::fs::write(&two, TEXT).unwrap();
        let named = format!("{}:/not/there:{}", one.display(), two.display());
        assert_eq!(shown(&realms(Some(&named))), ["A.ORG first", "C.ORG [fd00::1]:750"]);
        assert_eq!(files(None), files(Some("")));
    }
}
