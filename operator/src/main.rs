//! The operator's process: waits for its turn, then runs the controllers until it loses it or is asked to end.

mod args;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::runtime::controller::Controller;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset};
use penstock_health::Readiness;
use penstock_operator::builds::Builds;
use penstock_operator::cluster::Cluster;
use penstock_operator::context::{Context, Facts};
use penstock_operator::lease::Leadership;
use penstock_operator::links::Links;
use penstock_operator::metrics::Metrics;
use penstock_operator::notifications::door::Door;
use penstock_operator::notifications::leader::Leading;
use penstock_operator::notifications::{Notifications, connections};
use penstock_operator::{cache_runtime, dataset, others, uninstall};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::args::{Args, Command, Run};

#[tokio::main]
async fn main() -> Result<()> {
    let Args { command } = Args::parse();
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();
    // Whoever was first wins; nobody else installs one here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default().await.context("find the API server")?;
    match command {
        Command::Run(run) => lead(client, *run).await,
        Command::CheckUninstall => check_uninstall(client).await,
    }
}

async fn check_uninstall(client: Client) -> Result<()> {
    let found = uninstall::in_use(&client).await?;
    if found.is_empty() {
        println!("nothing is in use");
        return Ok(());
    }
    println!("these need the operator to be cleaned up; delete them first:");
    for line in &found {
        println!(
            "  kubectl delete {}",
            line.replacen(' ', " -n ", 1).replacen('/', " ", 1)
        );
    }
    for line in &found {
        println!("  in use: {line}");
    }
    bail!("{} objects are in use", found.len());
}

async fn lead(client: Client, run: Run) -> Result<()> {
    let Run {
        image,
        image_pull_policy,
        image_pull_secrets,
        cluster_domain,
        cluster_networks,
        host_paths,
        namespace,
        identity,
        log,
        health_listen,
        notifications_listen,
    } = run;
    let readiness = Readiness::default();
    // One that waits for its turn is as ready as it can be.
    readiness.set(true);
    let metrics = Metrics::default();
    let pages = metrics.clone();
    tokio::spawn(penstock_health::serve(health_listen, readiness, move || pages.text()));
    let door = Door::new(metrics.clone());
    if let Some(listen) = notifications_listen {
        let listener = TcpListener::bind(listen).await.context("listen for notifications")?;
        tokio::spawn(connections::serve(listener, door.clone()));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let leadership = tokio::select! {
        leadership = Leadership::acquire(client.clone(), &namespace, identity.clone()) => leadership,
        _ = terminate.recv() => return Ok(()),
    };
    tracing::info!(identity, "leads now");
    let image_pull_secrets = image_pull_secrets.into_iter().filter(|name| !name.is_empty()).collect();
    let facts = Facts {
        image,
        image_pull_policy,
        image_pull_secrets,
        cluster_domain,
        takes_notifications: notifications_listen.is_some(),
        // Of an empty list the delimiter leaves one that is empty.
        host_paths: host_paths.into_iter().filter(|path| !path.is_empty()).collect(),
        namespace: namespace.clone(),
        log,
    };
    let ended = tokio::select! {
        () = work(client.clone(), facts, &cluster_networks, &metrics, &door) => Err(anyhow!("the controllers ended by themselves")),
        () = leadership.keep() => Err(anyhow!("lost the lease: ending, so that only the new leader writes")),
        _ = terminate.recv() => Ok(()),
    };
    // Before anybody else leads: what was taken later nobody would look at.
    door.close();
    ended?;
    Leadership::release(client, &namespace, &identity).await;
    Ok(())
}

async fn work(client: Client, facts: Facts, cluster_networks: &[IpNet], metrics: &Metrics, door: &Door) {
    let cluster = Cluster::learn(&client, cluster_networks).await;
    controllers(client, facts, cluster, metrics, door).await;
}

fn controllers(
    client: Client,
    facts: Facts,
    cluster: Cluster,
    metrics: &Metrics,
    door: &Door,
) -> impl Future<Output = ()> + use<> {
    let (runtime_changed, runtime_news) = mpsc::unbounded_channel();
    let (dataset_changed, dataset_news) = mpsc::unbounded_channel();
    let links = Links::new(runtime_changed);
    let context = Arc::new(Context::new(
        client.clone(),
        links,
        Builds::new(dataset_changed.clone()),
        Notifications::new(dataset_changed.clone()),
        facts,
        cluster.clone(),
    ));

    let datasets = Controller::new(Api::<Dataset>::all(client.clone()), watcher::Config::default());
    let dataset_store = datasets.store();
    metrics.lead(dataset_store.clone());
    door.lead(Arc::new(Leading {
        context: context.clone(),
        datasets: dataset_store.clone(),
    }));
    let runtimes = Controller::new(Api::<CacheRuntime>::all(client.clone()), watcher::Config::default());
    let runtime_store = runtimes.store();

    // A CacheRuntime is news for the Datasets of its namespace, and the other way round.
    let of_runtime = {
        let store = dataset_store.clone();
        move |runtime: CacheRuntime| same_namespace(store.state().iter().map(AsRef::as_ref), runtime.namespace())
    };
    // A Dataset is news for those that take files of it, too, and for their cache nodes.
    let of_dataset = {
        let (runtimes, datasets, changed) = (runtime_store, dataset_store.clone(), dataset_changed.clone());
        move |dataset: Dataset| {
            let mut namespaces = BTreeSet::from([dataset.namespace()]);
            for taker in datasets
                .state()
                .iter()
                .filter(|taker| others::takes_of(taker, &dataset))
            {
                namespaces.insert(taker.namespace());
                // The receiver ends with the process.
                let _ = changed.send(ObjectRef::from_obj(taker.as_ref()));
            }
            let runtimes = runtimes.state();
            let of = |namespace| same_namespace(runtimes.iter().map(AsRef::as_ref), namespace);
            namespaces.into_iter().flat_map(of).collect::<Vec<_>>()
        }
    };
    // A report of a cache node is news for both.
    let runtime_news = UnboundedReceiverStream::new(runtime_news).inspect(move |runtime: &ObjectRef<CacheRuntime>| {
        for dataset in same_namespace(
            dataset_store.state().iter().map(AsRef::as_ref),
            runtime.namespace.clone(),
        ) {
            // The receiver ends with the process.
            let _ = dataset_changed.send(dataset);
        }
    });
    let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=penstock-operator");
    let cache_nodes = watcher::Config::default().labels("app.kubernetes.io/component=cache-node");

    let datasets = datasets
        .owns(Api::<PersistentVolumeClaim>::all(client.clone()), ours.clone())
        .owns(Api::<Deployment>::all(client.clone()), ours.clone())
        .watches(
            Api::<CacheRuntime>::all(client.clone()),
            watcher::Config::default(),
            of_runtime,
        )
        .reconcile_on(UnboundedReceiverStream::new(dataset_news))
        .run(dataset::reconcile, dataset::error_policy, context.clone())
        .for_each(|_| async {});
    let runtimes = runtimes
        .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
        .owns(Api::<Service>::all(client.clone()), ours)
        .watches(Api::<Pod>::all(client.clone()), cache_nodes, |pod: Pod| {
            let runtime = pod.labels().get("penstock.io/cache-runtime")?;
            Some(ObjectRef::<CacheRuntime>::new(runtime).within(&pod.namespace()?))
        })
        .watches(Api::<Dataset>::all(client), watcher::Config::default(), of_dataset)
        .reconcile_on(runtime_news)
        .reconcile_all_on(cluster.changes())
        .run(cache_runtime::reconcile, cache_runtime::error_policy, context)
        .for_each(|_| async {});
    async move {
        tokio::join!(datasets, runtimes);
    }
}

fn same_namespace<'a, K>(objects: impl Iterator<Item = &'a K>, namespace: Option<String>) -> Vec<ObjectRef<K>>
where
    K: kube::Resource<DynamicType = ()> + 'a,
{
    objects
        .filter(|object| object.meta().namespace == namespace)
        .map(ObjectRef::from_obj)
        .collect()
}
