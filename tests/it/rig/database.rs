//! A private PostgreSQL server, started through `deploy/database`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::script::{Script, start_arguments};

const SCRIPT: Script = Script {
    program: "deploy/database",
    lent: "DATABASE_URL",
};

/// A connection of the test's own, whose transaction holds what these statements lock.
pub(crate) async fn holding(url: &str, statements: &str) -> tokio_postgres::Client {
    let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
    let (client, line) = connected.unwrap();
    tokio::spawn(line);
    let begin = format!("BEGIN; {statements}");
    client.batch_execute(&begin).await.unwrap();
    client
}

/// A server of our own. Its end is also the end of this process, however that comes about:
/// `deploy/database` leaves a watchdog behind, so that nothing depends on `Drop`.
pub(crate) struct Database {
    dir: PathBuf,
    url: String,
    shared: bool,
}

impl Database {
    /// Starts a server for a test that breaks it.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// The same with settings in PostgreSQL's own words.
    pub(crate) fn start_with(settings: &str) -> Self {
        Self::start_in(&[("more.conf", settings)])
    }

    /// The same with TLS: the certificate and the key of the server.
    pub(crate) fn start_secure(certificate: &str, key: &str) -> Self {
        Self::start_in(&[("server.crt", certificate), ("server.key", key)])
    }

    /// The same for clients with a certificate of this authority, and for no others over TLS.
    pub(crate) fn start_guarded(certificate: &str, key: &str, authority: &str) -> Self {
        let server = Self::start_in(&[
            ("server.crt", certificate),
            ("server.key", key),
            ("clients.crt", authority),
            ("more.conf", "ssl_ca_file = '../clients.crt'\n"),
        ]);
        let rules = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca
            hostnossl all all 127.0.0.1/32 trust\n";
        std::fs::write(server.dir.join("data/pg_hba.conf"), rules).expect("its rules");
        server.sql("SELECT pg_reload_conf()");
        server
    }

    fn start_in(files: &[(&str, &str)]) -> Self {
        let dir = place();
        std::fs::create_dir_all(&dir).expect("a folder");
        for (name, text) in files {
            std::fs::write(dir.join(name), text).expect("a file for it");
        }
        Self {
            url: SCRIPT.run(&dir, start_arguments(), false),
            dir,
            shared: false,
        }
    }

    /// The one server for all tests that leave it alone; with `DATABASE_URL`, the one given
    /// there. Tests keep apart by [`Database::create`].
    pub(crate) fn shared() -> &'static Self {
        super::watchdog::watch();
        static SHARED: OnceLock<Database> = OnceLock::new();
        SHARED.get_or_init(|| {
            let dir = place();
            Self {
                url: SCRIPT.run(&dir, start_arguments(), true),
                dir,
                shared: true,
            }
        })
    }

    /// The server; stays the same over every stop, kill and start.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where the server lives; its log is `log/console`, its data below `data`.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new, empty database on it: its address.
    pub(crate) fn create(&self) -> String {
        let name = format!("t_{}", super::unique());
        self.sql(&format!("CREATE DATABASE {name}"));
        self.address(&name)
    }

    /// The address of a database on it.
    pub(crate) fn address(&self, name: &str) -> String {
        let mut url = url::Url::parse(&self.url).expect("an address");
        url.set_path(name);
        url.into()
    }

    /// Runs statements as the superuser; rows come back as lines, columns divided by `|`.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let arguments = ["sql", "-q", "-A", "-t", "-c", statements];
        SCRIPT.run(&self.dir, arguments, self.shared)
    }

    /// The same in one of its databases.
    pub(crate) fn sql_in(&self, url: &str, statements: &str) -> String {
        let arguments = ["sql", "-d", url, "-q", "-A", "-t", "-c", statements];
        SCRIPT.run(&self.dir, arguments, self.shared)
    }

    /// `kill -9` of the server and all its processes.
    pub(crate) fn kill9(&self) {
        self.breaking("kill");
        SCRIPT.run(&self.dir, ["kill"], false);
    }

    /// An orderly stop: connections are ended, transactions rolled back.
    pub(crate) fn stop(&self) {
        self.breaking("stop");
        SCRIPT.run(&self.dir, ["stop"], false);
    }

    /// Starts the server again, on its data and its port, and waits until it takes connections.
    pub(crate) fn start_again(&self) {
        self.breaking("start");
        let url = SCRIPT.run(&self.dir, start_arguments(), false);
        assert_eq!(
            url, self.url,
            "the server's port was taken while it was down"
        );
    }

    /// Stop and start.
    pub(crate) fn restart(&self) {
        self.stop();
        self.start_again();
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("log/console")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(25)..)
            .unwrap_or_default()
            .join("\n")
    }

    fn breaking(&self, what: &str) {
        assert!(!self.shared, "other tests use this server: no {what}");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The folder goes now, and with it what the server had to say.
            eprintln!("the end of the database's log:\n{}", self.last_words());
        }
        // Not asserted: a second panic would abort the run. The watchdog is there as well.
        drop(SCRIPT.command(&self.dir, ["remove"]).status());
    }
}

/// Not below a folder that only its owner may enter: the server runs as another user.
fn place() -> PathBuf {
    super::scratch().join(format!("database-{}", super::unique()))
}
