//! Our own form, for anybody's script: `{"keys": ["a/b"], "prefixes": ["raw/"], "bucket": "b"}`, or `{"all": true}`.

use serde::Deserialize;
use serde_json::Value;

use crate::{Change, Place, Said};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    #[serde(default)]
    all: bool,
    bucket: Option<String>,
    keys: Option<Vec<String>>,
    prefixes: Option<Vec<String>>,
}

pub(super) fn read(value: &Value) -> Option<Said> {
    let Plain {
        all,
        bucket,
        keys,
        prefixes,
    } = Plain::deserialize(value).ok()?;
    if all {
        return Some(Said::Anything);
    }
    if keys.is_none() && prefixes.is_none() {
        return None;
    }
    let place = Place::Any(bucket);
    let change = |start| Change {
        place: place.clone(),
        start,
    };
    let starts = keys.into_iter().chain(prefixes).flatten();
    Some(Said::Changed(starts.map(change).collect()))
}

#[cfg(test)]
mod tests {
    use crate::tests::changed;
    use crate::{Place, read};

    #[test]
    fn a_script_names_keys_and_prefixes() {
        let said = read(br#"{"keys": ["a/b", "50%+"], "prefixes": ["raw/"]}"#);
        let any = Place::Any(None);
        assert_eq!(
            changed(&said),
            [(any.clone(), "a/b"), (any.clone(), "50%+"), (any, "raw/")]
        );
        let said = read(br#"{"bucket": "b", "keys": ["a"]}"#);
        assert_eq!(changed(&said), [(Place::Any(Some("b".into())), "a")]);
    }
}
