//! What is generated is fresh, and the definitions are bounded.

use std::path::Path;

use kube::CustomResourceExt;
use penstock_crds::{CacheRuntime, Dataset, chart, reference};

#[test]
fn the_definitions_in_the_chart_are_fresh() {
    for crd in [Dataset::crd(), CacheRuntime::crd()] {
        let (name, text) = chart::file(&crd).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../charts/penstock/templates/crds")
            .join(&name);
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{name} is not what the types say: run `make generate`");
    }
}

#[test]
fn the_page_about_the_fields_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/README.md");
    let there = std::fs::read_to_string(path).unwrap_or_default();
    let wanted = reference::page(&[Dataset::crd(), CacheRuntime::crd()]).unwrap();
    assert!(there == wanted, "it is not what the types say: run `make generate`");
}

#[test]
fn every_string_list_and_map_of_the_specs_is_bounded() {
    fn unbounded(path: &str, schema: &serde_json::Value, found: &mut Vec<String>) {
        let kind = schema["type"].as_str().unwrap_or("");
        let is_free = schema["enum"].is_null() && schema["format"].is_null();
        match kind {
            "string" if is_free && schema["maxLength"].is_null() => found.push(path.to_owned()),
            "array" if schema["maxItems"].is_null() => found.push(path.to_owned()),
            "object" if schema["additionalProperties"].is_object() => {
                if schema["maxProperties"].is_null() {
                    found.push(path.to_owned());
                }
                unbounded(&format!("{path}{{}}"), &schema["additionalProperties"], found);
            }
            _ => {}
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(&format!("{path}.{name}"), property, found);
        }
        if schema["items"].is_object() {
            unbounded(&format!("{path}[]"), &schema["items"], found);
        }
    }
    let mut found = Vec::new();
    for crd in [Dataset::crd(), CacheRuntime::crd()] {
        let crd = serde_json::to_value(&crd).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        unbounded(crd["spec"]["names"]["kind"].as_str().unwrap(), spec, &mut found);
    }
    // Types of Kubernetes itself, which the API server checks where they are used.
    found.retain(|path| !path.contains(".tolerations[]") && !path.contains(".resources."));
    assert_eq!(found, [""; 0], "unbounded");
}

#[test]
fn the_definitions_can_be_left_out_of_the_chart() {
    for crd in [Dataset::crd(), CacheRuntime::crd()] {
        let (name, text) = chart::file(&crd).unwrap();
        let templates: Vec<&str> = text.lines().filter(|line| line.contains("{{")).collect();
        assert_eq!(templates, ["{{- if .Values.crds.install }}", "{{- end }}"], "{name}");
    }
}
