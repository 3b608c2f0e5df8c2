//! The objects that a user writes, as YAML.

use std::net::SocketAddr;

use crate::origin::{ACCESS_KEY, SECRET_KEY};

/// The Secret `origin` with the keys of the test origins.
pub fn secret(namespace: &str) -> String {
    secret_with(namespace, SECRET_KEY)
}

/// The Secret `origin` with another secret key.
pub fn secret_with(namespace: &str, secret_key: &str) -> String {
    secret_of(namespace, ACCESS_KEY, secret_key)
}

/// The Secret `origin` with another key.
pub fn secret_of(namespace: &str, access_key: &str, secret_key: &str) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: origin, namespace: {namespace}}}
stringData: {{AWS_ACCESS_KEY_ID: {access_key}, AWS_SECRET_ACCESS_KEY: {secret_key:?}}}
"
    )
}

/// A CacheRuntime with one disk tier.
pub fn runtime(namespace: &str, name: &str, replicas: u32, capacity: &str) -> String {
    format!(
        "apiVersion: penstock.io/v1alpha1
kind: CacheRuntime
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  tiers:
  - {{name: ssd, medium: SSD, capacity: {capacity}}}
"
    )
}

/// A Dataset of one S3 source with the Secret `origin`.
pub fn dataset(namespace: &str, name: &str, endpoint: &SocketAddr, region: &str, bucket: &str, prefix: &str) -> String {
    format!(
        "apiVersion: penstock.io/v1alpha1
kind: Dataset
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  sources:
  - s3:
      bucket: {bucket}
      prefix: {prefix:?}
      region: {region}
      endpoint: http://{endpoint}
      credentialsSecretRef: {{name: origin}}
"
    )
}
