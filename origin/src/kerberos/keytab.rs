//! The keys of a principal out of a keytab, the file that `kadmin`, `ktutil` and `ktpass` write. Source of the format: MIT's
//! documentation, "The Kerberos keytab binary file format", version 0x502.

use super::messages::{Key, Wrong};
use super::principal::Principal;

/// The newest keys of one principal; at least one, the best first.
pub(super) struct Keytab {
    keys: Vec<Key>,
    etypes: Vec<u8>,
}

struct Entry {
    principal: Principal,
    version: u32,
    key: Option<Key>,
}

impl Keytab {
    /// Of this principal. The error is a sentence without a key.
    pub(super) fn of(principal: &Principal, bytes: &[u8]) -> Result<Self, String> {
        let entries = entries(bytes)
            .ok_or("what the Secret has as `keytab` is no keytab; store the file as it is, not its text form")?;
        let own: Vec<&Entry> = entries.iter().filter(|entry| entry.principal == *principal).collect();
        let Some(newest) = own.iter().map(|entry| entry.version).max() else {
            let mut names: Vec<String> = entries.iter().map(|entry| entry.principal.to_string()).collect();
            names.sort();
            names.dedup();
            let others = if names.is_empty() {
                "nobody".to_owned()
            } else {
                names.join(", ")
            };
            return Err(format!(
                "the keytab has no key of {principal}, but of {others}; set `principal` of the Secret to whom it is of"
            ));
        };
        let newest = own.into_iter().filter(|entry| entry.version == newest);
        let mut keys: Vec<Key> = newest.filter_map(|entry| entry.key.clone()).collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.etype()));
        if keys.is_empty() {
            return Err(format!(
                "the newest keys of {principal} in the keytab are of encryptions that are not used here; make one with \
                 aes256-cts-hmac-sha1-96 or aes128-cts-hmac-sha1-96"
            ));
        }
        let etypes = keys.iter().map(Key::etype).collect();
        Ok(Self { keys, etypes })
    }

    pub(super) fn best(&self) -> &Key {
        // There is one.
        &self.keys[0]
    }

    pub(super) fn etypes(&self) -> &[u8] {
        &self.etypes
    }

    /// What comes out with the key of the encryption that was chosen.
    pub(super) fn by_etype<T>(&self, what: impl Fn(&Key) -> Result<T, Wrong>) -> Result<T, Wrong> {
        let mut done = Err(Wrong::Garbled);
        for key in &self.keys {
            done = what(key);
            if !matches!(done, Err(Wrong::Garbled)) {
                break;
            }
        }
        done
    }
}

/// All of a keytab; `None` if it is none.
fn entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut rest = bytes.strip_prefix(&[5, 2])?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let size = i32::from_be_bytes(take(&mut rest)?);
        let mut part = piece(&mut rest, size.unsigned_abs() as usize)?;
        // What was deleted is a hole.
        if size > 0 {
            entries.push(entry(&mut part)?);
        }
    }
    Some(entries)
}

fn entry(rest: &mut &[u8]) -> Option<Entry> {
    let count = u16::from_be_bytes(take(rest)?);
    let realm = text(rest)?;
    let names = (0..count).map(|_| text(rest)).collect::<Option<Vec<_>>>()?;
    // Kind of the name, and when it was written.
    piece(rest, 8)?;
    let [version] = take(rest)?;
    let etype = u16::from_be_bytes(take(rest)?);
    let length = u16::from_be_bytes(take(rest)?);
    let value = piece(rest, usize::from(length))?;
    // Where 255 versions were too few.
    let long = take(rest).map_or(0, u32::from_be_bytes);
    Some(Entry {
        principal: Principal::new(names, realm),
        version: if long == 0 { u32::from(version) } else { long },
        key: u8::try_from(etype)
            .ok()
            .and_then(|etype| Key::new(etype, value.to_vec())),
    })
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = u16::from_be_bytes(take(rest)?);
    String::from_utf8(piece(rest, usize::from(length))?.to_vec()).ok()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    piece(rest, N)?.try_into().ok()
}

fn piece<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (piece, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(piece)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One with these entries: principal, version, encryption, length of the key.
    pub(in crate::kerberos) fn keytab(entries: &[(&str, u32, u16, usize)]) -> Vec<u8> {
        let mut bytes = vec![5, 2];
        for (principal, version, etype, length) in entries {
            let principal: Principal = principal.parse().unwrap();
            let mut entry = (principal.names().len() as u16).to_be_bytes().to_vec();
            for text in std::iter::once(principal.realm()).chain(principal.names().iter().map(String::as_str)) {
                entry.extend((text.len() as u16).to_be_bytes());
                entry.extend(text.as_bytes());
            }
            entry.extend([0; 8]);
            entry.push(*version as u8);
            entry.extend(etype.to_be_bytes());
            entry.extend((*length as u16).to_be_bytes());
            entry.extend(vec![*version as u8; *length]);
            entry.extend(version.to_be_bytes());
            bytes.extend((entry.len() as i32).to_be_bytes());
            bytes.extend(entry);
            // A hole.
            bytes.extend((-3_i32).to_be_bytes());
            bytes.extend([7; 3]);
        }
        bytes
    }

    #[test]
    fn the_newest_keys_of_the_principal_are_taken_and_the_best_first() {
        let bytes = keytab(&[
            ("reader@A.ORG", 1, 18, 32),
            ("reader@A.ORG", 300, 17, 16),
            ("reader@A.ORG", 300, 23, 16),
            ("reader@A.ORG", 300, 18, 32),
            ("other@A.ORG", 301, 18, 32),
        ]);
        let keytab = Keytab::of(&"reader@A.ORG".parse().unwrap(), &bytes).unwrap();
        assert_eq!(keytab.etypes(), [18, 17]);
        assert_eq!(keytab.best().value(), [44; 32]);
    }

    #[test]
    fn what_is_no_keytab_of_the_principal_says_so() {
        let good = keytab(&[("reader@A.ORG", 1, 18, 32), ("a/b@A.ORG", 1, 18, 32)]);
        for (bytes, says) in [
            (b"BQIAAAA".to_vec(), "store the file as it is"),
            (good[..good.len() - 1].to_vec(), "store the file as it is"),
            (vec![], "store the file as it is"),
            (good, "no key of alice@A.ORG, but of a/b@A.ORG, reader@A.ORG"),
            (vec![5, 2], "but of nobody"),
            (keytab(&[("alice@A.ORG", 1, 23, 16)]), "make one with aes256"),
            // A key of another length than its encryption has.
            (keytab(&[("alice@A.ORG", 1, 18, 16)]), "make one with aes256"),
        ] {
            let error = Keytab::of(&"alice@A.ORG".parse().unwrap(), &bytes).err().unwrap();
            assert!(error.contains(says), "{error}");
        }
    }
}
