//! TLS to the broker: whom to trust, which certificate to show, and a clear error when it fails.

use std::io;
use std::path::Path;

use lapin::ErrorKind;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError};

use super::AmqpError;
use crate::config::Amqp;

/// lapin itself would add `ca_file` to the system's authorities. Here the file replaces them: it names the
/// few to trust.
pub(super) fn connector(settings: &Amqp) -> Result<RustlsConnector, AmqpError> {
    let trusting = match &settings.ca_file {
        Some(path) => {
            RustlsConnectorConfig::default().with_parsable_certificates(certificates(path)?)
        }
        None => RustlsConnectorConfig::new_with_platform_verifier(),
    };
    let built = match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => {
            trusting.connector_with_single_cert(certificates(cert)?, private_key(key)?)
        }
        _ => trusting.connector_with_no_client_auth(),
    };
    built.map_err(|why| AmqpError::Settings(format!("TLS for amqp.url cannot be set up: {why}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AmqpError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(path, "holds no certificate; it has to be PEM")),
        Err(why) => Err(unusable(path, &format!("is not a PEM file: {why}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, AmqpError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|why| unusable(path, &format!("holds no private key in PEM: {why}")))
}

fn read(path: &Path) -> Result<Vec<u8>, AmqpError> {
    std::fs::read(path).map_err(|why| unusable(path, &format!("cannot be read: {why}")))
}

fn unusable(path: &Path, why: &str) -> AmqpError {
    AmqpError::Settings(format!("{} {why}", path.display()))
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
    use rustls::Error::{AlertReceived, InvalidCertificate};
    match cause {
        InvalidCertificate(CertificateError::UnknownIssuer) => match &settings.ca_file {
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
