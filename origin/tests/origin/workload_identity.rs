//! What clouds give to a pod by its service account: it is asked for as the environment says, it signs requests, and it is renewed. The
//! cloud is a server of the test's own, which takes nothing but what it gave.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, header};
use penstock_origin::{Environment, Network, Origin, OriginError, Reach, client_over};
use penstock_protocol::control::cache_node as wire;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use wire::source::Origin as Kind;

/// How a pod gets to what says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// AWS's token service takes the token of the service account.
    Role,
    /// An agent on the node gives keys of AWS.
    Agent,
    /// Google's metadata server.
    Metadata,
    /// Azure takes the token of the service account.
    Federated,
}

const WAYS: [Way; 4] = [Way::Role, Way::Agent, Way::Metadata, Way::Federated];

/// What is said to who asks for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// One, for so many seconds.
    Tokens(i64),
    /// None.
    Refuses(u16, &'static str),
    Nonsense,
    Nothing,
}

struct Shared {
    says: Mutex<Says>,
    /// The token of the service account that counts.
    proof: Mutex<&'static str>,
    /// How many tokens were given; each has its number.
    given: AtomicUsize,
    /// The first that storage still takes.
    first_good: AtomicUsize,
}

/// Tokens and storage, at a port each.
struct Cloud {
    tokens: SocketAddr,
    storage: SocketAddr,
    shared: Arc<Shared>,
    servers: Vec<JoinHandle<()>>,
    folder: TempDir,
}

impl Cloud {
    async fn that(says: Says) -> Self {
        let shared = Arc::new(Shared {
            says: Mutex::new(says),
            proof: Mutex::new("hush-proof-1"),
            given: AtomicUsize::new(0),
            first_good: AtomicUsize::new(1),
        });
        let (mut addresses, mut servers) = (Vec::new(), Vec::new());
        for router in [Router::new().fallback(token), Router::new().fallback(listing)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let router = router.with_state(shared.clone());
            servers.push(tokio::spawn(
                async move { axum::serve(listener, router).await.unwrap() },
            ));
        }
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), "hush-proof-1\n").unwrap();
        Self {
            tokens: addresses[0],
            storage: addresses[1],
            shared,
            servers,
            folder,
        }
    }

    fn given(&self) -> usize {
        self.shared.given.load(Ordering::SeqCst)
    }

    /// As Kubernetes exchanges it.
    fn exchange_proof(&self, proof: &'static str) {
        std::fs::write(self.folder.path().join("next"), proof).unwrap();
        std::fs::rename(self.folder.path().join("next"), self.folder.path().join("token")).unwrap();
        *self.shared.proof.lock().unwrap() = proof;
    }

    fn environment(&self, way: Way) -> Environment {
        let (at, file) = (self.tokens, self.folder.path().join("token"));
        environment(way, at, &file)
    }

    /// A client of one bucket, for which the place of the tokens is closed.
    fn origin(&self, way: Way, environment: Environment) -> Arc<dyn Origin> {
        let endpoint = format!("http://{}", self.storage);
        let (bucket, workload_identity) = ("bucket".to_owned(), true);
        let kind = match way {
            Way::Role | Way::Agent => Kind::S3(wire::S3 {
                bucket,
                endpoint,
                workload_identity,
                ..Default::default()
            }),
            Way::Metadata => Kind::Gcs(wire::Gcs {
                bucket,
                endpoint,
                workload_identity,
                ..Default::default()
            }),
            Way::Federated => Kind::Azure(wire::Azure {
                account: "account".into(),
                container: bucket,
                endpoint,
                workload_identity,
                ..Default::default()
            }),
        };
        let reach = Reach::default();
        assert_eq!(reach.set(&["127.0.0.0/8".into()], &[self.storage.to_string()]), [""; 0]);
        let network = Network {
            silence_max: Duration::from_millis(300),
            reach,
            environment,
            ..Network::default()
        };
        let source = wire::Source {
            origin: Some(kind),
            ..Default::default()
        };
        client_over(&source, &network).unwrap()
    }

    fn client(&self, way: Way) -> Arc<dyn Origin> {
        self.origin(way, self.environment(way))
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

fn environment(way: Way, at: SocketAddr, file: &Path) -> Environment {
    let (url, file) = (format!("http://{at}"), file.display().to_string());
    let variables: &[(&str, &str)] = match way {
        Way::Role => &[
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file),
            ("AWS_ENDPOINT_URL_STS", &url),
        ],
        Way::Agent => &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{url}/v1/credentials")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file),
        ],
        Way::Metadata => &[("GCE_METADATA_HOST", &at.to_string())],
        Way::Federated => &[
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_FEDERATED_TOKEN_FILE", &file),
            ("AZURE_AUTHORITY_HOST", &format!("{url}/")),
        ],
    };
    let variables = variables.iter();
    variables
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn answer(status: u16, body: impl ToString) -> Response<Body> {
    let response = Response::builder().status(status);
    response.body(body.to_string().into()).unwrap()
}

async fn token(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let seconds = match *shared.says.lock().unwrap() {
        Says::Tokens(seconds) => seconds,
        Says::Refuses(status, body) => return answer(status, body),
        Says::Nonsense => return answer(200, "<hush>"),
        Says::Nothing => -1,
    };
    if seconds < 0 {
        std::future::pending::<()>().await;
    }
    let (parts, body) = request.into_parts();
    let form = axum::body::to_bytes(body, 1 << 16).await.unwrap();
    let form = String::from_utf8(form.to_vec()).unwrap();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let proof = *shared.proof.lock().unwrap();
    let number = shared.given.load(Ordering::SeqCst) + 1;
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let (id, secret, session) = (
        format!("ID{number}"),
        format!("hush-key-{number}"),
        format!("hush-session-{number}"),
    );
    let oauth = json!({"access_token": format!("hush-token-{number}"), "expires_in": seconds, "token_type": "Bearer"});
    let (is_right, body) = match parts.uri.path() {
        "/" => (
            form == format!(
                "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Freader&\
                 RoleSessionName=penstock&WebIdentityToken={proof}"
            ),
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><SubjectFromWebIdentityToken>hush</SubjectFromWebIdentityToken>\
                 <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
                 <SessionToken>{session}</SessionToken><Expiration>{until}</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            ),
        ),
        "/v1/credentials" => (
            header("authorization") == Some(proof),
            json!({"AccessKeyId": id, "SecretAccessKey": secret, "Token": session, "AccountId": "1",
                   "Expiration": until.to_string()})
            .to_string(),
        ),
        "/computeMetadata/v1/instance/service-accounts/default/token" => {
            (header("metadata-flavor") == Some("Google"), oauth.to_string())
        }
        "/tenant/oauth2/v2.0/token" => (
            form == format!(
                "grant_type=client_credentials&client_id=client&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
                 client-assertion-type%3Ajwt-bearer&client_assertion={proof}&scope=https%3A%2F%2Fstorage.azure.com%2F.default"
            ),
            oauth.to_string(),
        ),
        other => panic!("{other}"),
    };
    if !is_right {
        return answer(403, "hush");
    }
    shared.given.store(number, Ordering::SeqCst);
    answer(200, body)
}

/// Of a bucket with nothing in it.
async fn listing(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let authorization = header(header::AUTHORIZATION.as_str()).unwrap_or_default();
    let signed = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=ID");
    let number: Option<usize> = match signed {
        Some(signed) => {
            let number = signed.split('/').next().unwrap();
            let session = header("x-amz-security-token").unwrap();
            assert_eq!(session, format!("hush-session-{number}"));
            number.parse().ok()
        }
        None => authorization
            .strip_prefix("Bearer hush-token-")
            .and_then(|number| number.parse().ok()),
    };
    let is_good = number.is_some_and(|number| number >= shared.first_good.load(Ordering::SeqCst));
    let is_of = |word: &str| request.uri().to_string().contains(word);
    match (is_of("list-type=2"), is_of("/storage/v1/"), is_good) {
        (true, _, true) => answer(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        ),
        (true, _, false) => answer(400, "<Error><Code>ExpiredToken</Code><Message>hush</Message></Error>"),
        (_, true, true) => answer(200, "{}"),
        (_, _, true) => answer(200, "<EnumerationResults><Blobs/></EnumerationResults>"),
        (.., false) => answer(401, "hush"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_asks_once_for_all_who_wait_and_signs_with_what_it_got() {
    for way in WAYS {
        let cloud = Cloud::that(Says::Tokens(3600)).await;
        let origin = cloud.client(way);
        let lists = (0..16).map(|_| origin.list_all());
        for listed in futures::future::join_all(lists).await {
            assert_eq!(listed, Ok(vec![]), "{way:?}");
        }
        assert_eq!(cloud.given(), 1, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_renewed_with_the_file_as_it_is_then() {
    for way in WAYS {
        let cloud = Cloud::that(Says::Tokens(0)).await;
        let origin = cloud.client(way);
        assert_eq!(origin.list_all().await, Ok(vec![]), "{way:?}");
        cloud.exchange_proof("hush-proof-2");
        assert_eq!(origin.list_all().await, Ok(vec![]), "{way:?}");
        assert_eq!(cloud.given(), 2, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_origin_does_not_take_any_more_is_renewed_and_nobody_notices() {
    for way in WAYS {
        let cloud = Cloud::that(Says::Tokens(3600)).await;
        let origin = cloud.client(way);
        assert_eq!(origin.list_all().await, Ok(vec![]), "{way:?}");
        cloud.shared.first_good.store(2, Ordering::SeqCst);
        cloud.exchange_proof("hush-proof-2");
        let lists = (0..16).map(|_| origin.list_all());
        for listed in futures::future::join_all(lists).await {
            assert_eq!(listed, Ok(vec![]), "{way:?}");
        }
        assert_eq!(cloud.given(), 2, "{way:?}");
        // One that takes nothing costs no more tokens.
        cloud.shared.first_good.store(usize::MAX, Ordering::SeqCst);
        for _ in 0..3 {
            assert!(origin.list_all().await.is_err(), "{way:?}");
        }
        assert_eq!(cloud.given(), 2, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_none_is_named_in_time_and_nothing_of_it_is_passed_on() {
    let sts = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>hush</Message></Error></ErrorResponse>";
    for way in WAYS {
        for (says, kind, words) in [
            (Says::Refuses(403, sts), "denied", "(AccessDenied)"),
            (
                Says::Refuses(400, r#"{"error": "invalid_client", "error_description": "hush"}"#),
                "denied",
                "(invalid_client)",
            ),
            (Says::Refuses(404, "hush"), "denied", "service account"),
            (Says::Refuses(429, "hush"), "throttled", "slow down"),
            (Says::Refuses(500, "hush"), "other", "(500)"),
            (Says::Nonsense, "invalid", "something else than a token"),
            (Says::Nothing, "unreachable", "silent"),
        ] {
            let cloud = Cloud::that(says).await;
            let begin = Instant::now();
            let error = cloud.client(way).list_all().await.unwrap_err();
            assert!(begin.elapsed() < Duration::from_secs(5), "{way:?} {says:?}");
            let got = match &error {
                OriginError::Denied(_) => "denied",
                OriginError::Throttled { .. } => "throttled",
                OriginError::Unreachable(_) => "unreachable",
                OriginError::Invalid(_) => "invalid",
                _ => "other",
            };
            let text = format!("{error} {error:?}");
            assert_eq!(got, kind, "{way:?} {says:?}: {text}");
            assert!(
                text.contains("127.0.0.1") && text.contains(words),
                "{way:?} {says:?}: {text}"
            );
            assert!(
                text.contains("bucket") && !text.contains("hush"),
                "{way:?} {says:?}: {text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variable_or_file_that_lacks_is_named() {
    let cloud = Cloud::that(Says::Tokens(3600)).await;
    let nowhere = Path::new("/nowhere/token");
    let denied = async |way: Way, environment: Environment| match cloud.origin(way, environment).list_all().await {
        Err(OriginError::Denied(text)) => text,
        other => panic!("{way:?}: {other:?}"),
    };
    for (way, variable) in [
        (Way::Role, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (Way::Agent, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        (Way::Federated, "AZURE_CLIENT_ID"),
    ] {
        let text = denied(way, Environment::default()).await;
        assert!(
            text.contains(variable) && text.contains("spec.workloadIdentity"),
            "{way:?}: {text}"
        );
    }
    for (way, variable) in [
        (Way::Role, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (Way::Agent, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        (Way::Federated, "AZURE_FEDERATED_TOKEN_FILE"),
    ] {
        let text = denied(way, environment(way, cloud.tokens, nowhere)).await;
        let expected = format!("the file /nowhere/token, which {variable} names, cannot be read (No such file");
        assert!(text.contains(&expected), "{way:?}: {text}");
    }
    assert_eq!(cloud.given(), 0);
    let shown = format!("{:?}", cloud.environment(Way::Federated));
    assert!(
        shown.contains("AZURE_CLIENT_ID") && !shown.contains("tenant"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_environment_come_first_on_a_machine_of_ones_own() {
    let cloud = Cloud::that(Says::Tokens(3600)).await;
    let of = |variables: &[(&str, &str)]| -> Environment {
        let variables = variables.iter();
        variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let keys = of(&[
        ("AWS_ACCESS_KEY_ID", "ID7"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_SESSION_TOKEN", "hush-session-7"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token"),
    ]);
    assert_eq!(cloud.origin(Way::Role, keys).list_all().await, Ok(vec![]));
    assert_eq!(cloud.given(), 0);
    let user = cloud.folder.path().join("user.json");
    let file = json!({"type": "authorized_user", "client_id": "hush", "client_secret": "hush", "refresh_token": "hush",
                      "token_uri": format!("http://{}/tenant/oauth2/v2.0/token", cloud.tokens)});
    std::fs::write(&user, file.to_string()).unwrap();
    let named = of(&[("GOOGLE_APPLICATION_CREDENTIALS", user.to_str().unwrap())]);
    // The server takes no such form, but it was asked.
    let refused = cloud.origin(Way::Metadata, named).list_all().await.unwrap_err();
    assert!(
        matches!(&refused, OriginError::Denied(text) if text.contains("gives no token (403)")),
        "{refused}"
    );
}
