//! TLS to the broker: whom to trust, which certificate to show, and a clear error when it fails.

use std::io;

use lapin::ErrorKind;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::{AlertDescription, CertificateError, OtherError};

use super::AmqpError;
use crate::config::Amqp;
use crate::pem::{certificates, private_key};

/// lapin itself would add `ca_file` to the system's authorities. Here the file replaces them: it names the
/// few to trust.
pub(super) fn connector(settings: &Amqp) -> Result<RustlsConnector, AmqpError> {
    let trusting = match &settings.files.ca {
        Some(path) => RustlsConnectorConfig::default()
            .with_parsable_certificates(certificates(path).map_err(AmqpError::Settings)?),
        None => RustlsConnectorConfig::new_with_platform_verifier(),
    };
    let built = match (&settings.files.cert, &settings.files.key) {
        (Some(cert), Some(key)) => trusting.connector_with_single_cert(
            certificates(cert).map_err(AmqpError::Settings)?,
            private_key(key).map_err(AmqpError::Settings)?,
        ),
        _ => trusting.connector_with_no_client_auth(),
    };
    built.map_err(|why| AmqpError::Settings(format!("TLS for amqp.url cannot be set up: {why}")))
}

/// The error of rustls, as a sentence that names the setting to check.
pub(super) fn explained(error: AmqpError, settings: &Amqp) -> AmqpError {
    let AmqpError::Protocol(_, cause) = &error else {
        return error;
    };
    let ErrorKind::IOError(cause) = cause.kind() else {
        return error;
    };
    let inner = cause.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(cause) => AmqpError::Tls(sentence(cause, settings)),
        None if is_hung_up(cause.kind()) => AmqpError::Tls(format!(
            "the broker closed the connection right after the TLS handshake ({cause}): most often the broker does not accept our certificate; {SHOW_ANOTHER}"
        )),
        None => error,
    }
}

const SHOW_ANOTHER: &str = "name an accepted one in amqp.cert_file, and its key in amqp.key_file";

/// In TLS 1.3 the client is done before the broker has judged its certificate: the end of the
/// connection can overtake the alert that says why.
fn is_hung_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn sentence(cause: &rustls::Error, settings: &Amqp) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match cause {
        InvalidCertificate(CertificateError::UnknownIssuer) => match &settings.files.ca {
            Some(path) => format!(
                "no authority in amqp.ca_file = {} has signed the broker's certificate",
                path.display()
            ),
            None => "no authority that this system trusts has signed the broker's certificate; name the one that did in amqp.ca_file".into(),
        },
        InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the broker's certificate is for another name than the host in amqp.url".into(),
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the broker's certificate has expired".into()
        }
        // The certificate that is made in one line for a trial is most often an authority's.
        InvalidCertificate(CertificateError::Other(other)) if is_authority(other) => {
            "the broker shows the certificate of an authority (CA:TRUE) as its own; give it one that an authority has signed, and name that authority in amqp.ca_file".into()
        }
        InvalidMessage(_) => {
            "what answers there does not speak TLS; is the port in amqp.url the broker's one for TLS, most often 5671?".into()
        }
        AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::HandshakeFailure,
        ) => format!("the broker does not accept our certificate; {SHOW_ANOTHER}"),
        other => format!("TLS with the broker failed: {other}"),
    }
}

/// rustls has no variant of its own for it.
fn is_authority(other: &OtherError) -> bool {
    other.to_string().contains("CaUsedAsEndEntity")
}
