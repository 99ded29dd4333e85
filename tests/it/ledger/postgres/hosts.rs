//! The way to a database: several hosts of which one is not there, a worker that is not there any more.

use std::net::SocketAddr;
use std::time::Duration;

use rescind::ledger::Which;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::super::desk::{at, request, sends};
use super::{Database, desk, expire};

/// Of a machine that is gone: nobody says so, and nothing comes back. Its queue is full.
struct Silent {
    address: SocketAddr,
    _queue: (TcpListener, Vec<TcpStream>),
}

impl Silent {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut taken = Vec::new();
        let patience = Duration::from_millis(300);
        while let Ok(next) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            taken.push(next.unwrap());
        }
        Self {
            address,
            _queue: (listener, taken),
        }
    }
}

/// In front of those of a database.
fn after(first: SocketAddr, url: &str) -> String {
    let url = url::Url::parse(url).unwrap();
    let port = url.port().unwrap();
    format!(
        "postgres://rescind@{first}{}?host=127.0.0.1&port={port}",
        url.path()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_silent_leaves_time_for_the_next_one() {
    let url = Database::shared().create();
    let silent = Silent::new().await;
    let worker = desk(&after(silent.address, &url)).await;
    let claims = worker.claim("migo", Which::due(9), at(1), sends()).await;
    assert!(claims.unwrap().claims.is_empty());
    worker.stats().await.unwrap();
    // The lease is kept that way as well.
    expire(&url);
    super::lease::until_renewed(&url).await;
}

/// As after a switch to a standby: the old one answers, and takes no writes.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_one_that_can_be_written_to_is_taken() {
    let server = Database::shared();
    let old = Database::start();
    let url = server.create();
    let name = url.rsplit('/').next().unwrap();
    old.sql(&format!("CREATE DATABASE {name}"));
    old.sql(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ));
    let port = url::Url::parse(old.url()).unwrap().port().unwrap();
    let worker = desk(&after(SocketAddr::from(([127, 0, 0, 1], port)), &url)).await;
    worker.begin("a", "p").await;
}

/// A trigger says what holds in the session that writes.
#[tokio::test]
async fn a_server_does_not_send_for_ever_to_a_worker_that_is_gone() {
    let url = Database::shared().create();
    let worker = desk(&url).await;
    let settings =
        "tcp_user_timeout tcp_keepalives_idle tcp_keepalives_interval tcp_keepalives_count";
    let shown = settings
        .split(' ')
        .map(|name| format!("current_setting('{name}')"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    let tells = format!(
        "CREATE TABLE told (words TEXT);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO told VALUES (concat_ws(' ', {shown})); RETURN NEW; END $$;
         CREATE TRIGGER tell BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION tell()"
    );
    Database::shared().sql_in(&url, &tells);
    worker.take_in(request("a", "p")).await;
    let told = Database::shared().sql_in(&url, "SELECT words FROM told");
    assert_eq!(told, "10000 10 2 3");
}
