//! TLS: the server is who its certificate says, or there is no connection.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rescind::ledger::LedgerError;
use rescind::ledger::postgres::{Postgres, Settings};

use super::{Database, settings};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_and_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours).unwrap();
    let server = Database::start_secure(&certificate.pem(), &key.serialize_pem());
    let right = write(folder.path(), "right.pem", &ours.pem());
    let wrong = write(folder.path(), "wrong.pem", &theirs.pem());

    let url = server.create().replace("127.0.0.1", "localhost");
    let at = |url: &str, ca: &Path| {
        let mut settings = settings(&format!("{url}?sslmode=verify-full"));
        settings.files.ca = Some(ca.to_owned());
        settings
    };
    let open = async |settings: Settings| Postgres::open(&settings, |_, _| ()).await;
    let ledger = open(at(&url, &right)).await.unwrap();
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'rescind'";
    assert_eq!(server.sql(encrypted), "t");
    drop(ledger);
    let elsewhere = url.replace("localhost", "127.0.0.1");
    for refused in [at(&url, &wrong), at(&elsewhere, &right)] {
        let error = open(refused).await.err();
        assert!(
            matches!(error, Some(LedgerError::Refused { .. })),
            "{error:?}"
        );
    }
    // A server without TLS is no server for us.
    let plain = Database::shared().create();
    let error = open(at(&plain, &right)).await.err();
    assert!(
        matches!(error, Some(LedgerError::Refused { .. })),
        "{error:?}"
    );
}

/// A certificate and its key, in files.
fn client(dir: &Path, name: &str, of: &CertifiedIssuer<'static, KeyPair>) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.signed_by(&key, of).unwrap();
    (
        write(dir, &format!("{name}.crt"), &certificate.pem()),
        write(dir, &format!("{name}.key"), &key.serialize_pem()),
    )
}

#[tokio::test]
async fn a_worker_shows_its_certificate_and_is_told_if_it_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours).unwrap();
    let server = Database::start_guarded(&certificate.pem(), &key.serialize_pem(), &ours.pem());
    let url = server.create().replace("127.0.0.1", "localhost");
    let open = async |client: Option<(PathBuf, PathBuf)>| {
        let mut settings = settings(&format!("{url}?sslmode=verify-full"));
        settings.files.ca = Some(write(folder.path(), "ca.pem", &ours.pem()));
        (settings.files.cert, settings.files.key) = client.unzip();
        Postgres::open(&settings, |_, _| ()).await
    };
    open(Some(client(folder.path(), "right", &ours)))
        .await
        .unwrap();
    for refused in [None, Some(client(folder.path(), "wrong", &theirs))] {
        let error = open(refused).await.err();
        assert!(
            matches!(error, Some(LedgerError::Refused { .. })),
            "{error:?}"
        );
    }
}
