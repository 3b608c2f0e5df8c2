//! The pages of a web server.

use std::collections::HashSet;

use penstock_origin::http::read_page;

use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "pages",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin,
};

const PAGE: &str = "http://host/pub/a%20b/";

fn begin() -> Trying {
    let pages = [
        "<html><h1>Index</h1><pre><a href=\"../\">../</a>\n<a href=\"c%20d.txt\">c d.txt</a> 26-Nov-2026 10:00 1\n<a href=\"e/\">e/</a>",
        "<A HREF='./f&amp;g?C=N;O=D'>x</A><a href=/pub/a%20b/h><a href=//host/pub/a%20b/i%2Fj><!-- <a href=k> --><a href=%ff>",
        "<table><tr><td><a title=\"l\" href=\"l#m\">l</a></td></tr></table><script>\"<a href=n>\"</script><a href=\"..;/%2e%2e/o\">",
    ];
    Trying {
        samples: pages.map(|page| page.as_bytes().to_vec()).to_vec(),
        read: Box::new(read),
    }
}

fn read(input: &[u8]) {
    let names = read_page(PAGE, input).expect("an address");
    let mut seen = HashSet::new();
    for name in &names {
        let one = name.strip_suffix('/').unwrap_or(name);
        assert!(
            !matches!(one, "" | "." | "..") && !one.contains(['/', '\0']),
            "{name:?} is no name"
        );
        assert!(seen.insert(name), "{name:?} is there twice");
    }
    // An entity of one letter is at least four bytes of the page.
    let text: usize = names.iter().map(String::len).sum();
    assert!(text <= input.len() * 3, "longer names than there can be");
}
