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
    // The client wants one, though nothing is encrypted here. Another part of the process may have set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_csi_says_is_printed_and_who_is_not_there_is_told_where_to_ask() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let csi = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnode a\n")
                .unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let arguments = |address: &str| args::Doctor {
            address: address.to_owned(),
        };
        run(arguments(&address)).await.unwrap();
        assert!(csi.join().unwrap().starts_with("GET /doctor "));
        let error = run(arguments(&address)).await.unwrap_err().to_string();
        assert!(error.contains("kubectl exec"), "{error}");
    }
}
