//! What the API server says of the shape of an object: fields that there are, types, bounds, patterns. It must not know rules
//! (`x-kubernetes-validations`), nor what any field means. A keyword that it does not know fails the test, it does not pass.

use std::sync::Arc;

use cel::{Context, Env, Value as CelValue};
use serde_json::{Value, json};

/// What is said for people and for tools, and what other files ask.
const WITHOUT_A_CHECK: [&str; 8] = [
    "default",
    "description",
    "format",
    "nullable",
    "title",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
];

/// What is wrong with a value, each with its place.
pub fn faults(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    let keywords = schema.as_object().expect("a schema is an object");
    if value.is_null() && schema["nullable"] == true {
        return found;
    }
    for (keyword, wanted) in keywords {
        if let Some(wrong) = fault(keyword, wanted, schema, value) {
            found.push(format!("{place}: {wrong}"));
        }
    }
    let (named, others) = (&schema["properties"], &schema["additionalProperties"]);
    let is_open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    for (name, value) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match named.get(name).or(Some(others).filter(|others| others.is_object())) {
            Some(schema) => found.extend(faults(schema, value, &place)),
            None if is_open => {}
            None => found.push(format!("{place}: there is no such field")),
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(&schema["items"], item, &format!("{place}[{index}]")));
    }
    found
}

fn fault(keyword: &str, wanted: &Value, schema: &Value, value: &Value) -> Option<String> {
    let length = value.as_str().map(|text| text.chars().count());
    let count = value.as_array().map(Vec::len);
    let entries = value.as_object().map(serde_json::Map::len);
    let bound = || wanted.as_u64().expect("a bound") as usize;
    let holds = match keyword {
        "type" => is_of_type(wanted, value) || schema["x-kubernetes-int-or-string"] == true,
        "x-kubernetes-int-or-string" => value.is_string() || value.is_i64(),
        "required" => {
            let mut names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
            value
                .as_object()
                .is_none_or(|fields| names.all(|name| fields.contains_key(name)))
        }
        "enum" => wanted.as_array().is_some_and(|all| all.contains(value)),
        "pattern" => value.as_str().is_none_or(|text| matches(text, wanted)),
        "minLength" => length.is_none_or(|length| length >= bound()),
        "maxLength" => length.is_none_or(|length| length <= bound()),
        "minItems" => count.is_none_or(|count| count >= bound()),
        "maxItems" => count.is_none_or(|count| count <= bound()),
        "maxProperties" => entries.is_none_or(|entries| entries <= bound()),
        "minimum" => value.as_f64().is_none_or(|number| Some(number) >= wanted.as_f64()),
        "maximum" => value.as_f64().is_none_or(|number| Some(number) <= wanted.as_f64()),
        "properties" | "additionalProperties" | "items" | "x-kubernetes-preserve-unknown-fields" => true,
        known if WITHOUT_A_CHECK.contains(&known) => true,
        unknown => panic!("{unknown} is not known here: {schema}"),
    };
    (!holds).then(|| format!("{value} is refused by {keyword} {wanted}"))
}

fn is_of_type(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        unknown => panic!("the type {unknown} is not known here"),
    }
}

/// By the expressions of rules, which are those of patterns.
fn matches(text: &str, pattern: &Value) -> bool {
    let env = Arc::new(Env::stdlib());
    let program = env.compile("text.matches(pattern)").expect("an expression");
    let mut context = Context::with_env(env);
    context.add_variable_from_value("text", CelValue::from(text));
    context.add_variable_from_value("pattern", CelValue::from(pattern.as_str().expect("a pattern")));
    match program.execute(&context) {
        Ok(CelValue::Bool(matches)) => matches,
        other => panic!("{text:?} and {pattern}: {other:?}"),
    }
}

#[test]
fn each_keyword_refuses_what_it_says_at_its_place() {
    let schema = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3},
        "size": {"x-kubernetes-int-or-string": true},
        "count": {"type": "integer", "minimum": 1, "maximum": 5, "nullable": true, "description": "d"},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "labels": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}},
        "tiers": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "boolean"}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    for (object, expected) in [
        (
            json!({"name": "ab", "size": "1Gi", "count": null, "kind": "a", "labels": {"x": "y"}, "tiers": [true], "any": {"x": 1}}),
            None,
        ),
        (json!({"name": "ab", "size": 7}), None),
        (json!([]), Some(".: [] is refused by type")),
        (json!({}), Some(".: {} is refused by required")),
        (json!({"name": "ab", "nme": 1}), Some("..nme: there is no such field")),
        (json!({"name": "A1"}), Some("..name: \"A1\" is refused by pattern")),
        (json!({"name": "a"}), Some("..name: \"a\" is refused by minLength")),
        (
            json!({"name": "abcd"}),
            Some("..name: \"abcd\" is refused by maxLength"),
        ),
        (
            json!({"name": "ab", "size": true}),
            Some("..size: true is refused by x-kubernetes-int-or-string"),
        ),
        (
            json!({"name": "ab", "count": 0}),
            Some("..count: 0 is refused by minimum"),
        ),
        (
            json!({"name": "ab", "count": 6}),
            Some("..count: 6 is refused by maximum"),
        ),
        (
            json!({"name": "ab", "count": "1"}),
            Some("..count: \"1\" is refused by type"),
        ),
        (
            json!({"name": "ab", "kind": "c"}),
            Some("..kind: \"c\" is refused by enum"),
        ),
        (
            json!({"name": "ab", "labels": {"x": 1}}),
            Some("..labels.x: 1 is refused by type"),
        ),
        (
            json!({"name": "ab", "labels": {"x": "", "y": ""}}),
            Some("is refused by maxProperties"),
        ),
        (
            json!({"name": "ab", "tiers": []}),
            Some("..tiers: [] is refused by minItems"),
        ),
        (
            json!({"name": "ab", "tiers": [true, true, true]}),
            Some("is refused by maxItems"),
        ),
        (
            json!({"name": "ab", "tiers": [true, 1]}),
            Some("..tiers[1]: 1 is refused by type"),
        ),
    ] {
        let found = faults(&schema, &object, ".");
        let is_expected = match expected {
            None => found.is_empty(),
            Some(said) => found.len() == 1 && found[0].contains(said),
        };
        assert!(is_expected, "{object}: {found:?} instead of {expected:?}");
    }
}
