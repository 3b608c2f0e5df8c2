//! The rules that the API server has for a Dataset, for a file that never meets one: unknown fields, bounds, and fields
//! that contradict each other. The same sentences where the rules have some.

use std::ops::RangeInclusive;

use penstock_crds::{Dataset, S3Source, Source, bytes_of};
use serde_json::Value;

use crate::documents::Document;

const API_VERSION: &str = "penstock.io/v1alpha1";
const SOURCES_MAX: usize = 16;
const READ_TIMEOUT_SECONDS: RangeInclusive<i32> = 1..=86_400;

/// The Dataset in `document`.
///
/// # Errors
/// A sentence with the field or the line that is wrong.
pub fn dataset(document: &Document) -> Result<Dataset, String> {
    if document.api_version != API_VERSION {
        return Err(format!(
            "Dataset {:?}: apiVersion is {:?}; this version reads {API_VERSION}",
            document.name, document.api_version
        ));
    }
    if document.name.is_empty() {
        return Err("the Dataset has no metadata.name".into());
    }
    let dataset: Dataset = document.parse()?;
    let written: Value = document.parse()?;
    let understood = serde_json::to_value(&dataset.spec).map_err(|error| error.to_string())?;
    let field = |rest: String| format!("Dataset {:?}: spec{rest}", document.name);
    if let Some(unknown) = unknown_field(&written["spec"], &understood) {
        return Err(format!("{}: there is no such field", field(unknown)));
    }
    let patience = dataset.spec.read_timeout_seconds;
    if !READ_TIMEOUT_SECONDS.contains(&patience) {
        let (least, most) = (READ_TIMEOUT_SECONDS.start(), READ_TIMEOUT_SECONDS.end());
        return Err(field(format!(
            ".readTimeoutSeconds is {patience}: it must be {least} to {most}"
        )));
    }
    let sources = &dataset.spec.sources;
    if sources.is_empty() || sources.len() > SOURCES_MAX {
        let count = sources.len();
        return Err(field(format!(
            ".sources has {count} sources: it needs 1 to {SOURCES_MAX}"
        )));
    }
    let modes = dataset.spec.ownership.iter();
    let modes = modes.flat_map(|ownership| {
        [
            ("fileMode", &ownership.file_mode),
            ("directoryMode", &ownership.directory_mode),
        ]
    });
    for (name, mode) in modes {
        let digits = mode.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(mode);
        if digits.len() != 3 || !digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            return Err(field(format!(
                ".ownership.{name} is {mode:?}: permission bits are three octal digits, for example \"0444\""
            )));
        }
    }
    for (at, source) in sources.iter().enumerate() {
        if let Some(wrong) = wrong_in(source) {
            return Err(field(format!(".sources[{at}].{wrong}")));
        }
        if let Some(twin) = sources[..at].iter().position(|other| other.path == source.path) {
            let path = &source.path;
            return Err(field(format!(
                ".sources[{at}].path is {path:?} like that of sources[{twin}]: each source stands at its own path"
            )));
        }
    }
    Ok(dataset)
}

fn wrong_in(source: &Source) -> Option<String> {
    let Source {
        path,
        s3,
        gcs,
        azure,
        hdfs,
        http,
        hugging_face,
        dataset,
        folder,
        claim,
        ca_bundle,
        include: _,
        exclude: _,
        limits,
    } = source;
    if !path.is_empty()
        && path
            .split('/')
            .any(|part| matches!(part, "" | "." | "..") || part.contains('\0'))
    {
        return Some(format!(
            "path {path:?}: names separated by single slashes, without `.` and `..`"
        ));
    }
    let limits = limits.as_ref();
    if limits.is_some_and(|limits| limits.requests_per_second.is_some_and(|requests| requests < 1)) {
        return Some("limits.requestsPerSecond: at least 1".into());
    }
    let bandwidth = limits.and_then(|limits| limits.bandwidth.as_deref());
    if let Some(text) = bandwidth.filter(|text| bytes_of(text).is_none_or(|bytes| bytes == 0)) {
        return Some(format!(
            "limits.bandwidth {text:?}: a quantity of bytes, for example 200Mi"
        ));
    }
    let origins = [
        s3.is_some(),
        gcs.is_some(),
        azure.is_some(),
        hdfs.is_some(),
        http.is_some(),
        hugging_face.is_some(),
        dataset.is_some(),
        folder.is_some(),
        claim.is_some(),
    ];
    if origins.into_iter().filter(|is_set| *is_set).count() != 1 {
        return Some(
            "s3: a source has exactly one origin: set one of s3, gcs, azure, hdfs, http, huggingFace, dataset, folder, claim"
                .into(),
        );
    }
    if source.uses_workload_identity() && source.secret().is_some() {
        return Some("workloadIdentity and credentialsSecretRef both say who asks: take one away".into());
    }
    if !ca_bundle.is_empty() && (hdfs.is_some() || folder.is_some() || claim.is_some()) {
        return Some(
            "caBundle means nothing for hdfs, folder and claim, which are not read over TLS: take it away".into(),
        );
    }
    let servers = [s3.as_ref().map(|s3| &s3.endpoint), http.as_ref().map(|http| &http.url)];
    if !ca_bundle.is_empty() && servers.into_iter().flatten().any(|url| url.starts_with("http://")) {
        return Some(
            "caBundle means nothing for a server that is asked without TLS: name it by https://, or take caBundle away"
                .into(),
        );
    }
    if hdfs.as_ref().is_some_and(|hdfs| !hdfs.user.is_empty()) && source.secret().is_some() {
        return Some(
            "hdfs.user: with credentialsSecretRef files are read as the principal of the Secret: take user away".into(),
        );
    }
    // The clients of the others say what is wrong with them.
    s3.as_ref().and_then(wrong_in_s3)
}

fn wrong_in_s3(s3: &S3Source) -> Option<String> {
    let S3Source {
        bucket,
        prefix,
        endpoint,
        ..
    } = s3;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Some(format!(
            "s3.bucket {bucket:?}: the name of a bucket has letters, digits, `.`, `_` and `-`"
        ));
    }
    if prefix.starts_with('/') {
        return Some("s3.prefix must not begin with a slash: keys of S3 do not".into());
    }
    let server = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"));
    let is_server = server.is_some_and(|server| {
        let server = server.strip_suffix('/').unwrap_or(server);
        !server.is_empty() && !server.contains(['/', '?', '#', '@']) && !server.contains(char::is_whitespace)
    });
    if !endpoint.is_empty() && !is_server {
        return Some(format!(
            "s3.endpoint {endpoint:?}: write http:// or https:// and a server, without a path"
        ));
    }
    None
}

/// The first field that was written but not understood, as `.a[0].b`.
fn unknown_field(written: &Value, understood: &Value) -> Option<String> {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => written.iter().find_map(|(name, value)| {
            match understood.get(name) {
                Some(inner) => unknown_field(value, inner).map(|rest| format!(".{name}{rest}")),
                // A field that is written as null is as good as absent.
                None if value.is_null() => None,
                None => Some(format!(".{name}")),
            }
        }),
        (Value::Array(written), Value::Array(understood)) => {
            written
                .iter()
                .zip(understood)
                .enumerate()
                .find_map(|(at, (written, understood))| {
                    unknown_field(written, understood).map(|rest| format!("[{at}]{rest}"))
                })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(spec: &str) -> Result<Dataset, String> {
        let text = format!("apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {{name: x}}\nspec: {spec}\n");
        dataset(&Document::all(&text)?[0])
    }

    #[test]
    fn a_dataset_that_the_api_server_takes_is_taken() {
        for spec in [
            "{sources: [{s3: {bucket: b}}]}",
            "{ownership: {uid: 1000, directoryMode: '750'}, sources: [{folder: {path: /data}, exclude: ['*.tmp']}]}",
            "{runtime: r, refresh: {intervalSeconds: 60}, sources: [{s3: {bucket: b, credentialsSecretRef: null}}]}",
            "{sources: [{s3: {bucket: b}, caBundle: pem}]}",
            "{sources: [{path: a/b, s3: {bucket: b, endpoint: 'https://s3.example.com/', addressingStyle: VirtualHost}}]}",
        ] {
            assert!(checked(spec).is_ok(), "{spec}: {:?}", checked(spec));
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused() {
        for (spec, sentence) in [
            ("{sources: []}", "spec.sources has 0 sources"),
            (
                "{sources: [{path: a}]}",
                "spec.sources[0].s3: a source has exactly one origin",
            ),
            (
                "{ownership: {fileMode: '0844'}, sources: [{s3: {bucket: b}}]}",
                "spec.ownership.fileMode is \"0844\": permission bits are three octal digits",
            ),
            (
                "{sources: [{ftp: {}, s3: {bucket: b}}]}",
                "spec.sources[0].ftp: there is no such field",
            ),
            (
                "{sources: [{s3: {bucket: b, preffix: x}}]}",
                "spec.sources[0].s3.preffix: there is no such field",
            ),
            (
                "{sources: [{s3: {bucket: b, prefix: /x}}]}",
                "spec.sources[0].s3.prefix must not begin with a slash",
            ),
            (
                "{sources: [{s3: {bucket: 'b/c'}}]}",
                "spec.sources[0].s3.bucket \"b/c\"",
            ),
            (
                "{sources: [{s3: {bucket: b, endpoint: minio:9000}}]}",
                "spec.sources[0].s3.endpoint \"minio:9000\"",
            ),
            (
                "{sources: [{s3: {bucket: b, endpoint: 'http://s/x'}}]}",
                "without a path",
            ),
            ("{sources: [{path: a/../b, s3: {bucket: b}}]}", "spec.sources[0].path"),
            (
                "{sources: [{s3: {bucket: b}}, {s3: {bucket: c}}]}",
                "spec.sources[1].path is \"\" like that of sources[0]",
            ),
            (
                "{sources: [{hdfs: {nameNodes: ['h:8020'], path: /}, caBundle: pem}]}",
                "spec.sources[0].caBundle means nothing for hdfs, folder and claim",
            ),
            (
                "{sources: [{http: {url: 'http://h/'}, caBundle: pem}]}",
                "spec.sources[0].caBundle means nothing for a server that is asked without TLS",
            ),
            ("{sources: [{s3: {}}]}", "bucket"),
            ("{sources: [{s3: {bucket: b, addressingStyle: Both}}]}", "Both"),
        ] {
            let error = checked(spec).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn another_version_of_the_api_is_refused() {
        let document = &Document::all("apiVersion: v2\nkind: Dataset\nmetadata: {name: x}").unwrap()[0];
        assert!(
            dataset(document)
                .unwrap_err()
                .contains("this version reads penstock.io/v1alpha1")
        );
    }
}
