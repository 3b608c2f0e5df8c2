//! What an S3 server says in XML.

use penstock_origin::s3::{read_listing, read_refusal};

use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "listings",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin,
};

fn begin() -> Trying {
    let object = "<Contents><Key>a+b%2B%2F</Key><LastModified>2026-11-26T12:00:00.000Z</LastModified>\
                  <ETag>&quot;1-2&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>";
    let page = |inside: &str| {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Name>b</Name><Prefix></Prefix><KeyCount>1</KeyCount>{inside}</ListBucketResult>"
        )
    };
    let pages = [
        page(&format!("<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{object}{object}")),
        page(&format!("{object}<IsTruncated>true</IsTruncated><NextContinuationToken>1/x=</NextContinuationToken>{object}")),
        page("<IsTruncated>false</IsTruncated><!-- c --><![CDATA[x]]><CommonPrefixes><Prefix>p</Prefix></CommonPrefixes>"),
        "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY x \"y\">]><Error><Code>NoSuchKey</Code><Key>&x;&#65;</Key></Error>".to_owned(),
    ];
    Trying {
        samples: pages.map(String::into_bytes).to_vec(),
        read: Box::new(read),
    }
}

fn read(input: &[u8]) {
    if let Ok((objects, _)) = read_listing(input) {
        assert!(
            objects.len() <= input.len() / "<Contents".len(),
            "more objects than there can be"
        );
        let text: usize = objects.iter().map(|object| object.key.len()).sum();
        assert!(text <= input.len() * 3, "longer keys than there can be");
    }
    let code = read_refusal(input);
    assert!(code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
}
