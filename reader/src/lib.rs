//! Serves the files of one mounted volume to cache nodes, over HTTP and for reading only.
//!
//! A PersistentVolumeClaim can be mounted in its own namespace only, and by no pod that runs already. So the operator makes a small
//! pod for each claim, and each folder of nodes, that a Dataset names, which has nothing but that volume and a token. What is asked and answered is
//! `penstock_origin::volume::exchange`; how files are listed and proven is `penstock_origin::folder`. Must not know Kubernetes.

mod answer;
mod connections;
pub mod limits;
mod words;

use std::path::PathBuf;

use tokio::net::TcpListener;

use crate::answer::Reader;

/// What is served.
pub struct Volume {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The folder in it that is served, for folders of nodes, which are asked for by their paths there; `place` is its own.
    pub folder: Option<String>,
    /// What it is called in sentences, for example `claim://vision/training-data`.
    pub place: String,
    /// What has to be said to read.
    pub token: String,
}

/// Answers until `ended`, then ends what is under way within [`limits::ENDING_MAX`].
pub async fn serve(listener: TcpListener, volume: Volume, ended: impl Future<Output = ()>) {
    connections::serve(listener, Reader::of(volume), ended).await;
}
