//! Certificates for tests, made by the `openssl` command: authorities, and what they sign.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority with a folder of its own.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// An authority that nobody knows yet.
    pub(crate) fn new(name: &str) -> Self {
        let dir = super::folder("authority");
        let subject = format!("/CN={name}");
        openssl(
            dir.path(),
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &subject,
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-addext",
                "keyUsage=critical,keyCertSign,cRLSign",
            ],
        );
        Self { dir }
    }

    /// The file that makes somebody trust it.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Its own certificate, which is nobody else's.
    pub(crate) fn itself(&self) -> Pair {
        Pair {
            certificate: self.file(),
            key: self.dir.path().join("ca.key"),
        }
    }

    /// A certificate for a server at 127.0.0.1, or for the client of that name.
    pub(crate) fn signs(&self, name: &str) -> Pair {
        let dir = self.dir.path();
        let (subject, key, request, signed) = (
            format!("/CN={name}"),
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        openssl(
            dir,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                &subject,
                "-keyout",
                &key,
                "-out",
                &request,
            ],
        );
        let about = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n\
                     extendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(dir.join("about"), about).expect("a file");
        openssl(
            dir,
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-extfile",
                "about",
                "-out",
                &signed,
            ],
        );
        Pair {
            certificate: dir.join(signed),
            key: dir.join(key),
        }
    }
}

fn openssl(dir: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("openssl runs; it is Debian's package openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}
