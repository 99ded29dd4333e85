//! The worker as its supervisors see it: systemd's messages, and the health check.

use std::os::unix::net::UnixDatagram;

use super::PATIENCE;
use crate::rig::process::Process;
use crate::rig::{Stage, Worker, folder};

fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let length = socket
        .recv(&mut buffer)
        .expect("the worker tells something");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_the_worker_has_started_that_it_works_and_when_it_stops() {
    let stage = Stage::new("notify");
    let path = stage.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = path.display().to_string();
    let watched = [
        ("NOTIFY_SOCKET", path.as_str()),
        ("WATCHDOG_USEC", "300000"),
    ];
    let mut worker = stage.worker_with(&watched);
    assert!(told(&socket).starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(told(&socket), "WATCHDOG=1");
    }
    worker.sigterm();
    while told(&socket) == "WATCHDOG=1" {}
    assert!(worker.wait(PATIENCE).success());

    let mut worker = stage.worker_with(&watched[..1]);
    // The first one tells that it works until its very end.
    let mut news = std::iter::repeat_with(|| told(&socket)).skip_while(|told| told == "WATCHDOG=1");
    assert!(news.next().unwrap().starts_with("READY=1\n"));
    worker.sigterm();
    assert!(news.next().unwrap().starts_with("STOPPING=1\n"));
    assert!(worker.wait(PATIENCE).success());
}

fn health(worker: &Worker, further: &[&str]) -> (Option<i32>, String) {
    let dir = folder("health");
    let listen = (
        "RESCIND_HTTP__LISTEN".to_owned(),
        worker.address().to_string(),
    );
    let config = worker.config().display().to_string();
    let mut arguments = vec!["health", "--config", &config];
    arguments.extend(further);
    let mut process = Process::start(dir.path(), "health", &arguments, &[listen]);
    let status = process.wait(PATIENCE);
    (status.code(), process.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_itself_says_whether_the_worker_is_well() {
    let mut stage = Stage::new("health");
    let worker = stage.worker();
    let (code, said) = health(&worker, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(r#""ready":true"#), "{said}");
    assert_eq!(health(&worker, &["--live"]), (Some(0), "ok\n".to_owned()));

    // It turns, and waits for a broker that is not there.
    let nowhere = crate::rig::process::free_address();
    stage.set("amqp.url", format!("amqp://{nowhere}/%2f"));
    stage.set(
        "ledger.url",
        format!("sqlite:{}", stage.dir().join("other.db").display()),
    );
    let waiting = Worker::spawn(&stage.config(), &[]);
    crate::rig::until("it turns", PATIENCE, || {
        health(&waiting, &["--live"]).0 == Some(0)
    })
    .await;
    let (code, said) = health(&waiting, &[]);
    assert_eq!(code, Some(8), "{said}");
    assert!(said.contains(r#""broker_consuming":false"#), "{said}");
}
