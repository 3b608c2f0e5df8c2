//! What is answered to whom, over a real connection.

use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::notifications::connections;

const TOKEN: &str = "0123456789abcdef";

/// A leader with one Dataset, that notes what it is told.
#[derive(Default)]
struct Fake {
    marked: Mutex<Vec<Mark>>,
    told: Mutex<Vec<String>>,
    looked_up: Mutex<usize>,
    is_away: bool,
}

#[async_trait]
impl Leader for Fake {
    fn dataset(&self, namespace: &str, name: &str) -> Option<Arc<Dataset>> {
        let refresh = match name {
            "d" => json!({"notifications": {"tokenSecretRef": {"name": "t"}}}),
            "short" => json!({"notifications": {"tokenSecretRef": {"name": "short"}}}),
            "plain" => json!({"intervalSeconds": 60}),
            _ => return None,
        };
        let dataset = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset",
            "metadata": {"name": name, "namespace": namespace, "uid": name},
            "spec": {"sources": [{"path": "raw", "s3": {"bucket": "b", "prefix": "p/"}}], "refresh": refresh},
        });
        (namespace == "n").then(|| Arc::new(serde_json::from_value(dataset).unwrap()))
    }

    async fn token(&self, _: &str, secret: &str) -> Result<Option<String>, Error> {
        *self.looked_up.lock().unwrap() += 1;
        if self.is_away {
            return Err(Error::Incomplete("token"));
        }
        Ok(match secret {
            "t" => Some(format!("{TOKEN}\n")),
            "short" => Some("short".to_owned()),
            _ => None,
        })
    }

    fn mark(&self, _: &Dataset, marks: Vec<Mark>) {
        self.marked.lock().unwrap().extend(marks);
    }

    async fn tell(&self, _: &Dataset, reason: &str, note: String) {
        self.told.lock().unwrap().push(format!("{reason}: {note}"));
    }
}

fn door(leader: Fake) -> (Door, Arc<Fake>) {
    let (door, leader) = (Door::new(Metrics::default()), Arc::new(leader));
    door.lead(leader.clone());
    (door, leader)
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn answer(door: &Door, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let response = door.answer(request("POST", path, headers, body)).await;
    let status = response.status().as_u16();
    let text = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

const PATH: &str = "/v1/notifications/n/d";

fn of_p(start: &str) -> Mark {
    Mark::Keys {
        path: "raw".to_owned(),
        start: start.to_owned(),
    }
}

#[tokio::test]
async fn the_token_may_come_in_any_of_the_ways_that_senders_know() {
    let (door, leader) = door(Fake::default());
    let bearer = format!("Bearer {TOKEN}");
    let basic = format!("Basic {}", STANDARD.encode(format!("user:{TOKEN}")));
    let with_query = format!("{PATH}?x=y&token={TOKEN}");
    let encoded = format!("{PATH}?token=%30{}", &TOKEN[1..]);
    for (path, authorization) in [
        (PATH, Some(bearer.as_str())),
        (PATH, Some(&bearer.to_lowercase())),
        (PATH, Some(&basic)),
        (&with_query, None),
        (&encoded, None),
        // Google signs what it pushes.
        (&with_query, Some("Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln")),
    ] {
        let headers: Vec<(&str, &str)> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let (status, text) = answer(&door, path, &headers, r#"{"keys": ["p/x"]}"#).await;
        assert_eq!(status, 202, "{path} {authorization:?} {text}");
    }
    assert_eq!(*leader.marked.lock().unwrap(), vec![of_p("x"); 6]);
    assert_eq!(*leader.looked_up.lock().unwrap(), 1, "the token is remembered");
}

#[tokio::test]
async fn whoever_has_no_token_learns_nothing() {
    let (door, leader) = door(Fake::default());
    let right = format!("Bearer {TOKEN}");
    let refused = [
        (PATH, "Bearer 0123456789abcdeX"),
        (PATH, "Bearer "),
        (PATH, "Basic !!!"),
        ("/v1/notifications/n/other", &right),
        ("/v1/notifications/other/d", &right),
        ("/v1/notifications/n/plain", &right),
        ("/v1/notifications/n/short", "Bearer short"),
    ];
    let answers = refused.map(|(path, authorization)| {
        let door = &door;
        async move {
            let began = Instant::now();
            let headers = [("authorization", authorization)];
            let response = door.answer(request("POST", path, &headers, "{}")).await;
            assert!(began.elapsed() >= REFUSAL_DELAY, "{path} {authorization}");
            let (parts, body) = response.into_parts();
            let text = to_bytes(body, 1000).await.unwrap();
            (parts.status.as_u16(), parts.headers, text)
        }
    });
    let answers = futures::future::join_all(answers).await;
    assert_eq!(answers[0].0, 401);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(*leader.marked.lock().unwrap(), []);
}

#[tokio::test]
async fn only_so_many_are_refused_at_the_same_time() {
    let (door, _) = door(Fake::default());
    let all = (0..=REFUSALS_MAX).map(|_| answer(&door, PATH, &[], ""));
    let statuses: Vec<u16> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(|(status, _)| status)
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), REFUSALS_MAX);
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 1);
}

#[tokio::test]
async fn what_is_said_marks_what_it_is_about() {
    let path = format!("{PATH}?token={TOKEN}");
    for (body, status, marked) in [
        (
            r#"{"keys": ["p/a/b", "q"], "prefixes": ["p/raw/"]}"#,
            202,
            vec![of_p("a/b"), of_p("raw/")],
        ),
        (r#"{"keys": ["q"]}"#, 202, vec![]),
        (r#"{"all": true}"#, 202, vec![Mark::All]),
        ("", 202, vec![Mark::All]),
        ("no form that anybody knows", 202, vec![Mark::All]),
        (r#"{"Event": "s3:TestEvent", "Bucket": "b"}"#, 202, vec![]),
    ] {
        let (door, leader) = door(Fake::default());
        let (got, text) = answer(&door, &path, &[], body).await;
        assert_eq!(got, status, "{body} {text}");
        assert_eq!(*leader.marked.lock().unwrap(), marked, "{body}");
    }
}

#[tokio::test]
async fn senders_that_ask_first_are_answered() {
    let (door, leader) = door(Fake::default());
    let path = format!("{PATH}?token={TOKEN}");
    let code =
        r#"[{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "c-1"}}]"#;
    assert_eq!(
        answer(&door, &path, &[], code).await,
        (200, r#"{"validationResponse":"c-1"}"#.to_owned())
    );
    let asked = request(
        "OPTIONS",
        &path,
        &[("WebHook-Request-Origin", "eventgrid.azure.net")],
        "",
    );
    let response = door.answer(asked).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["WebHook-Allowed-Origin"], "eventgrid.azure.net");
    let confirm = r#"{"Type": "SubscriptionConfirmation", "TopicArn": "arn:aws:sns:r:1:t",
        "SubscribeURL": "https://sns.r.amazonaws.com/?Action=ConfirmSubscription"}"#;
    assert_eq!(answer(&door, &path, &[], confirm).await.0, 202);
    let told = leader.told.lock().unwrap().concat();
    assert!(
        told.starts_with("SubscriptionWaits: ")
            && told.ends_with("open https://sns.r.amazonaws.com/?Action=ConfirmSubscription"),
        "{told}"
    );
    assert_eq!(*leader.marked.lock().unwrap(), []);
}

#[tokio::test]
async fn who_cannot_answer_now_sends_senders_back() {
    let path = format!("{PATH}?token={TOKEN}");
    let (away, _) = door(Fake {
        is_away: true,
        ..Fake::default()
    });
    for door in [Door::new(Metrics::default()), away] {
        let response = door.answer(request("POST", &path, &[], "")).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], RETRY_AFTER_SECONDS);
    }
    let (door, _) = door(Fake::default());
    for (method, path, status) in [
        ("GET", PATH, 405),
        ("POST", "/", 404),
        ("POST", "/v1/notifications/n", 404),
        ("POST", "/v1/notifications/n/d/x", 404),
        ("POST", "/v1/notifications/n/..", 404),
    ] {
        assert_eq!(
            door.answer(request(method, path, &[], "")).await.status(),
            status,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn bodies_have_a_bound_over_a_real_connection_too() {
    let (door, leader) = door(Fake::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(connections::serve(listener, door));
    let send = async |bytes: usize| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = " ".repeat(bytes);
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may be refused before all was sent.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(send(NOTIFICATION_BYTES_MAX).await, "HTTP/1.1 202");
    assert_eq!(send(NOTIFICATION_BYTES_MAX + 1).await, "HTTP/1.1 413");
    assert_eq!(*leader.marked.lock().unwrap(), [Mark::All]);
    server.abort();
}
