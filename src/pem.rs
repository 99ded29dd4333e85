//! Certificates and keys in PEM files, and what to say of a file that has none.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
