//! What the guide shows to be copied is what the API server takes.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::api_server::judge;
use crate::rules::schema;
use crate::schema::faults;

/// A YAML document of a page.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// Of the page, from 1 on, where it begins.
    line: usize,
    text: String,
}

/// The documents of all blocks of YAML, and those that a block of a terminal has, which begin with `apiVersion`.
fn shown(page: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let (mut language, mut is_open) = (None, false);
    for (number, text) in page.lines().enumerate() {
        let begins = language == Some("console") && !is_open && text.starts_with("apiVersion:");
        match (text.strip_prefix("```"), language) {
            (Some(_), Some(_)) => (language, is_open) = (None, false),
            (Some(named), None) => {
                language = Some(named);
                is_open = named == "yaml";
                all.extend(is_open.then(|| Shown {
                    line: number + 2,
                    text: String::new(),
                }));
            }
            (None, Some(_)) if text.trim_end() == "---" && is_open => all.push(Shown {
                line: number + 2,
                text: String::new(),
            }),
            (None, Some("console")) if text.starts_with("$ ") || text == "EOF" => is_open = false,
            (None, Some(_)) if is_open || begins => {
                if begins {
                    is_open = true;
                    all.push(Shown {
                        line: number + 1,
                        text: String::new(),
                    });
                }
                let last = all.last_mut().expect("one is open");
                last.text += text;
                last.text += "\n";
            }
            (None, _) => {}
        }
    }
    all
}

/// What the API server says against a document: nothing of objects that are not ours.
fn refusals(document: &Value) -> Vec<String> {
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    let is_ours = text("apiVersion").starts_with("penstock.io/");
    let object = match document {
        // Sources of a Dataset.
        Value::Array(_) => of_sources(json!({"sources": document})),
        // Fields of the spec of one.
        Value::Object(fields)
            if fields
                .keys()
                .all(|name| !schema("Dataset")["properties"]["spec"]["properties"][name].is_null()) =>
        {
            let mut spec = document.clone();
            spec["sources"] = json!([{"s3": {"bucket": "some"}}]);
            of_sources(spec)
        }
        _ if is_ours => document.clone(),
        _ => return Vec::new(),
    };
    let kind = object["kind"].as_str().unwrap_or_default();
    if object["apiVersion"] != "penstock.io/v1alpha1" || !["Dataset", "CacheRuntime"].contains(&kind) {
        return vec![format!("there is no {kind:?} of {}", object["apiVersion"])];
    }
    let mut schema = schema(kind);
    let name = json!({"type": "string", "minLength": 1});
    for (field, of_all) in [
        ("apiVersion", name.clone()),
        ("kind", name.clone()),
        (
            "metadata",
            json!({"type": "object", "required": ["name"], "properties": {"name": name, "namespace": name}}),
        ),
    ] {
        schema["properties"][field] = of_all;
    }
    let mut said = faults(&schema, &object, kind);
    if said.is_empty() {
        let verdicts = judge(&schema, &object, None)
            .into_iter()
            .filter(|verdict| !verdict.holds);
        said.extend(verdicts.map(|verdict| format!("{kind}.{}: {}", verdict.place, verdict.rule.message)));
    }
    said
}

fn of_sources(spec: Value) -> Value {
    json!({"apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d"}, "spec": spec})
}

/// What is wrong on a page, with file and line, and how many documents were judged.
fn judged(file: &str, page: &str) -> (Vec<String>, usize) {
    let documents = shown(page);
    let count = documents.len();
    let said = documents.into_iter().flat_map(|Shown { line, text }| {
        let said = match serde_saphyr::from_str(&text) {
            Ok(document) => refusals(&document),
            Err(error) => vec![error.to_string()],
        };
        said.into_iter().map(move |said| format!("{file}:{line}: {said}"))
    });
    (said.collect(), count)
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { pages(&path) } else { vec![path] });
    below
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect()
}

#[test]
fn everything_that_the_guide_shows_to_be_copied_is_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = pages(&root.join("docs/guide"));
    pages.push(root.join("README.md"));
    pages.sort();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for page in pages {
        let (said, judged) = judged(&page.display().to_string(), &fs::read_to_string(&page).unwrap());
        wrong.extend(said);
        count += judged;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Each origin has a page with one at least.
    assert!(count > 20, "only {count} documents were found");
}

#[test]
fn what_is_wrong_in_a_page_is_told_with_file_and_line() {
    let head = "apiVersion: penstock.io/v1alpha1\nkind: Dataset\nmetadata: {name: d}\n";
    let yaml = |document: &str| format!("# Title\n\n```yaml\n{document}```\n");
    for (page, expected) in [
        (
            yaml(&format!("{head}spec: {{sources: [{{s3: {{bucket: some}}}}]}}\n")),
            None,
        ),
        (
            yaml(&format!(
                "{head}spec: {{sources: [{{s3: {{bucket: some, colour: red}}}}]}}\n"
            )),
            Some("p.md:4: Dataset.spec.sources[0].s3.colour: there is no such field"),
        ),
        (
            yaml(&format!("a: b\n---\n{head}spec: {{sources: [{{path: a}}]}}\n")),
            Some("p.md:6: Dataset.spec.sources[0]: "),
        ),
        (
            yaml("  - s3: {bucket: some, prefix: /train}\n"),
            Some("p.md:4: Dataset.spec.sources[0].s3"),
        ),
        (
            yaml("cache: {rules: [{path: ../b}]}\n"),
            Some("p.md:4: Dataset.spec.cache.rules[0].path: "),
        ),
        (yaml("volumes: [{name: data}]\n"), None),
        (yaml("a: [\n"), Some("p.md:4: ")),
        (
            yaml("apiVersion: penstock.io/v1\nkind: Dataset\n"),
            Some("p.md:4: there is no \"Dataset\" of \"penstock.io/v1\""),
        ),
        (
            format!("```console\n$ cat d.yaml\n{head}spec: {{sources: []}}\n$ penstock ls d.yaml\na b\n```\n"),
            Some("p.md:3: Dataset.spec.sources: [] is refused by minItems"),
        ),
        (format!("```console\n$ penstock ls d.yaml\na: [b\n```\n{head}"), None),
    ] {
        let (said, _) = judged("p.md", &page);
        let is_expected = match expected {
            None => said.is_empty(),
            Some(start) => said.len() == 1 && said[0].starts_with(start),
        };
        assert!(is_expected, "{page}: {said:?} instead of {expected:?}");
    }
}
