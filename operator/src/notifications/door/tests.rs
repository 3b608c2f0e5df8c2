//! What is answered to whom, over a real connection.

use std::sync::Mutex;

use axum::body::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::limits::NOTIFICATION_HEADER_MAX;
use crate::notifications::connections;

const TOKEN: &str = "0123456789abcdef";

/// A leader with one Dataset, that notes what it is told.
#[derive(Default)]
struct Fake {
    marked: Mutex<Vec<Mark>>,
    told: Mutex<Vec<String>>,
    looked_up: Mutex<usize>,
    is_away: bool,
    has_just_begun: bool,
    /// Look-ups wait until they find a place here.
    gate: Option<Semaphore>,
}

#[async_trait]
impl Leader for Fake {
    fn knows_datasets(&self) -> bool {
        !self.has_just_begun
    }

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
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
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
    let (door, leader) = door(Fake::default());
    let others = ["/v1/notifications/n/other", "/v1/notifications/n/short"];
    let paths = [PATH; REFUSALS_MAX].into_iter().chain(others);
    let all = paths.map(|path| {
        let door = &door;
        async move {
            let began = Instant::now();
            let (status, _) = answer(door, path, &[], "").await;
            assert!(began.elapsed() >= REFUSAL_DELAY, "{path} {status}");
            status
        }
    });
    let right = format!("{PATH}?token={TOKEN}");
    let (statuses, (right, _)) = tokio::join!(futures::future::join_all(all), answer(&door, &right, &[], ""));
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), REFUSALS_MAX);
    assert_eq!(statuses[REFUSALS_MAX..], [429, 429]);
    assert_eq!(right, 202, "whoever has the token needs no place");
    assert_eq!(*leader.looked_up.lock().unwrap(), 2, "one for each Secret");
}

#[tokio::test]
async fn an_api_server_that_is_ill_is_asked_once_and_says_nothing_of_datasets() {
    let (door, leader) = door(Fake {
        is_away: true,
        ..Fake::default()
    });
    let right = format!("{PATH}?token={TOKEN}");
    let paths = [
        right.as_str(),
        PATH,
        PATH,
        "/v1/notifications/n/other",
        "/v1/notifications/n/plain",
    ];
    let answers = paths.map(|path| {
        let door = &door;
        async move {
            let began = Instant::now();
            let response = door.answer(request("POST", path, &[], "")).await;
            assert!(began.elapsed() >= REFUSAL_DELAY, "{path}");
            let (parts, body) = response.into_parts();
            (
                parts.status.as_u16(),
                parts.headers,
                to_bytes(body, 1000).await.unwrap(),
            )
        }
    });
    let answers = futures::future::join_all(answers).await;
    assert_eq!(answers[0].0, 503);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(answer(&door, &right, &[], "").await.0, 503);
    assert_eq!(*leader.looked_up.lock().unwrap(), 1, "and remembered");
}

#[tokio::test]
async fn a_look_up_is_not_waited_for_longer_than_a_refusal_takes_and_not_begun_twice() {
    let (door, leader) = door(Fake {
        gate: Some(Semaphore::new(0)),
        ..Fake::default()
    });
    let right = format!("{PATH}?token={TOKEN}");
    let all = [right.as_str(), PATH, &right, "/v1/notifications/n/other"].map(|path| answer(&door, path, &[], ""));
    for (status, _) in futures::future::join_all(all).await {
        assert_eq!(status, 503);
    }
    // It went on without them, and is of use to the next.
    let next = answer(&door, &right, &[], "");
    leader.gate.as_ref().unwrap().add_permits(1);
    assert_eq!(next.await.0, 202);
    assert_eq!(answer(&door, "/v1/notifications/n/other", &[], "").await.0, 401);
    assert_eq!(*leader.looked_up.lock().unwrap(), 1);
}

#[tokio::test]
async fn nothing_is_taken_after_the_door_was_closed() {
    let (door, leader) = door(Fake::default());
    let path = format!("{PATH}?token={TOKEN}");
    let (send, body) = tokio::sync::oneshot::channel::<Bytes>();
    let body = Body::from_stream(futures::stream::once(body));
    let slow = Request::builder().method("POST").uri(&path).body(body).unwrap();
    let slow = door.answer(slow);
    let close = async {
        // The slow one has been let in by now, and is at its body.
        assert_eq!(answer(&door, &path, &[], r#"{"keys": ["p/x"]}"#).await.0, 202);
        door.close();
        let _ = send.send(Bytes::from_static(b"{}"));
    };
    let (slow, ()) = tokio::join!(slow, close);
    assert_eq!(slow.status(), 503);
    assert_eq!(answer(&door, &path, &[], "").await.0, 503);
    door.lead(leader.clone());
    assert_eq!(answer(&door, &path, &[], "").await.0, 503);
    assert_eq!(*leader.marked.lock().unwrap(), [of_p("x")]);
}

#[tokio::test]
async fn one_body_is_read_at_a_time() {
    let (door, leader) = door(Fake::default());
    let path = format!("{PATH}?token={TOKEN}");
    let turn = door.0.reading.acquire().await.unwrap();
    let mut waiting = std::pin::pin!(answer(&door, &path, &[], ""));
    let early = tokio::time::timeout(REFUSAL_DELAY, &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    drop(turn);
    assert_eq!(waiting.await.0, 202);
    assert_eq!(*leader.marked.lock().unwrap(), [Mark::All]);
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
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let ended = tokio::time::timeout(NOTIFICATION_HEADER_MAX / 2, stream.read_to_string(&mut answer)).await;
    assert!(ended.is_ok(), "a connection rests");
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close"),
        "{answer}"
    );
    server.abort();
}

#[tokio::test]
async fn one_that_has_not_seen_the_datasets_yet_has_senders_come_again() {
    for (has_just_begun, status) in [(true, 503), (false, 202)] {
        let (door, _) = door(Fake {
            has_just_begun,
            ..Fake::default()
        });
        let right = format!("{PATH}?token={TOKEN}");
        assert_eq!(answer(&door, &right, &[], "").await.0, status);
    }
}
