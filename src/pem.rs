//! Certificates and keys in PEM files, and what to say of a file that has none.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What the settings of one table name for TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate; given together with `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// The settings that name one.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> {
        let files = [
            ("ca_file", &self.ca),
            ("cert_file", &self.cert),
            ("key_file", &self.key),
        ];
        let given = files.into_iter().filter(|(_, file)| file.is_some());
        given.map(|(name, _)| name)
    }
}

/// At least one: of a file without any, rustls would say at each connection that it does not know
/// who signed the other side's certificate.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(path, "holds no certificate; it has to be PEM")),
        Err(why) => Err(unusable(path, &format!("is not a PEM file: {why}"))),
    }
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|why| unusable(path, &format!("holds no private key in PEM: {why}")))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|why| unusable(path, &format!("cannot be read: {why}")))
}

fn unusable(path: &Path, why: &str) -> String {
    format!("{} {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_what_is_wanted_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        assert!(
            certificates(&path)
                .unwrap_err()
                .contains("file.pem cannot be read")
        );
        assert!(
            private_key(&path)
                .unwrap_err()
                .contains("file.pem cannot be read")
        );
        let half = "-----BEGIN CERTIFICATE-----\nMIIB\n";
        for (text, why) in [
            ("", "file.pem holds no certificate"),
            ("DER, perhaps", "file.pem holds no certificate"),
            (half, "file.pem is not a PEM file"),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = certificates(&path).unwrap_err();
            assert!(told.contains(why), "{told}");
            let told = private_key(&path).unwrap_err();
            assert!(told.contains("file.pem holds no private key"), "{told}");
        }
    }
}
