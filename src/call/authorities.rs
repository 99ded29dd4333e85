//! Whom to trust at a provider: the certificates of a `ca_file`.

use std::path::{Path, PathBuf};

/// Why an account has no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of authorities cannot be used.
    #[error("ca_file = {} {why}", path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// TLS cannot be set up.
    #[error(
        "the HTTP client cannot be built; https needs the system's certificates (Debian's package ca-certificates): {0}"
    )]
    Client(#[from] reqwest::Error),
}

/// The certificates of a `ca_file`.
pub fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let unusable = |why: String| ClientError::Authorities {
        path: path.to_owned(),
        why,
    };
    let text = std::fs::read(path).map_err(|why| unusable(format!("cannot be read: {why}")))?;
    match reqwest::Certificate::from_pem_bundle(&text) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable("holds no certificate; it has to be PEM".into())),
        Err(_) => Err(unusable("is not a PEM file of certificates".into())),
    }
}
