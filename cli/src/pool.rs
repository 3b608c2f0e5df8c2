//! The cache nodes of a pool, asked over the port of their inspection: one that is named, and by its ring the others. Must
//! not know what is asked or how it is printed.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use futures::future::join_all;
use penstock_protocol::control::cache_node::inspection_client::InspectionClient;
use penstock_protocol::control::cache_node::{ListReply, ListRequest, Member};
use serde::Serialize;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::limits::{ANSWER_DEADLINE, CONNECT_DEADLINE, DATASETS_NAMED_MAX, KEEP_ALIVE};
use crate::text;

/// A connection to one cache node.
pub type Client = InspectionClient<Channel>;

/// A pool as one of its cache nodes knows it.
pub struct Pool {
    /// The one that was named.
    pub asked: Client,
    /// What it holds.
    pub listed: ListReply,
    port: String,
}

/// What cache nodes answered.
pub struct Answers<T> {
    /// By the name of the node; that of the one that was named is the first, if it answered.
    pub answers: Vec<(String, T)>,
    /// Who did not.
    pub silent: Vec<Silent>,
}

/// A cache node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Silent {
    /// Its name in the ring.
    pub node: String,
    /// Where it was asked.
    pub address: String,
    /// Why not, as a sentence.
    pub reason: String,
}

impl Pool {
    /// Asks the cache node at `address` what it holds.
    ///
    /// # Errors
    /// When none answers there; the sentence says how one is asked.
    pub async fn at(address: &str) -> Result<Self> {
        let asked = async {
            let mut asked = connect(address).await?;
            let listed = in_time(asked.list(ListRequest {})).await?;
            Ok::<_, Status>((asked, listed))
        };
        let (asked, listed) = asked.await.map_err(|status| {
            anyhow!(
                "no cache node answers at {address} ({}). In a cluster one is asked within its pod: kubectl exec -n NAMESPACE \
                 POOL-0 -- /bin/penstock cache ls, with the namespace and the name of a CacheRuntime",
                sentence(&status)
            )
        })?;
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        Ok(Self {
            asked,
            listed,
            port: port.to_owned(),
        })
    }

    /// Namespace and name of a Dataset that is called by both, or by its name alone.
    ///
    /// # Errors
    /// When there is none, or more than one; the sentence names those that there are.
    pub fn dataset(&self, called: &str) -> Result<String> {
        let names = || self.listed.datasets.iter().map(|dataset| dataset.name.as_str());
        let is_it = |name: &&str| *name == called || name.rsplit_once('/').is_some_and(|(_, last)| last == called);
        let found: Vec<&str> = names().filter(is_it).collect();
        match found[..] {
            [name] => Ok(name.to_owned()),
            // Not all are listed.
            [] if self.listed.left_out > 0 && called.contains('/') => Ok(called.to_owned()),
            [] => {
                let node = &self.listed.node;
                bail!(
                    "cache node {node} was not told of a Dataset {called:?}; {}",
                    some(names().collect())
                )
            }
            _ => bail!("{called:?} is not one Dataset; name one of {}", found.join(", ")),
        }
    }

    /// Asks all members of the ring at once; one that does not answer is named in the answers.
    ///
    /// # Errors
    /// When none answers, what the first said.
    pub async fn ask_all<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<Answers<T>>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut members = self.listed.members.clone();
        if !members.iter().any(|member| member.name == self.listed.node) {
            members.push(Member {
                name: self.listed.node.clone(),
                ..Member::default()
            });
        }
        // The one that was named is the first.
        members.sort_by_key(|member| member.name != self.listed.node);
        let asked = join_all(members.into_iter().map(|member| {
            let ask = &ask;
            async move {
                let address = self.address_of(&member);
                let is_named = member.name == self.listed.node;
                let answer = async {
                    let client = if is_named {
                        self.asked.clone()
                    } else {
                        connect(&address).await?
                    };
                    ask(client).await
                };
                let answer = answer.await;
                (member.name, address, answer)
            }
        }));
        let (mut answers, mut silent, mut first) = (Vec::new(), Vec::new(), None);
        for (node, address, answer) in asked.await {
            match answer {
                Ok(answer) => answers.push((node, answer)),
                Err(status) => {
                    silent.push(Silent {
                        node,
                        address,
                        reason: sentence(&status),
                    });
                    first.get_or_insert(status);
                }
            }
        }
        match first {
            Some(status) if answers.is_empty() => Err(anyhow!(sentence(&status))),
            _ => Ok(Answers { answers, silent }),
        }
    }

    /// Where a member of the ring has the port that was asked.
    fn address_of(&self, member: &Member) -> String {
        let host = member.address.rsplit_once(':').map_or("", |(host, _)| host);
        format!("{host}:{}", self.port)
    }
}

impl<T> Answers<T> {
    /// Takes out who answered of another revision than the first: their numbers mean something else.
    pub fn of_one_revision(mut self, revision: impl Fn(&T) -> &[u8]) -> Self {
        let first = self.answers.first().map(|(_, answer)| revision(answer).to_vec());
        let is_other = |(_, answer): &mut (String, T)| Some(revision(answer)) != first.as_deref();
        let others = self.answers.extract_if(.., is_other);
        self.silent.extend(others.map(|(node, answer)| Silent {
            node,
            address: String::new(),
            reason: format!(
                "it has another revision, {:.12}: ask again in some seconds",
                hex(revision(&answer))
            ),
        }));
        self
    }

    /// Who did not answer, a line each.
    pub fn silent_lines(&self) -> String {
        silent_lines(&self.silent)
    }
}

/// Who did not answer, a line each.
pub fn silent_lines(silent: &[Silent]) -> String {
    let line = |Silent { node, address, reason }: &Silent| match address.as_str() {
        "" => format!("{node} is left out: {reason}\n"),
        _ => format!(
            "{node} at {address} did not answer: {reason}. If it runs, ask it within its pod: kubectl exec -n NAMESPACE {node} -- \
             /bin/penstock ...\n"
        ),
    };
    silent.iter().map(line).collect()
}

/// An answer, or an error when it does not come in time.
///
/// # Errors
/// Those of the cache node.
pub async fn in_time<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("it took longer than {} s", ANSWER_DEADLINE.as_secs()));
    let answer = timeout(ANSWER_DEADLINE, answer).await.map_err(late)?;
    answer.map(Response::into_inner)
}

/// A status as a person reads it.
pub fn sentence(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => "it is of a version that cannot be asked".to_owned(),
        (_, "") => status.code().to_string(),
        (_, message) => message.to_owned(),
    }
}

/// `0a1b`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn connect(address: &str) -> Result<Client, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| Status::invalid_argument(format!("{address:?} is not HOST:PORT")))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let connected = timeout(CONNECT_DEADLINE + Duration::from_secs(1), endpoint.connect()).await;
    match connected {
        Ok(Ok(channel)) => Ok(Client::new(channel)),
        Ok(Err(error)) => Err(Status::unavailable(innermost(&error))),
        Err(_) => Err(Status::unavailable(format!(
            "nothing within {} s",
            CONNECT_DEADLINE.as_secs()
        ))),
    }
}

/// What the system said: what is around it says only that there was an error.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

fn some(names: Vec<&str>) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(DATASETS_NAMED_MAX)
        .map(|name| text::name(name))
        .collect();
    match names.len().saturating_sub(DATASETS_NAMED_MAX) {
        _ if names.is_empty() => "it was told of none".to_owned(),
        0 => format!("it was told of {}", shown.join(", ")),
        more => format!(
            "it was told of {} and {more} more: see `penstock cache ls`",
            shown.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode, dataset};

    async fn pool(datasets: &[&str]) -> Pool {
        let fake = FakeCacheNode::named("pool-0");
        fake.set(|answers| answers.listed.datasets = datasets.iter().map(|name| dataset(name)).collect());
        Pool::at(&fake_cache_node::serve(fake).await).await.unwrap()
    }

    #[tokio::test]
    async fn a_dataset_is_called_by_its_name_where_only_one_is() {
        let pool = pool(&["a/x", "b/x", "b/y"]).await;
        for (called, name) in [("a/x", "a/x"), ("y", "b/y"), ("b/y", "b/y")] {
            assert_eq!(pool.dataset(called).unwrap(), name);
        }
        for (called, said) in [
            ("x", "name one of a/x, b/x"),
            (
                "z",
                "cache node pool-0 was not told of a Dataset \"z\"; it was told of a/x, b/x, b/y",
            ),
            ("a/y", "was not told of a Dataset \"a/y\""),
        ] {
            let error = pool.dataset(called).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[tokio::test]
    async fn who_asks_where_nobody_is_hears_how_a_cache_node_is_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Pool::at(&address).await.err().unwrap().to_string();
        assert!(error.contains(&address) && error.contains("refused"), "{error}");
        assert!(error.contains("kubectl exec"), "{error}");
        let error = Pool::at("no address").await.err().unwrap().to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }

    #[tokio::test]
    async fn all_members_are_asked_on_the_port_of_the_first_and_who_is_silent_is_named() {
        let first = FakeCacheNode::named("pool-1");
        first.set(|answers| {
            let member = |(name, host): (&str, &str)| Member {
                name: name.into(),
                address: format!("{host}:7070"),
                weight: 1,
            };
            let members = [
                ("pool-0", "127.0.0.2"),
                ("pool-1", "127.0.0.3"),
                ("pool-2", "127.0.0.4"),
            ];
            answers.listed.members = members.map(member).into();
        });
        let address = fake_cache_node::serve(first).await;
        let port = address.rsplit_once(':').unwrap().1;
        fake_cache_node::serve_at(FakeCacheNode::named("pool-0"), &format!("127.0.0.2:{port}")).await;
        let pool = Pool::at(&address).await.unwrap();
        let ask = |mut client: Client| async move { in_time(client.list(ListRequest {})).await };
        let Answers { answers, silent } = pool.ask_all(ask).await.unwrap();
        let answered: Vec<(&str, &str)> = answers
            .iter()
            .map(|(node, listed)| (node.as_str(), listed.node.as_str()))
            .collect();
        assert_eq!(answered, [("pool-1", "pool-1"), ("pool-0", "pool-0")]);
        assert_eq!(silent.len(), 1);
        assert_eq!(
            (silent[0].node.as_str(), &silent[0].address),
            ("pool-2", &format!("127.0.0.4:{port}"))
        );
        let said = silent_lines(&silent);
        assert!(
            said.starts_with("pool-2 at 127.0.0.4") && said.contains("refused"),
            "{said}"
        );
        // When nobody can say it is an error, with the words of the first.
        let refuse = |_| async { Err::<(), _>(Status::not_found("there is no such path")) };
        let error = pool.ask_all(refuse).await.err().unwrap().to_string();
        assert_eq!(error, "there is no such path");
    }

    #[test]
    fn who_has_another_revision_is_left_out() {
        let answers = ["a", "b", "c"].into_iter().zip([[1_u8], [2], [1]]);
        let answers = Answers {
            answers: answers.map(|(node, revision)| (node.to_owned(), revision)).collect(),
            silent: Vec::new(),
        };
        let Answers { answers, silent } = answers.of_one_revision(|revision| revision);
        let nodes: Vec<_> = answers.into_iter().map(|(node, _)| node).collect();
        assert_eq!(nodes, ["a", "c"]);
        assert!(silent_lines(&silent).starts_with("b is left out: it has another revision, 02"));
    }
}
