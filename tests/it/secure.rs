//! TLS to the broker and to a provider, and the least a worker's user has to be allowed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::flow::PATIENCE;
use crate::rig::checker::{endings, id};
use crate::rig::pki::{Authority, Pair};
use crate::rig::process::{Process, free_address};
use crate::rig::stage::{payment_id, request};
use crate::rig::terminal::Terminal;
use crate::rig::{Broker, Client, Names, Simulator, Stage, Worker, http, project};

/// A node that speaks TLS and asks every client for a certificate.
struct Guarded {
    broker: Broker,
    authority: Authority,
    client: Pair,
    tls: SocketAddr,
}

impl Guarded {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Guarded> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let authority = Authority::new("the broker's authority");
        let (server, client) = (authority.signs("server"), authority.signs("worker"));
        let tls = free_address();
        let settings = format!(
            "listeners.ssl.1 = {tls}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = true\n",
            authority.file().display(),
            server.certificate.display(),
            server.key.display(),
        );
        let broker = Broker::start_with(&settings, None);
        import_definitions(&broker);
        Self {
            broker,
            authority,
            client,
            tls,
        }
    }

    fn url(&self, user: &str) -> String {
        format!("amqps://{user}:{user}@{}/%2f", self.tls)
    }

    /// A stage that connects with TLS, trusts the authority and shows a certificate.
    fn stage(&self, name: &str) -> Stage {
        let mut stage = Stage::with(self.broker.url(), name, Simulator::start());
        stage.set("amqp.url", self.url("guest"));
        stage.set("amqp.ca_file", text(&self.authority.file()));
        stage.set("amqp.cert_file", text(&self.client.certificate));
        stage.set("amqp.key_file", text(&self.client.key));
        stage
    }
}

/// The definitions that are handed out, as they are; each user's password is its name. Only once, for
/// an import takes passwords away again that other tests log in with.
fn import_definitions(broker: &Broker) {
    let definitions = project("deploy/rabbitmq/definitions.json");
    broker.ctl(&["import_definitions", &text(&definitions)]);
    for user in ["rescind", "rescind-gateway"] {
        broker.ctl(&["change_password", user, user]);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What a command of `rescind` says, and its exit code.
fn command(
    stage: &Stage,
    command: &'static str,
    environment: &[(&str, &str)],
) -> (Option<i32>, String) {
    let path = stage.dir().join("checked.toml");
    std::fs::write(&path, stage.config()).unwrap();
    let environment: Vec<(String, String)> = environment
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let folder = crate::rig::folder(command);
    let arguments = [Path::new(command), Path::new("--config"), &path];
    let mut process = Process::start(folder.path(), command, &arguments, &environment);
    let status = process.wait(PATIENCE);
    (status.code(), process.log())
}

#[track_caller]
fn refused(stage: &Stage, environment: &[(&str, &str)], code: i32, says: &str) {
    let (exit, said) = command(stage, "check", environment);
    assert_eq!(exit, Some(code), "{said}");
    assert!(said.contains(says), "{says:?} is not in:\n{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_tls_and_a_client_certificate_is_used() {
    let stage = Guarded::shared().stage("tls");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let all: Vec<_> = (0..6).map(|_| request("midtrans", "success")).collect();
    stage.client().await.confirm_all(&stage.names, &all).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    assert!(worker.ready());
    let connections =
        Guarded::shared()
            .broker
            .ctl(&["list_connections", "ssl", "peer_cert_subject"]);
    assert!(connections.contains("true\tCN=worker"), "{connections}");
}

#[test]
fn a_broker_or_a_certificate_that_is_not_the_right_one_is_refused_in_a_sentence() {
    let guarded = Guarded::shared();
    let stranger = Authority::new("a stranger");
    let strange_file = text(&stranger.file());

    let mut stage = guarded.stage("strangers");
    stage.set("amqp.ca_file", strange_file.as_str());
    refused(&stage, &[], 7, "has signed the broker's certificate");
    // `ca_file` replaces the system's authorities; it does not stand beside them.
    let right = text(&guarded.authority.file());
    refused(
        &stage,
        &[("SSL_CERT_FILE", &right)],
        7,
        "no authority in amqp.ca_file",
    );

    let mut stage = guarded.stage("elsewhere");
    let elsewhere = guarded.url("guest").replace("127.0.0.1", "localhost");
    stage.set("amqp.url", elsewhere);
    refused(&stage, &[], 7, "for another name than the host in amqp.url");

    let mut stage = guarded.stage("unknown");
    let unknown = stranger.signs("unknown");
    stage.set("amqp.cert_file", text(&unknown.certificate));
    stage.set("amqp.key_file", text(&unknown.key));
    refused(&stage, &[], 7, "the broker does not accept our certificate");
    let mut bare = Stage::with(guarded.broker.url(), "bare", Simulator::start());
    bare.set("amqp.url", guarded.url("guest"));
    bare.set("amqp.ca_file", right.as_str());
    refused(&bare, &[], 7, "the broker does not accept our certificate");

    let mut stage = guarded.stage("plain");
    stage.set("amqp.url", guarded.broker.url().replace("amqp:", "amqps:"));
    refused(&stage, &[], 7, "what answers there does not speak TLS");

    let half = stage.dir().join("half.pem");
    let whole = std::fs::read(guarded.authority.file()).unwrap();
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let mut stage = guarded.stage("half");
    stage.set("amqp.ca_file", text(&half));
    refused(&stage, &[], 2, "half.pem");
    stage.set("amqp.ca_file", "/nonexistent.pem");
    refused(&stage, &[], 2, "/nonexistent.pem cannot be read");
}

/// As `openssl req -x509` makes it, in one line.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_shows_an_authority_as_its_certificate_is_refused_in_a_sentence() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let authority = Authority::new("its own");
    let mut stage = Stage::new("own-authority");
    let address = terminate(&authority.itself(), stage.simulator.address()).await;
    stage.set("amqp.url", format!("amqps://guest:guest@{address}/%2f"));
    stage.set("amqp.ca_file", text(&authority.file()));
    refused(&stage, &[], 7, "shows the certificate of an authority");
}

/// The user in the definitions that are handed out suffices for everything, and for nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_privileged_user_suffices_and_may_do_no_more() {
    let guarded = Guarded::shared();
    let names = Names::contract();
    let mut stage = guarded.stage("least");
    for (key, name) in names.table(&guarded.url("rescind")) {
        stage.set(&format!("amqp.{key}"), name);
    }
    stage.set("amqp.topology", "verify");
    stage.names = names.clone();
    let worker = stage.worker();
    let (exit, said) = command(&stage, "check", &[]);
    assert_eq!(exit, Some(0), "{said}");
    let unseen = "taken on trust where this user may not configure them; bindings cannot";
    assert!(said.contains(unseen), "{said}");
    let (exit, said) = command(&stage, "results", &[]);
    assert_eq!(exit, Some(7), "{said}");
    assert!(said.contains("this user may not configure"), "{said}");
    Terminal::new(&stage.dir().join("checked.toml"), &["topology", "declare"])
        .spawn_and_wait()
        .exits(7)
        .says("this user may not declare all of it");

    let (mut results, mut dead) = (stage.results().await, stage.dead_letters().await);
    let client = stage.client().await;
    let kinds = rescind::providers::ALL
        .iter()
        .map(|provider| provider.kind());
    let all: Vec<_> = kinds.map(|kind| request(kind, "success")).collect();
    client.confirm_all(&names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
    let unwanted = json!({ "request_id": "least-1", "provider": "nowhere", "payment": {"a": "b"} });
    client.publish(&names, &unwanted).await;
    assert_eq!(
        results.one("least-1", PATIENCE).await.json()["outcome"],
        "invalid"
    );
    dead.one("least-1", PATIENCE).await;
    // Published to the results' exchange, consumed again, and found to be nobody's.
    let notification = json!({"order_id": "nobody", "status_code": "200", "gross_amount": "1.00",
        "transaction_status": "cancel", "signature_key": signature("nobody")});
    let body = notification.to_string();
    let taken = http::post(
        worker.address(),
        "/notifications/midtrans",
        &[],
        body.as_bytes(),
    );
    assert_eq!(taken.unwrap().0, 200);
    let unmatched = [("provider", "midtrans"), ("verdict", "unmatched")];
    crate::rig::until("the notification came back", PATIENCE, || {
        worker.metric("rescind_notifications_total", &unmatched) == 1.0
    })
    .await;

    let plain = guarded
        .broker
        .url()
        .replace("guest:guest", "rescind:rescind");
    for (what, exchange) in [
        ("requests", &names.requests_exchange),
        ("dropped", &names.dropped_exchange),
    ] {
        let own = Client::connect(&plain).await;
        let message = crate::rig::client::Outgoing {
            exchange: exchange.clone(),
            ..crate::rig::client::Outgoing::request(&names, &all[0])
        };
        let fate = own.try_send(message).await;
        assert!(fate.is_err(), "it may publish {what}: {fate:?}");
    }
    let allowed = guarded
        .broker
        .ctl(&["list_user_permissions", "rescind", "--silent"]);
    assert!(
        allowed.contains("^$"),
        "nothing may be configured: {allowed}"
    );
}

/// Who passes notifications on may not say "cancelled" to the consumers of results.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_may_publish_notifications_and_no_results() {
    let broker = &Guarded::shared().broker;
    let names = Names::contract();
    let url = broker
        .url()
        .replace("guest:guest", "rescind-gateway:rescind-gateway");
    for (key, may) in [
        ("notification.midtrans", true),
        ("result.midtrans.cancelled", false),
    ] {
        let message = crate::rig::client::Outgoing {
            exchange: names.results_exchange.clone(),
            key: key.into(),
            ..crate::rig::client::Outgoing::request(&names, &json!({}))
        };
        let fate = Client::connect(&url).await.try_send(message).await;
        assert_eq!(fate.is_ok(), may, "{key}: {fate:?}");
    }
}

#[test]
fn what_a_worker_writes_is_for_its_user_alone_and_it_leaves_no_core_dump() {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::new("private");
    let worker = stage.worker();
    assert!(worker.log().contains("a new one was made"));
    for end in ["", "-wal", "-shm", ".lock"] {
        let file = format!("{}{end}", stage.ledger().display());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} has the mode {mode:o}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", worker.id())).unwrap();
    let core = limits.lines().find(|line| line.contains("core file size"));
    let core: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
}

fn signature(order: &str) -> String {
    use sha2::{Digest as _, Sha512};
    hex::encode(Sha512::digest(format!("{order}2001.00SB-Mid-server-demo")))
}

/// The simulated providers behind TLS.
async fn terminate(pair: &Pair, to: SocketAddr) -> SocketAddr {
    let certificates = CertificateDer::pem_file_iter(&pair.certificate).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            certificates.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(&pair.key).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us ends it here.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut onward = TcpStream::connect(to).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut stream, &mut onward).await);
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_believed_under_its_own_authority_only() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (authority, stranger) = (
        Authority::new("the provider's"),
        Authority::new("a stranger"),
    );
    let mut stage = Stage::new("provider-tls");
    let address = terminate(&authority.signs("provider"), stage.simulator.address()).await;
    for (kind, trusted) in [("midtrans", &authority), ("migo", &stranger)] {
        let plain = stage.simulator.providers()[kind]["base_url"]
            .as_str()
            .unwrap();
        let path = url::Url::parse(plain).unwrap().path().to_owned();
        stage.set(
            &format!("providers.{kind}.base_url"),
            format!("https://{address}{path}"),
        );
        stage.set(&format!("providers.{kind}.ca_file"), text(&trusted.file()));
        stage.set(&format!("providers.{kind}.retry.give_up_after"), "1s");
    }
    let worker = stage.worker();
    let mut results = stage.results().await;
    let (believed, stopped) = (request("midtrans", "success"), request("migo", "success"));
    let client = stage.client().await;
    client
        .confirm_all(&stage.names, &[believed.clone(), stopped.clone()])
        .await;
    let result = results.one(&id(&believed), PATIENCE).await.json();
    assert_eq!(result["outcome"], "cancelled", "{result}");
    let result = results.one(&id(&stopped), PATIENCE).await.json();
    assert_eq!(result["reason"], "retries_exhausted", "{result}");
    let calls = stage
        .simulator
        .money("migo", &payment_id(&stopped))
        .cancel_calls;
    assert_eq!(calls, 0, "nothing was sent to whom we do not trust");
    drop(worker);
    stage.set("providers.migo.ca_file", "/nonexistent.pem");
    refused(&stage, &[], 2, "ca_file = /nonexistent.pem cannot be read");
    let mut worker = Worker::spawn(&stage.config(), &[]);
    assert_eq!(worker.wait(PATIENCE).code(), Some(2), "{}", worker.log());
}
