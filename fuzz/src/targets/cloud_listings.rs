//! What Google Cloud Storage, Azure and the Hugging Face hub list.

use penstock_origin::{azure, gcs, hugging_face};
use penstock_revision::Listed;

use crate::{Target, Trying};

pub const GCS: Target = Target {
    name: "gcs-listings",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin: begin_gcs,
};

pub const AZURE: Target = Target {
    name: "azure-listings",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin: begin_azure,
};

pub const HUB: Target = Target {
    name: "hub-listings",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin: begin_hub,
};

fn begin_gcs() -> Trying {
    let object = r#"{"name":"a b/é","size":"5","timeCreated":"2026-11-26T12:00:00.000Z","generation":"17"}"#;
    let samples = [
        format!(r#"{{"kind":"storage#objects","nextPageToken":"x=","items":[{object},{object}]}}"#),
        r#"{"error":{"code":403,"errors":[{"reason":"rateLimitExceeded","message":"slow"}]}}"#.to_owned(),
    ];
    Trying {
        samples: samples.map(String::into_bytes).to_vec(),
        read: Box::new(|input| {
            sane(gcs::read_listing(input), input, "name");
            assert!(gcs::read_refusal(input).len() <= input.len());
        }),
    }
}

fn begin_azure() -> Trying {
    let blob = "<Blob><Name Encoded=\"true\">a%20b</Name><Properties><Last-Modified>Thu, 26 Nov 2026 12:00:00 GMT</Last-Modified>\
                <Etag>0x8DE</Etag><ResourceType>file</ResourceType><Content-Length>5</Content-Length></Properties></Blob>";
    let page = |next: &str| {
        format!(
            "<?xml version=\"1.0\"?><EnumerationResults><Blobs>{blob}{blob}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        )
    };
    Trying {
        samples: [page(""), page("2!8!")].map(String::into_bytes).to_vec(),
        read: Box::new(|input| sane(azure::read_listing(input), input, "Name")),
    }
}

fn begin_hub() -> Trying {
    let page = r#"[{"type":"directory","oid":"1","size":0,"path":"a"},{"type":"file","oid":"2","size":5,"path":"a/b","lfs":{"oid":"3","size":70}}]"#;
    let links = r#"<https://hub/api?cursor=x%3D>; rel="next", <https://hub/>; rel="first""#;
    Trying {
        samples: vec![page.into(), links.into()],
        read: Box::new(|input| {
            let links = String::from_utf8_lossy(input);
            sane(hugging_face::read_listing(input, &links), input, "path");
            sane(hugging_face::read_listing(b"[]", &links), input, "path");
        }),
    }
}

/// No more and no longer keys than there can be, each of them named.
fn sane(listed: Result<(Vec<Listed>, Option<String>), String>, input: &[u8], name: &str) {
    if let Ok((objects, next)) = listed {
        assert!(
            objects.len() <= input.len() / name.len(),
            "more objects than there can be"
        );
        let text: usize = objects.iter().map(|object| object.key.len()).sum();
        assert!(text <= input.len() * 3, "longer keys than there can be");
        assert!(next.is_none_or(|next| next.len() <= input.len() * 3));
    }
}
