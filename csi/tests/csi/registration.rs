//! The two calls by which the kubelet takes the driver.

use std::path::Path;

use hyper_util::rt::TokioIo;
use penstock_csi::proto::pluginregistration as api;
use penstock_csi::proto::pluginregistration::registration_client::RegistrationClient;
use penstock_csi::proto::pluginregistration::registration_server::RegistrationServer;
use penstock_csi::registration::Registration;
use penstock_csi::socket;
use penstock_health::Readiness;
use tokio::net::UnixStream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

async fn client(socket: &Path) -> RegistrationClient<Channel> {
    let socket = socket.to_owned();
    // The address only fills the :authority header; the connector decides where to.
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    RegistrationClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

#[tokio::test]
async fn the_kubelet_learns_where_the_driver_is_and_may_change_its_mind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("csi.penstock.io-reg.sock");
    // What a killed predecessor left is replaced, and nothing else lies beside it.
    drop(socket::listen_at(&path).unwrap());
    let listener = socket::listen_at(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let registered = Readiness::default();
    let service = RegistrationServer::new(Registration {
        endpoint: "/var/lib/kubelet/plugins/csi.penstock.io/csi.sock".into(),
        registered: registered.clone(),
    });
    let server = Server::builder().add_service(service);
    let serving = tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));

    let mut kubelet = client(&path).await;
    let info = kubelet.get_info(api::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (info.r#type.as_str(), info.name.as_str()),
        ("CSIPlugin", "csi.penstock.io")
    );
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi.penstock.io/csi.sock");
    assert_eq!(info.supported_versions, ["1.0.0"]);

    let mut told = async |plugin_registered, error: &str| {
        let status = api::RegistrationStatus {
            plugin_registered,
            error: error.to_owned(),
        };
        kubelet.notify_registration_status(status).await.unwrap();
    };
    told(true, "").await;
    assert!(registered.get());
    told(false, "another driver has the name").await;
    assert!(!registered.get());
    // It goes on serving, and the kubelet tries again.
    told(true, "").await;
    assert!(registered.get() && !serving.is_finished());
    serving.abort();
    assert!(path.exists());
}
