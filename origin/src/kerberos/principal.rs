//! Names of Kerberos: `reader@EXAMPLE.ORG`, `hdfs/nn1.example.org@EXAMPLE.ORG`.

use std::fmt;
use std::str::FromStr;

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    names: Vec<String>,
    realm: String,
}

impl Principal {
    /// One of these names.
    pub(super) fn new(names: Vec<String>, realm: String) -> Self {
        Self { names, realm }
    }

    /// The parts between slashes.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Where it is known.
    pub(crate) fn realm(&self) -> &str {
        &self.realm
    }
}

impl FromStr for Principal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no principal; write it as name@REALM or name/host@REALM, as `klist -k` shows it");
        let (names, realm) = text.rsplit_once('@').ok_or_else(wrong)?;
        let names: Vec<String> = names.split('/').map(str::to_owned).collect();
        let is_plain = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !matches!(c, '@' | '\\' | '/'))
        };
        if !is_plain(realm) || !names.iter().all(|name| is_plain(name)) {
            return Err(wrong());
        }
        Ok(Self::new(names, realm.to_owned()))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.names.join("/"), self.realm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_names_and_a_realm() {
        for (text, names) in [("reader@A.ORG", 1), ("hdfs/nn.a.org@A.ORG", 2)] {
            let principal: Principal = text.parse().unwrap();
            assert_eq!((principal.names().len(), principal.realm()), (names, "A.ORG"));
            assert_eq!(principal.to_string(), text);
        }
        for text in [
            "", "reader", "@A.ORG", "reader@", "a//b@A", "a b@A", "a\\/b@A", "a@b@A", "é@A",
        ] {
            let wrong = text.parse::<Principal>().unwrap_err();
            assert!(wrong.contains("name@REALM"), "{text}: {wrong}");
        }
    }
}
