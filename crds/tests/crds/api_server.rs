//! What the API server does with the rules of a schema (`x-kubernetes-validations`): which value is `self`, which `oldSelf`,
//! and what is there by default. It must not know what the rules of our kinds say.
//!
//! Not here, so a story on a real one stays: types, bounds and patterns of the schema, whether an expression type-checks and
//! what it costs. Nor `optionalOldSelf`, `messageExpression`, escaped names of fields, and functions that only Kubernetes has
//! (`quantity`, `url` ...): a rule that needs one of these fails the test, it does not pass. The original is
//! k8s.io/apiextensions-apiserver, pkg/apiserver/schema/cel/validation.go.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Program, Value as CelValue, extensions};
use serde_json::{Value, json};

/// A rule, and where it sits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The field whose value is `self`, for example `spec.sources[].path`; empty for the whole object.
    pub field: String,
    /// The expression.
    pub expression: String,
    /// What a person is told.
    pub message: String,
}

/// What a rule says of one value.
#[derive(Debug)]
pub struct Verdict {
    /// The rule.
    pub rule: Rule,
    /// The value in the object, for example `spec.sources[1].path`.
    pub place: String,
    /// Whether it is as the rule wants it.
    pub holds: bool,
}

/// Every rule of a schema.
pub fn rules(schema: &Value) -> Vec<Rule> {
    let mut found = Vec::new();
    collect("", schema, &mut found);
    found
}

/// What the rules of a schema say of an object that is created, or that takes the place of `old`.
pub fn judge(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<Verdict> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)
        .expect("the functions of strings");
    let mut judge = Judge {
        env: Arc::new(env),
        verdicts: Vec::new(),
    };
    let with_defaults = |object: &Value| defaulted(schema, object.clone());
    let old = old.map(with_defaults);
    judge.visit("", "", schema, &with_defaults(object), old.as_ref());
    judge.verdicts
}

struct Judge {
    env: Arc<Env>,
    verdicts: Vec<Verdict>,
}

impl Judge {
    fn visit(&mut self, field: &str, place: &str, schema: &Value, new: &Value, old: Option<&Value>) {
        for rule in rules_at(field, schema) {
            let program = self.env.compile(&rule.expression);
            let program = program.unwrap_or_else(|error| panic!("{rule:?}: {error}"));
            // Where nothing was before there is nothing to compare with.
            if old.is_some() || !program.references().has_variable("oldSelf") {
                self.verdicts.push(Verdict {
                    place: place.to_owned(),
                    holds: self.holds(&rule, &program, new, old),
                    rule,
                });
            }
        }
        for (name, schema, value) in fields(schema, new) {
            let old = old.and_then(|old| old.get(name));
            self.visit(&below(field, name), &below(place, name), schema, value, old);
        }
        for (key, schema, value) in entries(schema, new) {
            let old = old.and_then(|old| old.get(key));
            self.visit(&format!("{field}{{}}"), &format!("{place}[{key}]"), schema, value, old);
        }
        for (index, item) in new.as_array().into_iter().flatten().enumerate() {
            let old = old.and_then(|old| counterpart(schema, item, old));
            let place = format!("{place}[{index}]");
            self.visit(&format!("{field}[]"), &place, &schema["items"], item, old);
        }
    }

    fn holds(&self, rule: &Rule, program: &Program, new: &Value, old: Option<&Value>) -> bool {
        let mut context = Context::with_env(self.env.clone());
        context.add_variable_from_value("self", cel_value(new));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", cel_value(old));
        }
        match program.execute(&context) {
            Ok(CelValue::Bool(holds)) => holds,
            other => panic!("{rule:?} of {new} is {other:?}"),
        }
    }
}

fn collect(field: &str, schema: &Value, found: &mut Vec<Rule>) {
    found.extend(rules_at(field, schema));
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        collect(&below(field, name), schema, found);
    }
    if schema["additionalProperties"].is_object() {
        collect(&format!("{field}{{}}"), &schema["additionalProperties"], found);
    }
    if schema["items"].is_object() {
        collect(&format!("{field}[]"), &schema["items"], found);
    }
}

fn rules_at(field: &str, schema: &Value) -> Vec<Rule> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules
        .map(|rule| {
            for unknown in ["optionalOldSelf", "messageExpression"] {
                assert!(rule[unknown].is_null(), "{unknown} is not known here: {rule}");
            }
            let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            Rule {
                field: field.to_owned(),
                expression: text("rule"),
                message: text("message"),
            }
        })
        .collect()
}

/// The fields of an object that its schema names.
fn fields<'a>(schema: &'a Value, value: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value, &'a Value)> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.filter_map(|(name, schema)| Some((name, schema, value.get(name)?)))
}

/// The entries of a map.
fn entries<'a>(schema: &'a Value, value: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value, &'a Value)> {
    let schema = Some(&schema["additionalProperties"]).filter(|schema| schema.is_object());
    let entries = schema.and(value.as_object()).into_iter().flatten();
    entries.filter_map(move |(key, value)| Some((key, schema?, value)))
}

/// The item of `old` with the same keys. Items of a list without keys are not compared with anything.
fn counterpart<'a>(schema: &Value, item: &Value, old: &'a Value) -> Option<&'a Value> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
    let same = |other: &&Value| {
        let mut names = keys.iter().filter_map(Value::as_str);
        names.all(|name| other[name] == item[name])
    };
    old.as_array()?.iter().find(same)
}

fn below(above: &str, name: &str) -> String {
    if above.is_empty() {
        name.to_owned()
    } else {
        format!("{above}.{name}")
    }
}

/// The value with its defaults. A field that is null has the default if there has to be a value, else it is not there.
fn defaulted(schema: &Value, mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                let given = match fields.remove(name) {
                    Some(Value::Null) if schema["nullable"] == true => None,
                    Some(Value::Null) | None => schema.get("default").cloned(),
                    given => given,
                };
                fields.extend(given.map(|given| (name.clone(), defaulted(schema, given))));
            }
            // The schema of a map names either fields or entries.
            if schema["additionalProperties"].is_object() {
                for entry in fields.values_mut() {
                    *entry = defaulted(&schema["additionalProperties"], entry.take());
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = defaulted(&schema["items"], item.take());
            }
        }
        _ => {}
    }
    value
}

/// Whole numbers are signed, as those of a schema are; the crate's own conversion makes them unsigned.
fn cel_value(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => CelValue::Int(whole),
            None => CelValue::Float(number.as_f64().expect("a number")),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(cel_value).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), cel_value(value)));
            fields.collect::<HashMap<_, _>>().into()
        }
    }
}

#[test]
fn a_rule_is_asked_where_it_sits_of_what_is_there_by_default_and_of_what_was_there() {
    let rule = |rule: &str| json!([{"rule": rule, "message": "no"}]);
    let schema = json!({"properties": {"spec": {
        "x-kubernetes-validations": rule("self.size >= oldSelf.size"),
        "properties": {
            "size": {"type": "integer", "default": 2, "x-kubernetes-validations": rule("self > 0")},
            "labels": {"additionalProperties": {"x-kubernetes-validations": rule("self.size() < 3")}},
            "tiers": {
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"x-kubernetes-validations": rule("!has(self.medium) || self.medium == oldSelf.medium")},
            },
            "loose": {"items": {"x-kubernetes-validations": rule("self == oldSelf")}},
        },
    }}});
    let tiers = |first: &str, second: &str| json!([{"name": first, "medium": first}, {"name": "b", "medium": second}]);
    for (what, spec, old, expected) in [
        ("a field", json!({"size": 0}), None, vec!["spec.size"]),
        (
            "a map",
            json!({"labels": {"a": "1", "b": "123"}}),
            None,
            vec!["spec.labels[b]"],
        ),
        ("the same", json!({"size": 1}), Some(json!({"size": 1})), vec![]),
        ("smaller", json!({"size": 1}), Some(json!({"size": 3})), vec!["spec"]),
        (
            "smaller than the default",
            json!({"size": 1}),
            Some(json!({})),
            vec!["spec"],
        ),
        (
            "null is the default",
            json!({"size": null}),
            Some(json!({"size": 3})),
            vec!["spec"],
        ),
        ("items are created", json!({"tiers": tiers("a", "x")}), None, vec![]),
        (
            "other items",
            json!({"tiers": tiers("c", "x")}),
            Some(json!({"tiers": tiers("a", "x")})),
            vec![],
        ),
        (
            "an item by its key",
            json!({"tiers": [{"name": "b", "medium": "y"}]}),
            Some(json!({"tiers": tiers("a", "x")})),
            vec!["spec.tiers[0]"],
        ),
        (
            "no keys",
            json!({"loose": ["a"]}),
            Some(json!({"loose": ["b"]})),
            vec![],
        ),
    ] {
        let old = old.map(|old| json!({"spec": old}));
        let verdicts = judge(&schema, &json!({"spec": spec}), old.as_ref());
        let refused = verdicts.into_iter().filter(|verdict| !verdict.holds);
        assert_eq!(
            refused.map(|verdict| verdict.place).collect::<Vec<_>>(),
            expected,
            "{what}"
        );
    }
    let fields: Vec<String> = rules(&schema).into_iter().map(|rule| rule.field).collect();
    assert_eq!(
        fields,
        ["spec", "spec.labels{}", "spec.loose[]", "spec.size", "spec.tiers[]"]
    );
}
