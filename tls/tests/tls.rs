//! Who is greeted, and who is not.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use penstock_tls::Identity;
use penstock_tls::test_support::Authority;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "127.0.0.1";

fn identity(authority: &Authority, names: &[&str]) -> (TempDir, Arc<Identity>) {
    let folder = tempfile::tempdir().unwrap();
    authority.identify(names, folder.path()).unwrap();
    let identity = Identity::open(folder.path()).unwrap();
    (folder, identity)
}

/// Has a client read one byte that a server sends; what both said of it.
async fn greet(server: &Identity, client: &Identity) -> (io::Result<()>, io::Result<u8>) {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = async {
        let (stream, mut connection) = server.accept(listener.accept().await?.0).await?;
        std::io::Write::write_all(&mut connection.writer(), b"!")?;
        let mut sealed = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut sealed)?;
        }
        let mut stream = stream;
        stream.write_all(&sealed).await
    };
    let asking = async {
        let stream = TcpStream::connect(&address).await?;
        client.connect(&address, stream).await?.read_u8().await
    };
    tokio::join!(serving, asking)
}

#[tokio::test]
async fn parts_of_one_authority_greet_each_other() {
    let authority = Authority::new().unwrap();
    let (_one, server) = identity(&authority, &[HOST]);
    let (_other, client) = identity(&authority, &["mounter"]);
    let (served, read) = greet(&server, &client).await;
    served.unwrap();
    assert_eq!(read.unwrap(), b'!');
}

#[tokio::test]
async fn a_client_of_another_authority_is_not_greeted() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (_one, server) = identity(&ours, &[HOST]);
    let (other, _) = identity(&theirs, &["mounter"]);
    // It trusts us.
    let (_own, trusting) = identity(&ours, &[]);
    std::fs::copy(_one.path().join("ca.crt"), other.path().join("ca.crt")).unwrap();
    let client = Identity::open(other.path()).unwrap();
    let (served, read) = greet(&server, &client).await;
    assert!(served.is_err() && read.is_err(), "{served:?} {read:?}");
    assert!(greet(&server, &trusting).await.1.is_ok());
}

#[tokio::test]
async fn a_server_of_another_authority_or_for_another_name_is_left() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (_client, client) = identity(&ours, &[]);
    for (authority, name) in [(&theirs, HOST), (&ours, "127.0.0.2")] {
        let (_server, server) = identity(authority, &[name]);
        let (_, read) = greet(&server, &client).await;
        let said = read.unwrap_err().to_string();
        assert!(said.contains("certificate"), "{said}");
    }
}

#[tokio::test]
async fn renewed_files_are_used_and_useless_ones_are_not() {
    let (before, after) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (folder, _) = identity(&before, &[HOST]);
    let server = Identity::believing(folder.path(), Duration::ZERO).unwrap();
    let (_old, old) = identity(&before, &[]);
    let (_new, new) = identity(&after, &[]);
    assert!(greet(&server, &old).await.1.is_ok());
    let key = std::fs::read(folder.path().join("tls.key")).unwrap();
    std::fs::write(folder.path().join("tls.key"), "half of a ke").unwrap();
    assert!(greet(&server, &old).await.1.is_ok());
    std::fs::write(folder.path().join("tls.key"), key).unwrap();
    after.identify(&[HOST], folder.path()).unwrap();
    assert!(greet(&server, &old).await.1.is_err());
    assert!(greet(&server, &new).await.1.is_ok());
}

#[test]
fn a_folder_that_is_no_identity_is_refused_with_what_it_needs() {
    let authority = Authority::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in [("tls.crt", ""), ("tls.key", "no key"), ("ca.crt", "-----BEGIN")] {
        authority.identify(&[HOST], folder.path()).unwrap();
        let path = folder.path().join(file);
        for broken in [Some(content), None] {
            match broken {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let said = Identity::open(folder.path()).err().unwrap().to_string();
            assert!(said.contains(file) && said.contains("in PEM"), "{said}");
        }
    }
    // The key of another.
    authority.identify(&[HOST], folder.path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    authority.identify(&[HOST], other.path()).unwrap();
    std::fs::copy(other.path().join("tls.key"), folder.path().join("tls.key")).unwrap();
    assert!(Identity::open(folder.path()).is_err());
}
