//! What a cache node understands of what it is asked to build, as one number.
//!
//! While cache nodes are upgraded one after the other, one of before ignores the fields that it does not know, and would build another
//! tree than is meant: that of a web server's pages, say, in the place of what a manifest names. So a node says its level in each report,
//! and is asked to build only what needs no higher one.

use crate::control::cache_node::source::Origin;
use crate::control::cache_node::{
    Azure, Claim, Dataset, Folder, FolderReader, Gcs, Hdfs, Http, HuggingFace, OtherDataset, Ownership, S3, Source,
};

/// The level of this version: one more with each release that has new fields which change what is built. 1 is what there was when levels
/// came; nodes of before say none, which is 0.
pub const LEVEL: u32 = 1;

/// The lowest level of who builds this as it is meant: the highest that one of its fields needs.
///
/// A field that comes later is named here as all others are, and is a case of its own where it is set, for example
/// `manifest` of level 2 as `if manifest.is_empty() { FIRST } else { 2 }`. One that leads to the same tree, or to none, when it
/// is ignored needs nothing: how much a source may be asked, or with which keys.
pub fn needed(dataset: &Dataset) -> u32 {
    let Dataset {
        uid: _,
        namespace: _,
        name: _,
        sources,
        revisions: _,
        rules: _,
        quota: _,
        ownership,
        former_sources: _,
    } = dataset;
    let Ownership {
        uid: _,
        gid: _,
        file_mode: _,
        directory_mode: _,
    } = ownership.unwrap_or_default();
    sources.iter().map(of_source).fold(FIRST, u32::max)
}

/// What nodes that say none may ignore nobody knows, down to which addresses they must not reach.
const FIRST: u32 = 1;

fn of_source(source: &Source) -> u32 {
    let Source {
        path: _,
        origin,
        authorities: _,
        include: _,
        exclude: _,
        limits: _,
    } = source;
    origin.as_ref().map_or(FIRST, of_origin)
}

fn of_origin(origin: &Origin) -> u32 {
    match origin {
        Origin::S3(S3 {
            bucket: _,
            prefix: _,
            region: _,
            endpoint: _,
            keys: _,
            virtual_host_style: _,
            workload_identity: _,
        }) => FIRST,
        Origin::Http(Http {
            url: _,
            files: _,
            login: _,
            manifest: _,
            unversioned: _,
        }) => FIRST,
        Origin::Gcs(Gcs {
            bucket: _,
            prefix: _,
            endpoint: _,
            key: _,
            workload_identity: _,
        }) => FIRST,
        Origin::Azure(Azure {
            account: _,
            container: _,
            prefix: _,
            endpoint: _,
            key: _,
            workload_identity: _,
        }) => FIRST,
        Origin::Hdfs(Hdfs {
            name_nodes: _,
            path: _,
            user: _,
            key: _,
            kdcs: _,
        }) => FIRST,
        Origin::HuggingFace(HuggingFace {
            repository: _,
            kind: _,
            revision: _,
            path: _,
            endpoint: _,
            token: _,
        }) => FIRST,
        Origin::Folder(Folder { path: _, reader }) => reader.as_ref().map_or(FIRST, of_reader),
        Origin::Claim(Claim {
            namespace: _,
            name: _,
            uid: _,
            path: _,
            reader: _,
            pods: _,
            token: _,
        }) => FIRST,
        Origin::Dataset(OtherDataset {
            uid: _,
            namespace: _,
            name: _,
            path: _,
            cache_nodes: _,
            revisions: _,
        }) => FIRST,
    }
}

fn of_reader(reader: &FolderReader) -> u32 {
    let FolderReader {
        namespace: _,
        url: _,
        pods: _,
        token: _,
    } = reader;
    FIRST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_no_level_is_given_nothing_and_this_version_everything() {
        let origins = [
            Origin::S3(S3::default()),
            Origin::Http(Http {
                manifest: "SHA256SUMS".into(),
                ..Http::default()
            }),
            Origin::Gcs(Gcs::default()),
            Origin::Azure(Azure::default()),
            Origin::Hdfs(Hdfs::default()),
            Origin::HuggingFace(HuggingFace::default()),
            Origin::Folder(Folder {
                reader: Some(FolderReader::default()),
                ..Folder::default()
            }),
            Origin::Claim(Claim::default()),
            Origin::Dataset(OtherDataset::default()),
        ];
        let source = |origin: &Origin| Source {
            origin: Some(origin.clone()),
            ..Source::default()
        };
        let of = |sources: Vec<Source>| Dataset {
            sources,
            ..Dataset::default()
        };
        for sources in [
            Vec::new(),
            vec![source(&origins[0])],
            origins.iter().map(source).collect(),
        ] {
            let needed = needed(&of(sources));
            assert!((1..=LEVEL).contains(&needed), "{needed}");
        }
    }
}
