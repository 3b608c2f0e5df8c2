//! Unix sockets that the kubelet connects to.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::UnixListener;

/// Listens at `path`, readable by root only. The socket appears by a rename, complete and over one that is there already:
/// the kubelet forgets a driver when its registration socket vanishes, so nobody ever unlinks one, and a successor may
/// start before its predecessor ends.
///
/// # Errors
/// When the folder does not exist or cannot be written, or the path is too long for a socket (107 bytes).
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    // The kubelet ignores names that begin with a dot.
    let hidden = folder.join(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}
