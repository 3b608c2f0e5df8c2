//! Manifests of web servers: lists of files with checksums, made by anybody.

use std::collections::HashSet;

use penstock_origin::http::read_manifest;

use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "manifests",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin,
};

const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

fn begin() -> Trying {
    let lines = format!("# of all\r\n{MD5}  ./a\n{MD5} *b c\n\\{MD5}  d\\ne\n\n{MD5}  a\n");
    let tagged = format!("MD5 (a (1)) = {MD5}\nSHA1(b)= {MD5}{}\n", &MD5[..8]);
    Trying {
        samples: vec![lines.into(), tagged.into()],
        read: Box::new(read),
    }
}

fn read(input: &[u8]) {
    let whole = read_manifest(&[input]);
    let (first, second) = input.split_at(input.len() / 2);
    assert_eq!(
        read_manifest(&[first, second]),
        whole,
        "it does not matter how a manifest comes"
    );
    let Ok(files) = whole else { return };
    let mut seen = HashSet::new();
    for (path, sum) in &files {
        let is_path = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        assert!(is_path && !path.contains('\0'), "{path:?} is no path");
        assert!(seen.insert(path), "{path:?} is there twice");
        let digits = sum.split_once(':').map_or(0, |(_, digits)| digits.len());
        assert!(matches!(digits, 32 | 40 | 64 | 128), "{sum}");
    }
    let text: usize = files.iter().map(|(path, _)| path.len() + 33).sum();
    assert!(text <= input.len(), "more than there can be");
}
