//! A cache node of the tests: answers what it is told to answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use penstock_protocol::control::cache_node::inspection_server::{Inspection, InspectionServer};
use penstock_protocol::control::cache_node::{
    EntriesReply, EntriesRequest, EvictReply, ExplainReply, ExplainRequest, HeldDataset, ListReply, ListRequest,
    PathRequest, StatReply, VerifyProgress,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// The node; clones share everything.
#[derive(Clone)]
pub(crate) struct FakeCacheNode(Arc<Mutex<Answers>>);

/// What it answers; `None` where there is no such path.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) listed: ListReply,
    pub(crate) stated: Option<StatReply>,
    /// One for each offset.
    pub(crate) explained: Vec<(u64, ExplainReply)>,
    pub(crate) evicted: Option<EvictReply>,
    pub(crate) verified: Vec<VerifyProgress>,
    pub(crate) entries: Vec<EntriesReply>,
    /// What it was asked for: Dataset and path.
    pub(crate) asked: Vec<(String, String)>,
}

impl FakeCacheNode {
    /// In a ring of its own.
    pub(crate) fn named(node: &str) -> Self {
        let fake = Self(Arc::default());
        fake.set(|answers| node.clone_into(&mut answers.listed.node));
        fake
    }

    /// Changes what it answers, or looks at what it was asked.
    pub(crate) fn set<T>(&self, change: impl FnOnce(&mut Answers) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer<T>(
        &self,
        dataset: String,
        path: String,
        of: impl FnOnce(&Answers) -> Option<T>,
    ) -> Result<Response<T>, Status> {
        self.set(|answers| {
            let answer = of(answers).map(Response::new);
            let missing = || Status::not_found(format!("revision 0 of {dataset} has no {path:?}; it has nothing"));
            let answer = answer.ok_or_else(missing);
            answers.asked.push((dataset, path));
            answer
        })
    }
}

/// A Dataset of which nothing is held.
pub(crate) fn dataset(name: &str) -> HeldDataset {
    HeldDataset {
        name: name.into(),
        ..HeldDataset::default()
    }
}

/// Serves until the runtime ends; where.
pub(crate) async fn serve(fake: FakeCacheNode) -> String {
    serve_at(fake, "127.0.0.1:0").await
}

/// The same at an address.
pub(crate) async fn serve_at(fake: FakeCacheNode, address: &str) -> String {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().add_service(InspectionServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

#[tonic::async_trait]
impl Inspection for FakeCacheNode {
    type EntriesStream = Pin<Box<dyn Stream<Item = Result<EntriesReply, Status>> + Send>>;
    type VerifyStream = Pin<Box<dyn Stream<Item = Result<VerifyProgress, Status>> + Send>>;

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        Ok(Response::new(self.set(|answers| answers.listed.clone())))
    }

    async fn stat(&self, request: Request<PathRequest>) -> Result<Response<StatReply>, Status> {
        let PathRequest { dataset, path } = request.into_inner();
        self.answer(dataset, path, |answers| answers.stated.clone())
    }

    async fn entries(&self, request: Request<EntriesRequest>) -> Result<Response<Self::EntriesStream>, Status> {
        let EntriesRequest { dataset, path, .. } = request.into_inner();
        let parts = self.answer(dataset, path, |answers| Some(answers.entries.clone()))?;
        let parts = parts.into_inner().into_iter().map(Ok);
        Ok(Response::new(futures::stream::iter(parts).boxed()))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        let ExplainRequest { dataset, path, offset } = request.into_inner();
        self.answer(dataset, path, |answers| {
            let found = answers.explained.iter().find(|(at, _)| *at == offset);
            found.map(|(_, explained)| explained.clone())
        })
    }

    async fn evict(&self, request: Request<PathRequest>) -> Result<Response<EvictReply>, Status> {
        let PathRequest { dataset, path } = request.into_inner();
        self.answer(dataset, path, |answers| answers.evicted.clone())
    }

    async fn verify(&self, request: Request<PathRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let PathRequest { dataset, path } = request.into_inner();
        let parts = self.answer(dataset, path, |answers| Some(answers.verified.clone()))?;
        let parts = parts.into_inner().into_iter().map(Ok);
        Ok(Response::new(futures::stream::iter(parts).boxed()))
    }
}
