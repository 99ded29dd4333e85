//! What is handed out in `deploy/` fits together: ports, paths, probes, settings, grace periods.

use std::path::Path;
use std::time::Duration;

use rescind::config::{Config, Sources, load};
use rescind::providers;
use serde_json::{Value, json};

use crate::rig::process::Process;
use crate::rig::{Simulator, Stage, folder, project};

mod kubernetes;
mod worker;

const PATIENCE: Duration = Duration::from_secs(20);
/// What the spans get at the end, after the drain.
const CLOSE: Duration = Duration::from_secs(2);

fn read(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// A configuration that is handed out, read as the worker reads it; its secret files and
/// certificates are made up.
fn configuration(text: &str) -> Config {
    let dir = folder("configuration");
    let path = dir.path().join("rescind.toml");
    let mut table: toml::Table = text.parse().expect("TOML");
    stand_in(&mut table, dir.path());
    std::fs::write(&path, table.to_string()).unwrap();
    let sources = Sources {
        file: Some(path),
        ..Sources::default()
    };
    load(&sources, providers::ALL)
        .unwrap_or_else(|why| panic!("{why}"))
        .config
}

/// Every `…_file` exists here.
fn stand_in(table: &mut toml::Table, dir: &Path) {
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::Table(inner) => stand_in(inner, dir),
            toml::Value::String(file) if key.ends_with("_file") => {
                let name = file.rsplit('/').next().unwrap_or_default().to_owned();
                let secret = match name.as_str() {
                    "amqp-url" => "amqps://rescind:secret@broker.test/%2f",
                    "ledger-url" => "postgres://rescind:secret@database.test/rescind",
                    "gr4vy.pem" => return private_key(key, value, dir),
                    _ => "secret",
                };
                let path = dir.join(name);
                std::fs::write(&path, secret).unwrap();
                *value = path.display().to_string().into();
            }
            _ => {}
        }
    }
}

/// The simulator's, as in the deployment.
fn private_key(key: &str, value: &mut toml::Value, dir: &Path) {
    let simulator = Simulator::start();
    let made = simulator.providers()["gr4vy"][key].as_str().unwrap();
    let path = dir.join("gr4vy.pem");
    std::fs::copy(made, &path).unwrap();
    *value = path.display().to_string().into();
}

/// `rescind …` and what it printed, whatever this machine has configured.
fn rescind(arguments: &[&str]) -> (Option<i32>, String) {
    let dir = folder("command");
    std::fs::write(dir.path().join("rescind.toml"), "").unwrap();
    let mut process = Process::start(dir.path(), "command", arguments, &[]);
    let status = process.wait(PATIENCE);
    (status.code(), process.log())
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    let found = value[key].as_array();
    found.unwrap_or_else(|| panic!("no list {key} in {value:#}"))
}

#[test]
fn the_definitions_are_those_that_the_worker_prints_with_further_users_and_policies() {
    let handed_out: Value =
        serde_json::from_str(&read("deploy/rabbitmq/definitions.json")).unwrap();
    let (code, printed) = rescind(&["topology", "print", "--user", "rescind", "--json"]);
    assert_eq!(code, Some(0), "{printed}");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    for key in ["vhosts", "exchanges", "queues", "bindings"] {
        assert_eq!(handed_out[key], printed[key], "{key}");
    }
    assert_eq!(handed_out["users"][0], printed["users"][0]);
    assert_eq!(handed_out["permissions"][0], printed["permissions"][0]);
    for user in list(&handed_out, "users") {
        assert_eq!(
            user["password_hash"], "",
            "no password is handed out: {user}"
        );
    }
    let allowed: Vec<_> = list(&handed_out, "permissions")[1..]
        .iter()
        .map(|may| json!([may["user"], may["configure"], may["write"], may["read"]]))
        .collect();
    let least = [
        json!(["rescind-publisher", "^$", r"^rescind\.requests$", "^$"]),
        json!(["rescind-consumer", "^$", "^$", r"^rescind\.results$"]),
        json!(["rescind-monitor", "^$", "^$", "^$"]),
        json!(["rescind-gateway", "^$", r"^rescind\.results$", "^$"]),
    ];
    assert_eq!(allowed, least);
    // What these two hold is not for the broker to give up, and RabbitMQ 4 would.
    let kept = json!({ "delivery-limit": 1_000_000 });
    let policies: Vec<_> = list(&handed_out, "policies")
        .iter()
        .map(|policy| (&policy["name"], &policy["pattern"], &policy["definition"]))
        .collect();
    assert_eq!(policies.len(), 4);
    // RabbitMQ 3 has no limit by itself, and the worker counts from RabbitMQ 4's own.
    let requests = json!({ "max-length-bytes": 1_073_741_824, "delivery-limit": 20 });
    assert_eq!(policies[0].2, &requests);
    for (name, pattern, definition) in &policies {
        let set = format!(
            "--apply-to queues {} '{}' '",
            name.as_str().unwrap(),
            pattern.as_str().unwrap()
        );
        let page = read("docs/deployment.md");
        let (_, rest) = page.split_once(&set).unwrap_or_else(|| panic!("no {set}"));
        let written: Value = serde_json::from_str(rest.split('\'').next().unwrap()).unwrap();
        assert_eq!(written, **definition, "docs/deployment.md, {name}");
    }
    // Strangers may fill it, and a hint that is lost costs time.
    let bounded = json!({ "max-length": 10_000, "overflow": "drop-head" });
    let notifications = (
        json!("rescind-notifications-bounded"),
        json!(r"^rescind\.notifications$"),
    );
    assert_eq!(policies[3], (&notifications.0, &notifications.1, &bounded));
    // What says "cancelled" is the worker's to say.
    let topics = json!([{
        "user": "rescind-gateway",
        "vhost": "/",
        "exchange": "rescind.results",
        "write": r"^notification\.",
        "read": "^$",
    }]);
    assert_eq!(handed_out["topic_permissions"], topics);
    for (policy, queue) in policies[1..].iter().zip(["results", "dropped"]) {
        let names = (
            json!(format!("rescind-{queue}-kept")),
            json!(format!(r"^rescind\.{queue}$")),
        );
        assert_eq!(*policy, (&names.0, &names.1, &kept));
    }
}

/// `KEY=value` of a unit, the last one.
fn setting<'u>(unit: &'u str, key: &str) -> &'u str {
    let mut lines = unit.lines().filter_map(|line| line.split_once('='));
    let found = lines.rfind(|(name, _)| *name == key);
    found.unwrap_or_else(|| panic!("no {key}")).1
}

#[test]
fn the_unit_waits_longer_than_the_worker_drains() {
    let unit = read("deploy/systemd/rescind.service");
    assert_eq!(setting(&unit, "Type"), "notify");
    // It is ready when its ledger is migrated.
    assert_eq!(setting(&unit, "TimeoutStartSec"), "infinity");
    let stop: u64 = setting(&unit, "TimeoutStopSec").parse().unwrap();
    let drain = configuration(&read("deploy/rescind.toml")).drain;
    assert!(Duration::from_secs(stop) > drain + CLOSE);
    assert_eq!(setting(&unit, "KillSignal"), "SIGTERM");
    let command: Vec<&str> = setting(&unit, "ExecStart").split(' ').collect();
    let [binary, "worker", "--config", file] = command[..] else {
        panic!("{command:?}");
    };
    assert_eq!(
        (binary, file),
        ("/usr/local/bin/rescind", "/etc/rescind/rescind.toml")
    );
    // A ledger in a relative file is below the folder that the unit may write to.
    assert_eq!(setting(&unit, "WorkingDirectory"), "/var/lib/rescind");
    assert_eq!(setting(&unit, "StateDirectory"), "rescind");
    assert_eq!(setting(&unit, "RequiresMountsFor"), "/var/lib/rescind");
    assert_eq!(setting(&unit, "ProtectSystem"), "strict");
}

#[test]
fn the_image_holds_what_it_runs_and_runs_it_without_rights() {
    let dockerfile = read("deploy/Dockerfile");
    let lines: Vec<&str> = dockerfile.lines().map(str::trim).collect();
    let has = |line: &str| assert!(lines.contains(&line), "no line {line:?}");
    has("USER 65532:65532");
    has("EXPOSE 8620");
    has("ENV RESCIND_HTTP__LISTEN=0.0.0.0:8620");
    has(r#"ENTRYPOINT ["/usr/local/bin/rescind"]"#);
    has(r#"CMD ["worker"]"#);
    has(r#"CMD ["/usr/local/bin/rescind", "health", "--live"]"#);
    has("COPY --from=build /out/rescind /usr/local/bin/rescind");
    // What is copied is there, let through, and all that the build reads.
    let ignored = read("deploy/Dockerfile.dockerignore");
    let copied: Vec<&str> = lines
        .iter()
        .filter_map(|line| {
            line.strip_prefix("COPY ")
                .filter(|l| !l.starts_with("--from"))
        })
        .flat_map(|line| line.rsplit_once(' ').unwrap().0.split(' '))
        .collect();
    assert_eq!(
        copied,
        ["Cargo.toml", "Cargo.lock", ".cargo", "vendor", "src"]
    );
    for path in copied {
        assert!(project(path).exists(), "{path}");
        assert!(
            ignored.lines().any(|line| line == format!("!{path}")),
            "{path}"
        );
    }
    let version = env!("CARGO_PKG_RUST_VERSION");
    let image = lines
        .iter()
        .find_map(|line| line.strip_prefix("FROM rust:"))
        .unwrap();
    let given: (u32, u32) = numbers(image);
    assert!(given >= numbers(version), "{image} is older than {version}");
}

fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn the_services_of_the_trial_installation_find_each_other() {
    let compose = yaml("deploy/compose.yaml");
    let services = &compose["services"];
    let config = configuration(&read("deploy/compose/rescind.toml"));
    assert_eq!(services["worker"]["deploy"]["replicas"], 2);
    assert_eq!(config.listen.port(), 8620);
    assert!(
        config.listen.ip().is_unspecified(),
        "Prometheus is elsewhere"
    );
    let grace = services["worker"]["stop_grace_period"].as_str().unwrap();
    let grace: u64 = grace.trim_end_matches('s').parse().unwrap();
    assert!(Duration::from_secs(grace) > config.drain + CLOSE);

    // Accounts are the simulator's, at the name and port that it has here.
    let written = Simulator::start();
    let table: toml::Table = read("deploy/compose/rescind.toml").parse().unwrap();
    let ours = table["providers"].as_table().unwrap();
    assert_eq!(ours.len(), providers::ALL.len());
    for (name, account) in ours {
        let mut account = account.as_table().unwrap().clone();
        assert_eq!(account.remove("allow_plain_http"), Some(true.into()));
        let here = written.address().to_string();
        let mut theirs = written.providers()[name].as_table().unwrap().clone();
        if name == "gr4vy" {
            account.remove("private_key_file");
            theirs.remove("private_key_file");
        }
        assert_eq!(
            account.to_string(),
            theirs.to_string().replace(&here, "simulator:8630")
        );
    }
    let simulate: Vec<&str> = list(&services["simulator"], "command")
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert!(simulate.contains(&"--listen=0.0.0.0:8630"), "{simulate:?}");
    let help = rescind(&["simulate", "--help"]).1;
    for word in simulate.iter().filter_map(|word| word.strip_prefix("--")) {
        let option = word.split('=').next().unwrap();
        assert!(help.contains(&format!("--{option}")), "{option}");
    }

    // Files that are mounted are there; volumes are declared.
    for (name, service) in services.as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap();
            let source = volume.split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(path) => assert!(project("deploy").join(path).exists(), "{name}: {path}"),
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: {source}"),
            }
        }
    }
    let prometheus = yaml("deploy/prometheus/prometheus.yaml");
    let found = &prometheus["scrape_configs"][0]["dns_sd_configs"][0];
    assert_eq!(
        (&found["names"], &found["port"]),
        (&json!(["worker"]), &json!(8620))
    );
}

#[test]
fn addresses_in_the_configurations_are_those_of_the_services() {
    let compose = yaml("deploy/compose.yaml");
    let text = read("deploy/compose/rescind.toml");
    for (service, port, variables) in [
        (
            "rabbitmq",
            5672,
            ["RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"],
        ),
        ("postgres", 5432, ["POSTGRES_USER", "POSTGRES_PASSWORD"]),
    ] {
        let environment = &compose["services"][service]["environment"];
        let [user, password] = variables.map(|name| environment[name].as_str().unwrap());
        let address = format!("://{user}:{password}@{service}:{port}/");
        assert!(text.contains(&address), "{address}");
    }
}

#[test]
fn a_worker_that_nobody_answers_for_is_told_as_such() {
    let mut stage = Stage::new("nobody");
    stage.set(
        "http.listen",
        crate::rig::process::free_address().to_string(),
    );
    let path = stage.dir().join("nobody.toml");
    std::fs::write(&path, stage.config()).unwrap();
    let (code, said) = rescind(&["health", "--config", &path.display().to_string()]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("no worker at http.listen"), "{said}");
}
