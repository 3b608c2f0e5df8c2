//! Which places sources may name: those that a CacheRuntime allows. Pure.
//!
//! A source is given a text that says where it really reads, in one spelling; patterns are matched against that text, or against one of
//! the folders above it. What could be read in two ways by whoever serves it (`..`, encoded or not, empty parts of paths) matches nothing.

use std::fmt::Write;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use penstock_crds::{
    AddressingStyle, AzureSource, GcsSource, HdfsSource, HttpSource, HuggingFaceSource, RepositoryKind, S3Source,
    Source,
};
use percent_encoding::percent_decode;
use url::Url;

/// How often something that was encoded several times is decoded: what is not plain by then is no name that people give.
const DECODINGS_MAX: usize = 8;

/// The places that are allowed.
#[derive(Clone, Debug, Default)]
pub struct Allowed(
    /// `None` when all are.
    Option<GlobSet>,
);

impl Allowed {
    /// Those that match one of the patterns; all when there are none.
    pub fn of(patterns: &[String]) -> Self {
        if patterns.is_empty() {
            return Self(None);
        }
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let pattern = in_one_spelling(pattern);
            let folder = pattern.trim_end_matches('/');
            let above = folder.strip_suffix("/**").filter(|above| !above.ends_with('/'));
            for text in [Some(folder), Some(&*format!("{folder}/**")), above]
                .into_iter()
                .flatten()
            {
                let glob = GlobBuilder::new(&escaped(text))
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build();
                // Nothing can be wrong with one in which only stars and question marks mean something.
                if let Ok(glob) = glob {
                    set.add(glob);
                }
            }
        }
        // One that cannot be made allows nothing.
        Self(Some(set.build().unwrap_or_else(|_| GlobSet::empty())))
    }

    /// The place that a source names and that is not allowed, if there is one.
    pub fn refused(&self, source: &Source) -> Option<String> {
        let Self(Some(patterns)) = self else { return None };
        let Some(places) = places(source) else {
            return Some("a place that cannot be told".to_owned());
        };
        let refused = places
            .into_iter()
            .find(|place| place.is_ambiguous || !patterns.is_match(&place.text));
        refused.map(|place| place.text)
    }
}

/// Where a source reads: a folder, without a slash at its end.
#[derive(Debug)]
struct Place {
    text: String,
    is_ambiguous: bool,
}

impl Place {
    /// A folder of a store in which a path is only a name.
    fn of_names(store: &str, names: &str) -> Self {
        let names = names.trim_end_matches('/');
        let slash = if names.is_empty() { "" } else { "/" };
        Self {
            is_ambiguous: is_ambiguous(names),
            text: format!("{store}{slash}{names}"),
        }
    }

    /// ... in which it may be walked, where nobody knows what a part without a name is.
    fn of_path(store: &str, path: &str) -> Self {
        let path = path.trim_end_matches('/');
        let has_empty_part = path.trim_start_matches('/').split('/').any(str::is_empty) && !path.is_empty();
        let place = Self::of_names(store, path.strip_prefix('/').unwrap_or(path));
        Self {
            is_ambiguous: place.is_ambiguous || has_empty_part || path.starts_with("//"),
            ..place
        }
    }
}

/// Where a source reads; `None` when that makes no sense.
fn places(source: &Source) -> Option<Vec<Place>> {
    let Source {
        path: _,
        s3,
        gcs,
        azure,
        hdfs,
        http,
        hugging_face,
        dataset,
        folder: _,
        claim,
        ca_bundle: _,
        include: _,
        exclude: _,
        limits: _,
    } = source;
    let one = |place| Some(vec![place]);
    if let Some(s3) = s3 {
        let S3Source {
            bucket,
            prefix,
            region: _,
            endpoint,
            addressing_style,
            credentials_secret_ref: _,
            workload_identity: _,
        } = s3;
        // Names of hosts are the same in small letters.
        let bucket = match addressing_style {
            AddressingStyle::Path => bucket.clone(),
            AddressingStyle::VirtualHost => bucket.to_ascii_lowercase(),
        };
        one(Place::of_names(&store("s3", endpoint, &[&bucket])?, folder_of(prefix)))
    } else if let Some(gcs) = gcs {
        let GcsSource {
            bucket,
            prefix,
            endpoint,
            credentials_secret_ref: _,
            workload_identity: _,
        } = gcs;
        one(Place::of_names(&store("gs", endpoint, &[bucket])?, folder_of(prefix)))
    } else if let Some(azure) = azure {
        let AzureSource {
            account,
            container,
            prefix,
            endpoint,
            credentials_secret_ref: _,
            workload_identity: _,
        } = azure;
        let names: &[&str] = if endpoint.is_empty() {
            &[account, container]
        } else {
            &[container]
        };
        one(Place::of_names(&store("azure", endpoint, names)?, folder_of(prefix)))
    } else if let Some(hdfs) = hdfs {
        let HdfsSource {
            name_nodes,
            path,
            user: _,
            credentials_secret_ref: _,
        } = hdfs;
        let place = |node: &String| Place::of_path(&format!("hdfs://{}", node.to_ascii_lowercase()), path);
        (!name_nodes.is_empty()).then(|| name_nodes.iter().map(place).collect())
    } else if let Some(http) = http {
        let HttpSource {
            url,
            files: _,
            manifest: _,
            allow_unversioned: _,
            credentials_secret_ref: _,
        } = http;
        let url = web(url)?;
        let path = url.path();
        let server = url.as_str().strip_suffix(path)?;
        one(Place::of_path(server, path))
    } else if let Some(hub) = hugging_face {
        let HuggingFaceSource {
            repository,
            kind,
            revision: _,
            path,
            endpoint,
            credentials_secret_ref: _,
        } = hub;
        let kind = match kind {
            RepositoryKind::Dataset => "datasets",
            RepositoryKind::Model => "models",
            RepositoryKind::Space => "spaces",
        };
        // One without an owner is nobody's, and not the folder of an owner of its name.
        let (owner, name) = repository.split_once('/').unwrap_or(("_", repository));
        let store = store("hf", endpoint, &[kind])?;
        one(Place::of_path(&store, &format!("{owner}/{name}/{path}")))
    } else if let Some(claim) = claim {
        one(Place::of_path(&format!("claim://{}", claim.name), &claim.path))
    } else if dataset.is_some() {
        // That is allowed by the owner of the other Dataset, whose cache nodes read its origins.
        Some(Vec::new())
    } else {
        None
    }
}

/// Where buckets begin: of the usual server by the scheme, of another one by its URL.
fn store(scheme: &str, endpoint: &str, names: &[&str]) -> Option<String> {
    let mut text = if endpoint.is_empty() {
        format!("{scheme}:/")
    } else {
        let url = web(endpoint)?;
        let text = url.as_str().trim_end_matches('/');
        // What is walked there is not guessed at.
        if is_ambiguous(text) || url.path().contains("//") {
            return None;
        }
        text.to_owned()
    };
    for name in names {
        // Writing to a String cannot fail.
        let _ = write!(text, "/{name}");
    }
    Some(text)
}

/// The URL of a web server as it is asked: host in small letters, no usual port, no `..`.
fn web(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.has_host();
    (matches!(url.scheme(), "http" | "https") && is_plain).then_some(url)
}

/// A prefix reads all that begins with it, so it counts up to its last slash.
fn folder_of(prefix: &str) -> &str {
    prefix.rfind('/').map_or("", |slash| &prefix[..slash])
}

/// Whether somebody who decodes it may find another path in it.
fn is_ambiguous(text: &str) -> bool {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..DECODINGS_MAX {
        let mut parts = bytes.split(|byte| matches!(byte, b'/' | b'\\'));
        if parts.any(|part| matches!(part, b"." | b"..")) || bytes.iter().any(u8::is_ascii_control) {
            return true;
        }
        let decoded: Vec<u8> = percent_decode(&bytes).collect();
        if decoded == bytes {
            return false;
        }
        bytes = decoded;
    }
    true
}

/// A pattern as places are written.
fn in_one_spelling(pattern: &str) -> String {
    let Some((scheme, rest)) = pattern.split_once("://") else {
        return pattern.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = scheme.to_ascii_lowercase();
    let usual_port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        "hdfs" => "",
        // Names of buckets are told apart by their letters.
        _ => return format!("{scheme}://{rest}"),
    };
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(usual_port).unwrap_or(&host);
    format!("{scheme}://{host}{path}")
}

fn escaped(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    for letter in pattern.chars() {
        if matches!(letter, '[' | ']' | '{' | '}' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn source(origin: Value) -> Source {
        serde_json::from_value(origin).unwrap()
    }

    fn is_allowed(patterns: &[&str], origin: Value) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        Allowed::of(&patterns).refused(&source(origin)).is_none()
    }

    #[test]
    fn each_kind_has_a_place_that_says_where_it_reads() {
        for (origin, expected) in [
            (json!({"s3": {"bucket": "photos"}}), "s3://photos"),
            (json!({"s3": {"bucket": "photos", "prefix": "a/b/"}}), "s3://photos/a/b"),
            (json!({"s3": {"bucket": "photos", "prefix": "a/b"}}), "s3://photos/a"),
            (
                json!({"s3": {"bucket": "photos", "endpoint": "HTTPS://MinIO.example.org:443/"}}),
                "https://minio.example.org/photos",
            ),
            (
                json!({"s3": {"bucket": "photos", "endpoint": "http://minio:9000", "prefix": "a/"}}),
                "http://minio:9000/photos/a",
            ),
            (
                json!({"s3": {"bucket": "Photos", "addressingStyle": "VirtualHost"}}),
                "s3://photos",
            ),
            (json!({"gcs": {"bucket": "models", "prefix": "v1/"}}), "gs://models/v1"),
            (
                json!({"gcs": {"bucket": "models", "endpoint": "http://fake:4443"}}),
                "http://fake:4443/models",
            ),
            (
                json!({"azure": {"account": "acc", "container": "c", "prefix": "p/"}}),
                "azure://acc/c/p",
            ),
            (
                json!({"azure": {"account": "acc", "container": "c", "endpoint": "http://az:10000/acc/"}}),
                "http://az:10000/acc/c",
            ),
            (
                json!({"hdfs": {"nameNodes": ["NN1:8020"], "path": "/warehouse/"}}),
                "hdfs://nn1:8020/warehouse",
            ),
            (
                json!({"hdfs": {"nameNodes": ["nn1:8020"], "path": "/"}}),
                "hdfs://nn1:8020",
            ),
            (json!({"http": {"url": "https://H:443/pub/../data"}}), "https://h/data"),
            (json!({"http": {"url": "https://h"}}), "https://h"),
            (
                json!({"huggingFace": {"repository": "allenai/c4", "path": "en"}}),
                "hf://datasets/allenai/c4/en",
            ),
            (
                json!({"huggingFace": {"repository": "squad", "kind": "Model"}}),
                "hf://models/_/squad",
            ),
            (
                json!({"huggingFace": {"repository": "a/b", "endpoint": "https://hub.example.org/"}}),
                "https://hub.example.org/datasets/a/b",
            ),
        ] {
            let places = places(&source(origin.clone())).unwrap();
            assert_eq!(places[0].text, expected, "{origin}");
            assert!(!places[0].is_ambiguous, "{origin}");
        }
    }

    #[test]
    fn a_source_is_allowed_when_a_pattern_has_its_place_or_a_folder_above() {
        let s3 = |bucket: &str, prefix: &str| json!({"s3": {"bucket": bucket, "prefix": prefix}});
        let at = |endpoint: &str| json!({"s3": {"bucket": "photos", "prefix": "train/", "endpoint": endpoint}});
        let http = |url: &str| json!({"http": {"url": url}});
        let hub = |repository: &str| json!({"huggingFace": {"repository": repository, "path": "en"}});
        for (pattern, origin, allowed) in [
            ("s3://team-*/**", s3("team-a", "x/"), true),
            ("s3://team-*/**", s3("team-a", ""), true),
            ("s3://team-*/**", s3("other", ""), false),
            ("S3://team-*", s3("team-a", "x/y/"), true),
            ("s3://photos/train/**", s3("photos", "train/"), true),
            ("s3://photos/train/**", s3("photos", "train/a/"), true),
            ("s3://photos/train/", s3("photos", "train/a/"), true),
            // All that begins with it is more than the folder.
            ("s3://photos/train/**", s3("photos", "train"), false),
            ("s3://photos/train/**", s3("photos", "train-secret/"), false),
            ("s3://photos/train/**", s3("photos", ""), false),
            ("s3://photos/*/public/**", s3("photos", "a/public/"), true),
            ("s3://photos/*/public/**", s3("photos", "a/b/public/"), false),
            ("s3://photos/**/public", s3("photos", "a/b/public/"), true),
            ("s3://**", s3("photos", ""), true),
            ("**", at("https://h"), true),
            ("s3://Photos/**", s3("photos", ""), false),
            // Another server has a bucket of this name.
            ("s3://photos/**", at("https://minio.example.org:9000"), false),
            (
                "https://minio.example.org:9000/photos/**",
                at("https://minio.example.org:9000"),
                true,
            ),
            (
                "https://MinIO.example.org:9000/photos",
                at("https://minio.EXAMPLE.org:9000/"),
                true,
            ),
            (
                "https://minio.example.org:9000/photos/**",
                at("https://minio.example.org"),
                false,
            ),
            (
                "https://minio.example.org:9000/photos/**",
                at("http://minio.example.org:9000"),
                false,
            ),
            (
                "https://minio.example.org/photos/**",
                at("https://minio.example.org:443"),
                true,
            ),
            (
                "https://minio.example.org:443/photos/**",
                at("https://minio.example.org"),
                true,
            ),
            (
                "https://minio.example.org/photos/**",
                at("https://minio.example.org.evil.org"),
                false,
            ),
            (
                "https://minio.example.org/photos/**",
                at("https://minio.example.org."),
                false,
            ),
            (
                "https://minio.example.org/photos/**",
                at("https://evil.org/minio.example.org"),
                false,
            ),
            ("https://*.example.org/**", at("https://a.example.org"), true),
            ("https://*.example.org/**", at("https://evil.org/x.example.org"), false),
            ("https://*.example.org/**", at("https://evil.org\\x.example.org"), false),
            ("https://10.0.0.5:9000/**", at("https://0x0a000005:9000"), true),
            ("https://10.0.0.5:9000/**", at("https://10.0.0.50:9000"), false),
            ("https://[fd00::1]:9000/**", at("https://[FD00:0::1]:9000"), true),
            ("https://[fd00::1]:9000/**", at("https://f:9000"), false),
            ("gs://models/**", json!({"gcs": {"bucket": "models"}}), true),
            ("s3://models/**", json!({"gcs": {"bucket": "models"}}), false),
            (
                "azure://acc/c/**",
                json!({"azure": {"account": "acc", "container": "c"}}),
                true,
            ),
            (
                "azure://acc/c/**",
                json!({"azure": {"account": "other", "container": "c"}}),
                false,
            ),
            (
                "hdfs://nn1:8020/warehouse/**",
                json!({"hdfs": {"nameNodes": ["NN1:8020"], "path": "/warehouse/a"}}),
                true,
            ),
            (
                "hdfs://nn1:8020/warehouse/**",
                json!({"hdfs": {"nameNodes": ["nn1:8020", "evil:8020"], "path": "/warehouse/a"}}),
                false,
            ),
            (
                "hdfs://nn*:8020/warehouse/**",
                json!({"hdfs": {"nameNodes": ["nn1:8020", "nn2:8020"], "path": "/warehouse"}}),
                true,
            ),
            ("hf://datasets/allenai/*", hub("allenai/c4"), true),
            ("hf://datasets/allenai/*", hub("evil/c4"), false),
            ("hf://datasets/allenai/*", hub("allenai"), false),
            ("hf://models/allenai/*", hub("allenai/c4"), false),
            (
                "claim://data/2024/**",
                json!({"claim": {"name": "data", "path": "2024/raw"}}),
                true,
            ),
            (
                "claim://data/2024/**",
                json!({"claim": {"name": "data", "path": "2025"}}),
                false,
            ),
            ("s3://photos/**", json!({"claim": {"name": "photos"}}), false),
            // Its owner allows it, and its own cache nodes read.
            ("s3://photos/**", json!({"dataset": {"name": "other"}}), true),
            ("https://h/pub/**", http("https://h/pub"), true),
            ("https://h/pub/**", http("https://H:443/pub/a/"), true),
            ("https://h/pub/**", http("https://h/public/"), false),
            ("https://h/{pub,priv}/**", http("https://h/pub/"), false),
        ] {
            assert_eq!(
                is_allowed(&[pattern], origin.clone()),
                allowed,
                "{pattern} and {origin}"
            );
        }
        assert!(is_allowed(&[], s3("any", "")));
        assert!(is_allowed(&["s3://a/**", "s3://b/**"], s3("b", "")));
    }

    #[test]
    fn no_trick_with_a_path_leads_out_of_what_is_allowed() {
        let http = |path: &str| json!({"http": {"url": format!("https://h{path}")}});
        for path in [
            "/pub/../private/",
            "/pub/%2e%2e/private/",
            "/pub/%2E./private/",
            "/pub/%2e%2e%2fprivate/",
            "/pub/%252e%252e/private/",
            "/pub/..%5cprivate/",
            "/pub\\..\\private/",
            "/pub//../../private/",
            "/pub//private/",
            "//pub/",
            "/pub/a//b/",
            "/pub/%00/",
        ] {
            assert!(!is_allowed(&["https://h/pub/**"], http(path)), "{path}");
        }
        let s3 = |prefix: &str| json!({"s3": {"bucket": "b", "prefix": prefix}});
        for prefix in ["pub/../private/", "pub/%2e%2e/private/", "pub/./", "pub/\u{1}/"] {
            assert!(!is_allowed(&["s3://b/pub/**"], s3(prefix)), "{prefix}");
        }
        // Of a bucket it is only a name.
        assert!(is_allowed(&["s3://b/pub/**"], s3("pub//a/")));
        let hdfs = |path: &str| json!({"hdfs": {"nameNodes": ["nn:8020"], "path": path}});
        for path in ["/pub/../private", "//pub", "/pub//private", "/pub/."] {
            assert!(!is_allowed(&["hdfs://nn:8020/pub/**"], hdfs(path)), "{path}");
        }
        for (repository, path) in [("allenai/..", ""), ("allenai/c4", "../../x")] {
            let hub = json!({"huggingFace": {"repository": repository, "path": path}});
            assert!(!is_allowed(&["hf://datasets/allenai/**"], hub), "{repository} {path}");
        }
        for endpoint in ["https://me@h", "https://h/?x=/", "ftp://h", "https://h/a/%2e%2e%2f"] {
            let s3 = json!({"s3": {"bucket": "b", "endpoint": endpoint}});
            assert!(!is_allowed(&["https://h/**", "ftp://**"], s3), "{endpoint}");
        }
    }
}
