//! Whom to trust at a provider: the certificates of a `ca_file`.

use std::path::Path;

use crate::pem::certificates;

/// Why an account has no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of authorities cannot be used: which, and what is wrong with it.
    #[error("ca_file = {0}")]
    Authorities(String),
    /// TLS cannot be set up.
    #[error(
        "the HTTP client cannot be built; https needs the system's certificates (Debian's package ca-certificates): {0}"
    )]
    Client(#[from] reqwest::Error),
}

/// The certificates of a `ca_file`.
pub fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let found = certificates(path).map_err(ClientError::Authorities)?;
    let trusted = found.iter().map(|der| reqwest::Certificate::from_der(der));
    Ok(trusted.collect::<Result<_, _>>()?)
}
