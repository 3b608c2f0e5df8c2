//! `penstock doctor`.

use anyhow::{Context, Result, ensure};

use crate::args;
use crate::limits::DOCTOR_DEADLINE;
use crate::out;

/// Prints how the csi container of this node sees it.
///
/// # Errors
/// When no csi container answers.
pub async fn run(arguments: args::Doctor) -> Result<()> {
    let args::Doctor { address } = arguments;
    let url = format!("http://{address}/doctor");
    let asked = async {
        let client = reqwest::Client::builder().no_proxy().timeout(DOCTOR_DEADLINE).build()?;
        let answer = client.get(&url).send().await?;
        let status = answer.status();
        anyhow::Ok((status, answer.text().await?))
    };
    let (status, text) = asked.await.with_context(|| {
        format!(
            "no csi container answers at {address}. On a node of a cluster: kubectl exec -n penstock-system POD -- /bin/penstock \
             doctor, with the pod penstock-csi-... of that node"
        )
    })?;
    ensure!(status.is_success(), "{url} answered {status}");
    out::print(&text)
}
