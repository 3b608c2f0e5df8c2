//! Why the certificate of a server is not believed, in words that say what to do. Pure.

use std::error::Error;
use std::io;

use jiff::Timestamp;
use rustls::CertificateError;
use rustls::pki_types::UnixTime;

/// What is wrong with the certificate of the server, if that is the cause of an error.
pub(super) fn why(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref() {
        return match error {
            rustls::Error::InvalidCertificate(error) => Some(words(error)),
            _ => None,
        };
    }
    // An error of input and output that was made of another one gives the cause of that one as its own.
    why(cause.downcast_ref::<io::Error>()?.get_ref()?)
}

fn words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "the certificate of its server is signed by an authority that is not known here; add the certificate of that authority to \
             caBundle of the source"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate of its server is signed by another authority than that of the same name that is known here; correct caBundle \
             of the source"
                .to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the certificate of its server has expired (it was valid until{}); renew it there",
            at(*not_after)
        ),
        CertificateError::Expired => "the certificate of its server has expired; renew it there".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate of its server is not valid before{}; correct the clock of the server or of the node",
            at(*not_before)
        ),
        CertificateError::NotValidYet => {
            "the certificate of its server is not valid yet; correct the clock of the server or of the node".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, .. } => format!(
            "the certificate of its server is for other hosts than {}; name the server as its certificate does",
            expected.to_str()
        ),
        CertificateError::NotValidForName => {
            "the certificate of its server is for other hosts; name the server as its certificate does".to_owned()
        }
        other => format!("the certificate of its server is not believed: {other}"),
    }
}

/// ` 2026-11-27T10:00:00Z`, or nothing of a time that has no name.
fn at(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(|time| format!(" {time}")).unwrap_or_default()
}
