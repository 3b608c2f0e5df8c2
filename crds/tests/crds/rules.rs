//! What the rules of our kinds (`x-kubernetes-validations`) accept and refuse. It must not know how a rule is written.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use penstock_crds::{CacheRuntime, Dataset};
use serde_json::{Value, json};

use crate::api_server::{Rule, Verdict, judge, rules};

/// Where a rule refuses, and words of what it says.
type Refusal = (&'static str, &'static str);

/// One object that passes the rest of the schema.
struct Row {
    what: &'static str,
    object: Value,
    refusals: Vec<Refusal>,
}

fn accepted(what: &'static str, object: Value) -> Row {
    Row {
        what,
        object,
        refusals: Vec::new(),
    }
}

fn refused(what: &'static str, object: Value, refusals: &[Refusal]) -> Row {
    Row {
        what,
        object,
        refusals: refusals.to_vec(),
    }
}

fn dataset(name: &str, sources: Value) -> Value {
    json!({"apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": name}, "spec": {"sources": sources}})
}

fn named_dataset(name: &str) -> Value {
    dataset(name, json!([{"s3": {"bucket": "b"}}]))
}

fn path(path: &str) -> Value {
    dataset("d", json!([{"path": path, "s3": {"bucket": "b"}}]))
}

fn prefix(prefix: &str) -> Value {
    dataset("d", json!([{"s3": {"bucket": "b", "prefix": prefix}}]))
}

fn claim(more: Value) -> Value {
    let mut object = dataset("d", json!([{"claim": {"name": "data"}}]));
    let claim = object["spec"]["sources"][0]["claim"].as_object_mut().unwrap();
    claim.extend(more.as_object().unwrap().clone());
    object
}

fn cached(path: &str) -> Value {
    let mut object = named_dataset("d");
    object["spec"]["cache"] = json!({"rules": [{"path": "a", "pin": true}, {"path": path, "pin": true}]});
    object
}

fn runtime(name: &str, tier: Value) -> Value {
    json!({"apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": name}, "spec": {"replicas": 1, "tiers": [tier]}})
}

fn named_runtime(name: &str) -> Value {
    runtime(name, json!({"name": "t", "medium": "SSD", "capacity": "1Gi"}))
}

fn tier(medium: &str) -> Value {
    runtime("pool", json!({"name": "t", "medium": medium, "capacity": "1Gi"}))
}

fn tier_in(volume: &str, medium: &str) -> Value {
    let tier = json!({"name": "t", "medium": medium, "capacity": "1Gi", "volume": volume});
    runtime("pool", tier)
}

fn allowed(patterns: &[&str]) -> Value {
    let mut object = named_runtime("pool");
    object["spec"]["origins"] = json!({"allowed": patterns});
    object
}

fn host_paths(paths: &[&str]) -> Value {
    let mut object = named_runtime("pool");
    object["spec"]["origins"] = json!({"hostPaths": paths});
    object
}

fn folder(uid: i32, gid: i32) -> Value {
    dataset("d", json!([{"folder": {"path": "/mnt/data", "uid": uid, "gid": gid}}]))
}

fn identity(identity: Value) -> Value {
    let mut object = named_runtime("pool");
    object["spec"]["workloadIdentity"] = identity;
    object
}

/// A source of this kind that says twice who asks.
fn asking(kind: &str, is_itself: bool) -> Value {
    let mut origin = json!({"bucket": "bucket", "account": "acc", "container": "c"});
    origin["workloadIdentity"] = is_itself.into();
    origin["credentialsSecretRef"] = json!({"name": "keys"});
    dataset("d", json!([{kind: origin}]))
}

/// Names of objects are subdomains before any rule is asked: at most 253 characters, dots allowed, no capitals, no dash at an
/// end.
fn table() -> Vec<Row> {
    let dataset_name = [("", "the name has at most 63 lower-case letters")];
    let runtime_name = [("", "the name has at most 52 lower-case letters")];
    let path_rule = [("spec.sources[0].path", "path has no parts `.` or `..`")];
    let prefix_rule = [("spec.sources[0].s3.prefix", "prefix must not begin with a slash")];
    let origin_rule = [("spec.sources[0]", "a source has exactly one origin: set one of s3")];
    let claim_path_rule = [("spec.sources[0].claim.path", path_rule[0].1)];
    let claim_user_rule = [("spec.sources[0].claim.uid", "files of a claim are not read as root")];
    let own_claim_rule = [("", "a source cannot be the claim that has the Dataset's own name")];
    let other_rule = [(
        "spec.sources[0]",
        "limits and caBundle mean nothing for files of another Dataset",
    )];
    let other = |more: Value| {
        let mut source = json!({"dataset": {"name": "other"}});
        source
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        dataset("d", json!([source]))
    };
    let no_tls_rule = [("spec.sources[0]", "caBundle means nothing for hdfs, folder and claim")];
    let plain_rule = [(
        "spec.sources[0]",
        "caBundle means nothing for a server that is asked without TLS",
    )];
    let signed = |kind: &str, origin: Value| dataset("d", json!([{kind: origin, "caBundle": "pem"}]));
    let files_rule = [(
        "spec.sources[0].http",
        "files are named one by one or by a manifest, not both",
    )];
    let web = |more: Value| {
        let mut object = dataset("d", json!([{"http": {"url": "https://h/"}}]));
        let http = object["spec"]["sources"][0]["http"].as_object_mut().unwrap();
        http.extend(more.as_object().unwrap().clone());
        object
    };
    let cached_rule = [("spec.cache.rules[1].path", path_rule[0].1)];
    let allowed_rule = [("spec.origins.allowed", "a pattern has no parts `.` or `..`")];
    let host_path_rule = [("spec.origins.hostPaths", "a path has no parts `.` or `..`")];
    let folder_group_rule = [(
        "spec.sources[0].folder.gid",
        "files of nodes are not read as the group of root",
    )];
    let folder_user_rule = [("spec.sources[0].folder.uid", "files of nodes are not read as root")];
    let annotation_rule = [(
        "spec.workloadIdentity.serviceAccountAnnotations",
        "an annotation begins with the domain of a cloud",
    )];
    let annotation = |key: &str| identity(json!({"serviceAccountAnnotations": {key: "x"}}));
    let label_rule = [(
        "spec.workloadIdentity.podLabels",
        "a label begins with the domain of a cloud",
    )];
    let label = |key: &str| identity(json!({"podLabels": {"azure.workload.identity/use": "true", key: "x"}}));
    let vouched_rule = [("spec.workloadIdentity.endpoints", allowed_rule[0].1)];
    let who_asks = "workloadIdentity and credentialsSecretRef both say who asks";
    let principal_rule = [(
        "spec.sources[0].hdfs",
        "with credentialsSecretRef files are read as the principal of the Secret",
    )];
    let hdfs = |more: Value| {
        let mut object = dataset("d", json!([{"hdfs": {"nameNodes": ["nn:8020"], "path": "/"}}]));
        let hdfs = object["spec"]["sources"][0]["hdfs"].as_object_mut().unwrap();
        hdfs.extend(more.as_object().unwrap().clone());
        object
    };
    let refresh_rule = [(
        "spec.refresh",
        "refresh has an interval, notifications or both, or it is immutable",
    )];
    let immutable_rule = [("", "what is immutable cannot have another Dataset as a source")];
    let refreshed = |refresh: Value, sources: Value| {
        let mut dataset = dataset("d", sources);
        dataset["spec"]["refresh"] = refresh;
        dataset
    };
    let refresh = |refresh: Value| refreshed(refresh, json!([{"s3": {"bucket": "b"}}]));
    let memory_rule = [("spec.tiers[0]", "a tier in Memory has the volume EmptyDir")];
    vec![
        accepted("a user of HDFS", hdfs(json!({"user": "reader"}))),
        accepted(
            "a principal of HDFS",
            hdfs(json!({"user": "", "credentialsSecretRef": {"name": "keytab"}})),
        ),
        refused(
            "a user and a principal",
            hdfs(json!({"user": "reader", "credentialsSecretRef": {"name": "keytab"}})),
            &principal_rule,
        ),
        accepted("no patterns", allowed(&[])),
        accepted(
            "patterns",
            allowed(&["s3://team-*/**", "https://h:9000/..a/b../...", "**"]),
        ),
        refused(
            "one that leads up",
            allowed(&["s3://a/**", "s3://b/../a"]),
            &allowed_rule,
        ),
        refused("one that stays", allowed(&["s3://b/./a"]), &allowed_rule),
        refused("one that ends so", allowed(&["https://h/.."]), &allowed_rule),
        accepted("nobody's identity", identity(json!({}))),
        accepted("a role of AWS", annotation("eks.amazonaws.com/role-arn")),
        accepted("an account of Google", annotation("iam.gke.io/gcp-service-account")),
        accepted("a domain that ends like ours", annotation("notpenstock.io/a")),
        refused("an annotation of ours", annotation("penstock.io/a"), &annotation_rule),
        refused(
            "one of Kubernetes",
            annotation("kubernetes.io/enforce-mountable-secrets"),
            &annotation_rule,
        ),
        refused("one without a domain", annotation("role-arn"), &annotation_rule),
        accepted("a label of Azure", label("azure.workload.identity/proxy")),
        refused("a label of ours", label("penstock.io/cache-runtime"), &label_rule),
        refused(
            "one that our selectors use",
            label("app.kubernetes.io/component"),
            &label_rule,
        ),
        refused("one that somebody's selector may use", label("app"), &label_rule),
        accepted(
            "an endpoint",
            identity(json!({"endpoints": ["https://h:9000", "https://*.h/b/**"]})),
        ),
        refused(
            "one that leads up",
            identity(json!({"endpoints": ["https://h/a/../b"]})),
            &vouched_rule,
        ),
        accepted("a Secret and no identity", asking("s3", false)),
        accepted("the same at Google", asking("gcs", false)),
        accepted("the same at Azure", asking("azure", false)),
        refused(
            "a Secret and the identity",
            asking("s3", true),
            &[("spec.sources[0].s3", who_asks)],
        ),
        refused(
            "the same at Google",
            asking("gcs", true),
            &[("spec.sources[0].gcs", who_asks)],
        ),
        refused(
            "the same at Azure",
            asking("azure", true),
            &[("spec.sources[0].azure", who_asks)],
        ),
        accepted("a name", named_dataset("image-net-2012")),
        accepted("a name of one digit", named_dataset("0")),
        accepted("the longest label", named_dataset(&"d".repeat(63))),
        refused("one more letter", named_dataset(&"d".repeat(64)), &dataset_name),
        refused("a dot in a name", named_dataset("image.net"), &dataset_name),
        accepted("a source with an origin", named_dataset("d")),
        refused("one without", dataset("d", json!([{"path": "a"}])), &origin_rule),
        refused("null", dataset("d", json!([{"path": "a", "s3": null}])), &origin_rule),
        accepted("a web server", dataset("d", json!([{"http": {"url": "https://h/"}}]))),
        accepted("files of it", web(json!({"files": ["a"], "manifest": ""}))),
        accepted(
            "those of a manifest",
            web(json!({"files": [], "manifest": "SHA256SUMS"})),
        ),
        refused(
            "both",
            web(json!({"files": ["a"], "manifest": "SHA256SUMS"})),
            &files_rule,
        ),
        refused(
            "two",
            dataset("d", json!([{"s3": {"bucket": "b"}, "http": {"url": "https://h/"}}])),
            &origin_rule,
        ),
        accepted("a claim", dataset("d", json!([{"claim": {"name": "data"}}]))),
        accepted(
            "a folder of it",
            claim(json!({"path": "2024/..raw", "uid": 1, "gid": 0})),
        ),
        refused("one above it", claim(json!({"path": "2024/../.."})), &claim_path_rule),
        accepted("a folder of nodes", folder(1000, 100)),
        refused("root as its reader as well", folder(0, 100), &folder_user_rule),
        refused("or the group of root", folder(1000, 0), &folder_group_rule),
        accepted("folders of nodes", host_paths(&["/mnt/..lustre", "/srv"])),
        refused(
            "folders above others",
            host_paths(&["/srv", "/mnt/../etc"]),
            &host_path_rule,
        ),
        refused("root as its reader", claim(json!({"uid": 0})), &claim_user_rule),
        refused(
            "a claim beside a bucket",
            dataset("d", json!([{"claim": {"name": "data"}, "s3": {"bucket": "b"}}])),
            &origin_rule,
        ),
        refused(
            "the Dataset's own",
            dataset("data", json!([{"claim": {"name": "data"}}])),
            &own_claim_rule,
        ),
        accepted("another Dataset", other(json!({"exclude": ["*.crc"], "caBundle": ""}))),
        refused(
            "a limit of another Dataset",
            other(json!({"limits": {"requestsPerSecond": 5}})),
            &other_rule,
        ),
        refused(
            "authorities of another Dataset",
            other(json!({"caBundle": "pem"})),
            &other_rule,
        ),
        accepted("authorities of AWS", signed("s3", json!({"bucket": "b"}))),
        accepted(
            "those of a look-alike",
            signed("s3", json!({"bucket": "b", "endpoint": "https://h"})),
        ),
        accepted("those of a web server", signed("http", json!({"url": "https://h/"}))),
        // Who gives its tokens is asked over TLS all the same.
        accepted(
            "those of who gives tokens",
            signed("gcs", json!({"bucket": "bucket", "endpoint": "http://h"})),
        ),
        accepted(
            "no authorities of name nodes",
            dataset(
                "d",
                json!([{"hdfs": {"nameNodes": ["h:8020"], "path": "/"}, "caBundle": ""}]),
            ),
        ),
        refused(
            "authorities of name nodes",
            signed("hdfs", json!({"nameNodes": ["h:8020"], "path": "/"})),
            &no_tls_rule,
        ),
        refused(
            "of a folder",
            signed("folder", json!({"path": "/mnt/data"})),
            &no_tls_rule,
        ),
        refused("of a claim", signed("claim", json!({"name": "data"})), &no_tls_rule),
        refused(
            "of a look-alike without TLS",
            signed("s3", json!({"bucket": "b", "endpoint": "http://h"})),
            &plain_rule,
        ),
        refused(
            "of a web server without TLS",
            signed("http", json!({"url": "http://h/"})),
            &plain_rule,
        ),
        accepted("an interval", refresh(json!({"intervalSeconds": 60}))),
        accepted("never", refresh(json!({"immutable": true}))),
        accepted(
            "notifications",
            refresh(json!({"notifications": {"tokenSecretRef": {"name": "t"}}})),
        ),
        accepted(
            "both, and not never",
            refresh(
                json!({"intervalSeconds": 60, "immutable": false, "notifications": {"tokenSecretRef": {"name": "t"}}}),
            ),
        ),
        refused("nothing", refresh(json!({})), &refresh_rule),
        refused("not never", refresh(json!({"immutable": false})), &refresh_rule),
        refused(
            "never, and now and then",
            refresh(json!({"immutable": true, "intervalSeconds": 60})),
            &refresh_rule,
        ),
        refused(
            "never, and when somebody says so",
            refresh(json!({"immutable": true, "notifications": {"tokenSecretRef": {"name": "t"}}})),
            &refresh_rule,
        ),
        accepted(
            "another Dataset now and then",
            refreshed(json!({"intervalSeconds": 60}), json!([{"dataset": {"name": "o"}}])),
        ),
        refused(
            "another Dataset for ever",
            refreshed(json!({"immutable": true}), json!([{"dataset": {"name": "o"}}])),
            &immutable_rule,
        ),
        accepted("no path", named_dataset("d")),
        accepted("the root", path("")),
        accepted("folders", path("raw/2024")),
        accepted("dots in names", path("..a/b../.hidden/...")),
        refused("the folder itself", path("."), &path_rule),
        refused("at the end", path("a/."), &path_rule),
        refused("the folder above", path(".."), &path_rule),
        refused("at the beginning", path("../a"), &path_rule),
        refused("in the middle", path("a/../b"), &path_rule),
        accepted("a folder of the bucket", prefix("train/")),
        accepted("an empty name within a key", prefix("train//a")),
        refused("a slash in front", prefix("/train/"), &prefix_rule),
        refused("nothing else", prefix("/"), &prefix_rule),
        refused(
            "the second source, twice",
            dataset(
                "d",
                json!([
                    {"path": "a", "s3": {"bucket": "b"}},
                    {"path": "./c", "s3": {"bucket": "b", "prefix": "/"}},
                ]),
            ),
            &[
                ("spec.sources[1].path", path_rule[0].1),
                ("spec.sources[1].s3.prefix", prefix_rule[0].1),
            ],
        ),
        accepted("how all of it is cached", cached("")),
        accepted("how a folder is cached", cached("raw/..2024")),
        refused("how the folder above is cached", cached("raw/../2024"), &cached_rule),
        accepted("a name", named_runtime("pool-2")),
        accepted("a name of one letter", named_runtime("p")),
        accepted("the longest name", named_runtime(&"p".repeat(52))),
        refused("one more letter", named_runtime(&"p".repeat(53)), &runtime_name),
        refused("a digit in front", named_runtime("2-pool"), &runtime_name),
        refused("a dot in a name", named_runtime("pool.a"), &runtime_name),
        accepted("a disk by default", tier("SSD")),
        accepted("a disk that outlives its pod", tier_in("Node", "HDD")),
        accepted("a disk that does not", tier_in("EmptyDir", "SSD")),
        accepted("memory that does not", tier_in("EmptyDir", "Memory")),
        refused("memory that should", tier_in("Node", "Memory"), &memory_rule),
        refused("memory by default", tier("Memory"), &memory_rule),
    ]
}

#[test]
fn rules_refuse_what_they_say_and_nothing_else() {
    for Row { what, object, refusals } in table() {
        is_of_its_kind(what, &object);
        let verdicts = judge(&schema(kind(&object)), &object, None);
        let said: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.holds).collect();
        let as_expected = |(verdict, (place, words)): (&&Verdict, &Refusal)| {
            verdict.place == *place && verdict.rule.message.contains(words)
        };
        assert!(
            said.len() == refusals.len() && said.iter().zip(&refusals).all(as_expected),
            "{what}: {object}\nis refused by {said:#?}\ninstead of {refusals:?}"
        );
    }
}

#[test]
fn every_rule_has_a_sentence_and_rows_that_it_accepts_and_refuses() {
    for wanted in ["Dataset", "CacheRuntime"] {
        let schema = schema(wanted);
        let (mut held, mut broken) = (Vec::new(), Vec::new());
        for Row { object, refusals, .. } in table().into_iter().filter(|row| kind(&row.object) == wanted) {
            for Verdict { rule, holds, .. } in judge(&schema, &object, None) {
                match holds {
                    true if refusals.is_empty() => held.push(rule),
                    true => {}
                    false => broken.push(rule),
                }
            }
        }
        let all = rules(&schema);
        let fields: BTreeSet<&str> = all.iter().map(|rule| rule.field.as_str()).collect();
        let places = schema.to_string().matches("\"x-kubernetes-validations\":").count();
        assert_eq!(
            fields.len(),
            places,
            "rules of a {wanted} are where nobody looks for them"
        );
        let without = |seen: &[Rule]| -> Vec<Rule> {
            let unseen = all.iter().filter(|rule| !seen.contains(rule));
            unseen.cloned().collect()
        };
        assert_eq!(
            without(&held),
            [],
            "these rules of a {wanted} accept no row of the table"
        );
        assert_eq!(
            without(&broken),
            [],
            "these rules of a {wanted} refuse no row of the table"
        );
        let silent: Vec<&Rule> = all.iter().filter(|rule| rule.message.is_empty()).collect();
        assert!(
            silent.is_empty(),
            "these rules of a {wanted} say nothing to people: {silent:#?}"
        );
    }
}

/// The schema of one of our kinds.
pub fn schema(kind: &str) -> Value {
    let crd = match kind {
        "Dataset" => Dataset::crd(),
        "CacheRuntime" => CacheRuntime::crd(),
        other => panic!("no kind of ours: {other}"),
    };
    let crd = serde_json::to_value(crd).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

/// Otherwise a slip in the table would be taken for a refusal.
fn is_of_its_kind(what: &str, object: &Value) {
    let read = match kind(object) {
        "Dataset" => serde_json::from_value::<Dataset>(object.clone()).map(drop),
        _ => serde_json::from_value::<CacheRuntime>(object.clone()).map(drop),
    };
    if let Err(error) = read {
        panic!("{what}: {error}");
    }
}

/// The rest of the schema is not asked above, and a place that cannot be written down cannot be allowed.
#[test]
fn a_pattern_may_begin_like_every_kind_of_place() {
    let schema = schema("CacheRuntime");
    let items = &schema["properties"]["spec"]["properties"]["origins"]["properties"]["allowed"]["items"];
    let pattern = items["pattern"].as_str().unwrap();
    let (kinds, _) = pattern.trim_start_matches("^((").split_once(')').unwrap();
    let kinds: BTreeSet<&str> = kinds.split('|').collect();
    let places = BTreeSet::from(["s3", "gs", "azure", "hdfs", "hf", "claim", "https?"]);
    assert_eq!(kinds, places);
}
