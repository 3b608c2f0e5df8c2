//! Registration with the kubelet: it finds a socket in its registry folder, asks who is there, and says whether it took
//! the driver. That is all that the usual sidecar does.

use std::path::PathBuf;

use penstock_health::Readiness;
use tonic::{Request, Response, Status};

use crate::DRIVER;
use crate::proto::pluginregistration as api;

/// Answers the kubelet's registration calls.
pub struct Registration {
    /// Where the kubelet finds the CSI services, as it sees the path.
    pub endpoint: PathBuf,
    /// Whether the kubelet has taken the driver.
    pub registered: Readiness,
}

#[tonic::async_trait]
impl api::registration_server::Registration for Registration {
    async fn get_info(&self, _: Request<api::InfoRequest>) -> Result<Response<api::PluginInfo>, Status> {
        Ok(Response::new(api::PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<api::RegistrationStatus>,
    ) -> Result<Response<api::RegistrationStatusResponse>, Status> {
        let api::RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        self.registered.set(plugin_registered);
        if plugin_registered {
            tracing::info!("registered with the kubelet");
        } else {
            // It tries again by itself, and refuses for passing reasons too. Ending would lose what the keeper holds.
            tracing::error!(error, "the kubelet refused the driver; it will try again");
        }
        Ok(Response::new(api::RegistrationStatusResponse {}))
    }
}
