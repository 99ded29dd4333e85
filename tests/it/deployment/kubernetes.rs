//! The Kubernetes manifests: what they name in each other, and in the configuration within.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{CLOSE, configuration, list, read, yaml};

const FOLDER: &str = "deploy/kubernetes";

/// Every document, by kind and name.
fn manifests() -> BTreeMap<(String, String), Value> {
    let kustomization = yaml(&format!("{FOLDER}/kustomization.yaml"));
    let listed = list(&kustomization, "resources").iter();
    let files: Vec<&str> = listed.map(|file| file.as_str().unwrap()).collect();
    let mut found = BTreeMap::new();
    for file in files.into_iter().chain(["secret.example.yaml"]) {
        let text = read(&format!("{FOLDER}/{file}"));
        for document in text.split("\n---\n") {
            let document: Value =
                serde_saphyr::from_str(document).unwrap_or_else(|why| panic!("{file}: {why}"));
            let word = |value: &Value| {
                value
                    .as_str()
                    .unwrap_or_else(|| panic!("{file}"))
                    .to_owned()
            };
            let key = (word(&document["kind"]), word(&document["metadata"]["name"]));
            assert!(found.insert(key, document).is_none(), "{file}");
        }
    }
    found
}

fn one(kind: &str) -> Value {
    let key = (kind.to_owned(), "rescind".to_owned());
    manifests()
        .remove(&key)
        .unwrap_or_else(|| panic!("no {kind}"))
}

fn pod() -> Value {
    one("Deployment")["spec"]["template"]["spec"].clone()
}

#[test]
fn the_worker_understands_the_configuration_and_finds_its_secrets() {
    let text = one("ConfigMap")["data"]["rescind.toml"]
        .as_str()
        .unwrap()
        .to_owned();
    let config = configuration(&text);
    assert!(
        config.listen.ip().is_unspecified(),
        "the kubelet asks from outside"
    );
    let pod = pod();
    let container = &pod["containers"][0];
    let secrets = &one("Secret")["stringData"];
    let mounts = list(container, "volumeMounts");
    let at = |name: &str| {
        let found = mounts.iter().find(|mount| mount["name"] == name);
        found.and_then(|mount| mount["mountPath"].as_str()).unwrap()
    };
    let arguments: Vec<_> = list(container, "args")
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect();
    assert_eq!(
        arguments,
        [
            "worker",
            "--config",
            &format!("{}/rescind.toml", at("config"))
        ]
    );
    let files = text.lines().filter_map(|line| line.split_once("_file = "));
    let files: Vec<&str> = files.map(|(_, path)| path.trim_matches('"')).collect();
    assert_eq!(files.len(), secrets.as_object().unwrap().len());
    for file in files {
        let (folder, key) = file.rsplit_once('/').unwrap();
        assert_eq!(folder, at("secrets"));
        assert!(secrets.get(key).is_some(), "{key}");
    }
    let volume = |name: &str| {
        let found = list(&pod, "volumes")
            .iter()
            .find(|volume| volume["name"] == name);
        found.unwrap().clone()
    };
    assert_eq!(volume("config")["configMap"]["name"], "rescind");
    assert_eq!(volume("secrets")["secret"]["secretName"], "rescind");
}

#[test]
fn a_pod_is_given_longer_than_the_worker_drains_and_has_no_rights() {
    let text = one("ConfigMap")["data"]["rescind.toml"]
        .as_str()
        .unwrap()
        .to_owned();
    let config = configuration(&text);
    let pod = pod();
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(grace > config.drain + CLOSE);
    let container = &pod["containers"][0];
    assert_eq!(
        container.get("lifecycle"),
        None,
        "no preStop hook is needed"
    );
    let user = "65532:65532";
    assert!(read("deploy/Dockerfile").contains(&format!("USER {user}")));
    let rights = &pod["securityContext"];
    assert_eq!(
        format!("{}:{}", rights["runAsUser"], rights["runAsGroup"]),
        user
    );
    assert_eq!(rights["runAsNonRoot"], true);
    let rights = &container["securityContext"];
    assert_eq!(rights["allowPrivilegeEscalation"], false);
    assert_eq!(rights["readOnlyRootFilesystem"], true);
    assert_eq!(rights["capabilities"]["drop"][0], "ALL");
    assert_eq!(pod["automountServiceAccountToken"], false);
}

#[test]
fn probes_scrapes_and_policies_reach_the_port_that_is_served() {
    let container = pod()["containers"][0].clone();
    let text = one("ConfigMap")["data"]["rescind.toml"]
        .as_str()
        .unwrap()
        .to_owned();
    let served = u64::from(configuration(&text).listen.port());
    let port = &container["ports"][0];
    assert_eq!(
        (&port["name"], port["containerPort"].as_u64()),
        (&"http".into(), Some(served))
    );
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        let asked = &container[probe]["httpGet"];
        assert_eq!(
            (&asked["path"], &asked["port"]),
            (&path.into(), &"http".into()),
            "{probe}"
        );
    }
    let service = one("Service");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    assert_eq!(service["spec"]["ports"][0]["port"], served);
    let scraped = one("ServiceMonitor")["spec"]["endpoints"][0].clone();
    assert_eq!(scraped["port"], service["spec"]["ports"][0]["name"]);
    assert_eq!(scraped["path"], "/metrics");
    let policy = one("NetworkPolicy");
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], served);
}

#[test]
fn every_selector_selects_the_workers() {
    let labels = one("Deployment")["spec"]["template"]["metadata"]["labels"].clone();
    for (kind, pointer) in [
        ("Deployment", "/spec/selector/matchLabels"),
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
    ] {
        assert_eq!(one(kind).pointer(pointer), Some(&labels), "{kind}");
    }
    let monitored = one("ServiceMonitor")["spec"]["selector"]["matchLabels"].clone();
    assert_eq!(one("Service")["metadata"]["labels"], monitored);
}

#[test]
fn the_scaler_watches_the_queue_of_requests_and_scales_the_deployment() {
    let scaled = one("ScaledObject");
    let spec = &scaled["spec"];
    assert_eq!(spec["scaleTargetRef"]["name"], "rescind");
    assert_eq!(
        one("Deployment")["spec"].get("replicas"),
        None,
        "one of them decides"
    );
    let trigger = &spec["triggers"][0];
    let queue = configuration("").amqp.requests_queue;
    assert_eq!(trigger["metadata"]["queueName"], queue.as_str());
    let login = trigger["authenticationRef"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let all = manifests();
    let asked = &all[&("TriggerAuthentication".to_owned(), login)]["spec"]["secretTargetRef"][0];
    let secret = asked["name"].as_str().unwrap().to_owned();
    let secret = &all[&("Secret".to_owned(), secret)]["stringData"];
    assert!(secret.get(asked["key"].as_str().unwrap()).is_some());
}

/// `UPDATE=1` writes it anew.
#[test]
fn the_alert_rules_are_those_of_prometheus() {
    let rules = read("deploy/prometheus/rules.yaml");
    let (_, groups) = rules.split_once("\ngroups:\n").expect("groups");
    let indented: Vec<String> = groups
        .lines()
        .map(|line| {
            if line.is_empty() {
                String::new()
            } else {
                format!("  {line}")
            }
        })
        .collect();
    let head = "# Made of deploy/prometheus/rules.yaml by a test with UPDATE=1.\n\
                apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n\
                metadata:\n  name: rescind\nspec:\n  groups:\n";
    let whole = format!("{head}{}\n", indented.join("\n"));
    let path = crate::rig::project(&format!("{FOLDER}/prometheusrule.yaml"));
    if std::env::var("UPDATE").is_ok() {
        std::fs::write(&path, &whole).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    let read_back: Value = serde_saphyr::from_str(&whole).unwrap();
    let original: Value = serde_saphyr::from_str(&rules).unwrap();
    assert_eq!(read_back["spec"]["groups"], original["groups"]);
}
