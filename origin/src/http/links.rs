//! The links of a page that lists a folder, as Apache, nginx and most others write one. Pure.

use std::collections::HashSet;

use html5gum::{Token, Tokenizer};
use percent_encoding::percent_decode_str;
use reqwest::Url;

/// Where a page leads, relative to the page: names with a slash at the end are folders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// Each once, in the order of the page.
    pub(super) names: Vec<String>,
    /// Links into the folder that no file can be named after.
    pub(super) awkward: usize,
}

/// The links from the page at `page`, whose path ends with a slash, to what stands directly in its folder.
pub(super) fn links(page: &Url, html: &[u8]) -> Links {
    let (mut links, mut seen) = (Links::default(), HashSet::new());
    for Ok(token) in Tokenizer::new(html) {
        let Token::StartTag(tag) = token else { continue };
        if *tag.name != *b"a" {
            continue;
        }
        let Some(target) = tag.attributes.get(b"href".as_slice()) else {
            continue;
        };
        let Some(rest) = within(page, &String::from_utf8_lossy(target)) else {
            continue;
        };
        match name(&rest) {
            Some(name) if !seen.insert(name.clone()) => {}
            Some(name) => links.names.push(name),
            None => links.awkward += 1,
        }
    }
    links
}

/// What a link to something below the page adds to its address; none for itself, other places, and other views of the page.
fn within(page: &Url, target: &str) -> Option<String> {
    let url = page.join(target.trim()).ok()?;
    if url.origin() != page.origin() || url.query().is_some() {
        return None;
    }
    let rest = url.path().strip_prefix(page.path())?;
    (!rest.is_empty()).then(|| rest.to_owned())
}

/// The name behind a part of a path; `None` when it is none.
fn name(rest: &str) -> Option<String> {
    let one = rest.strip_suffix('/').unwrap_or(rest);
    let name = percent_decode_str(one).decode_utf8().ok()?;
    let is_name = !one.contains('/') && !name.contains(['/', '\0']) && !matches!(&*name, "" | "." | "..");
    is_name.then(|| format!("{name}{}", if one.len() < rest.len() { "/" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(html: &str) -> Links {
        links(&Url::parse("http://host/pub/data/").unwrap(), html.as_bytes())
    }

    #[test]
    fn files_and_folders_of_the_page_are_found_and_nothing_else() {
        let html = r#"<html><h1>Index of /pub/data/</h1><a href="?C=N;O=D">Name</a> <a href="../">Parent</a> <a href="/">Root</a>
            <a href="/pub/data/">Here</a> <a name="x">no link</a> <A HREF='a.tar'>a</A> <a href=b%20c.txt>b</a> <a href="./d/">d</a>
            <a href="http://host/pub/data/e&amp;f">e</a> <a href="https://host/pub/data/g">other scheme</a>
            <a href="http://elsewhere/pub/data/h">h</a> <a href="i#part">i</a> <a href="a.tar">again</a> <a href="d/deep">deep</a>
            <!-- <a href="comment"> --> <a href="mailto:me@host">me</a> <a href="j/..">here again</a> <a href="%c3%a9">k</a>"#;
        let names = ["a.tar", "b c.txt", "d/", "e&f", "i", "é"].map(str::to_owned).to_vec();
        // What is deeper is found from the page of its folder, if that has one.
        assert_eq!(of(html), Links { names, awkward: 1 });
    }

    #[test]
    fn what_no_file_can_be_named_after_is_counted() {
        let html = "<a href='a%2Fb'> <a href='%00'> <a href='%ff'> <a href='%2e%2e'> <a href='x//'> <a href='fine'>";
        let Links { names, awkward } = of(html);
        assert_eq!((names, awkward), (vec!["fine".to_owned()], 4));
    }
}
