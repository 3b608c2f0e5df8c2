//! A ControllerService in memory, which the product does not have: it makes a Dataset for every volume, so that the node
//! cases of csi-sanity really run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use penstock_csi::identity::Identity;
use penstock_csi::proto::csi;
use penstock_csi::proto::csi::controller_service_capability::rpc::Type;
use penstock_revision::Package;
use tonic::{Request, Response, Status};

use crate::scene::{NAMESPACE, Scene};

/// The Identity service of the product, with a controller added to its capabilities.
pub struct IdentityWithController(pub Identity);

#[tonic::async_trait]
impl csi::identity_server::Identity for IdentityWithController {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        self.0.get_plugin_info(request).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        use csi::plugin_capability::{Service, Type as Kind, service};
        let mut answer = self.0.get_plugin_capabilities(request).await?.into_inner();
        answer.capabilities.push(csi::PluginCapability {
            r#type: Some(Kind::Service(Service {
                r#type: service::Type::ControllerService.into(),
            })),
        });
        Ok(Response::new(answer))
    }

    async fn probe(&self, request: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        self.0.probe(request).await
    }
}

/// The volumes, by name.
pub struct MemoryController {
    scene: Arc<Scene>,
    package: Package,
    volumes: Mutex<BTreeMap<String, csi::Volume>>,
}

impl MemoryController {
    /// Every volume of it is a Dataset at `package`.
    pub fn new(scene: Arc<Scene>, package: Package) -> Self {
        Self {
            scene,
            package,
            volumes: Mutex::default(),
        }
    }
}

#[tonic::async_trait]
impl csi::controller_server::Controller for MemoryController {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        if request.name.is_empty() || request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("name and volume_capabilities are needed"));
        }
        let bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        let mut volumes = self.volumes.lock().unwrap();
        if let Some(volume) = volumes.get(&request.name) {
            if volume.capacity_bytes != bytes {
                return Err(Status::already_exists("with another capacity"));
            }
            return Ok(Response::new(csi::CreateVolumeResponse {
                volume: Some(volume.clone()),
            }));
        }
        let dataset = format!("volume-{}", volumes.len());
        let uid = self.scene.dataset(&dataset, &self.package);
        let context = [
            ("dataset", dataset),
            ("namespace", NAMESPACE.to_owned()),
            ("uid", uid.clone()),
            // What the kubelet would add.
            ("csi.storage.k8s.io/ephemeral", "false".to_owned()),
        ];
        let volume = csi::Volume {
            volume_id: uid,
            capacity_bytes: bytes,
            volume_context: context
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            ..csi::Volume::default()
        };
        volumes.insert(request.name, volume.clone());
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("volume_id is needed"));
        }
        self.volumes.lock().unwrap().retain(|_, volume| volume.volume_id != id);
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        use csi::validate_volume_capabilities_response::Confirmed;
        let request = request.into_inner();
        if request.volume_id.is_empty() || request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_id and volume_capabilities are needed"));
        }
        let volumes = self.volumes.lock().unwrap();
        if !volumes.values().any(|volume| volume.volume_id == request.volume_id) {
            return Err(Status::not_found("no such volume"));
        }
        Ok(Response::new(csi::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                ..Confirmed::default()
            }),
            message: String::new(),
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse {
            capabilities: vec![
                capability(Type::CreateDeleteVolume),
                capability(Type::SingleNodeMultiWriter),
            ],
        }))
    }
}

/// A controller that can nothing. csi-sanity asks one for its capabilities before each node case, also when the driver
/// has none, and fails on an empty list.
pub struct NoController;

#[tonic::async_trait]
impl csi::controller_server::Controller for NoController {
    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse {
            capabilities: vec![capability(Type::SingleNodeMultiWriter)],
        }))
    }
}

fn capability(rpc: Type) -> csi::ControllerServiceCapability {
    csi::ControllerServiceCapability {
        r#type: Some(csi::controller_service_capability::Type::Rpc(
            csi::controller_service_capability::Rpc { r#type: rpc.into() },
        )),
    }
}
