//! `rescind topology`: prints, declares or verifies the broker's exchanges and queues.

use lapin::uri::AMQPUri;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};

use super::text::{self, Screen};
use super::{CommandError, Exit, connect};
use crate::amqp::{self, ACCESS_REFUSED, Argument, Queue, Topology};
use crate::config::{Amqp, Loaded};

/// Print, declare or verify the broker's exchanges and queues.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print a definitions.json for RabbitMQ's import, with least permissions
    ///
    /// The file has exchanges, queues, bindings and one user for workers with
    /// amqp.topology = "verify". It holds no password, and its import removes the password of
    /// an existing user of that name: set it afterwards with `rabbitmqctl change_password`.
    Print {
        /// Name of the workers' user
        #[arg(long, default_value = "rescind")]
        user: String,
        /// Leave out the user and its permissions, e.g. for a second import
        #[arg(long, conflicts_with = "user")]
        no_user: bool,
        /// Print one JSON document, as without this flag
        #[arg(long)]
        json: bool,
    },
    /// Declare everything that is missing
    Declare,
    /// List what is missing or different; exit code 8 if anything is
    Verify {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Runs the verb.
pub(super) async fn run(args: Args, loaded: &Loaded, screen: Screen) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Print { user, no_user, .. } => {
            let user = Some(user.as_str()).filter(|_| !no_user);
            screen.document(&definitions(&loaded.config.amqp, user)?)?;
            Ok(Exit::Done)
        }
        Verb::Declare => declare(loaded, screen).await,
        Verb::Verify { json } => verify(loaded, json, screen).await,
    }
}

async fn declare(loaded: &Loaded, screen: Screen) -> anyhow::Result<Exit> {
    let topology = Topology::of(&loaded.config.amqp);
    let connection = connect(loaded, "rescind topology").await?;
    let declared = amqp::declare(&connection, &topology).await;
    amqp::close(&connection).await;
    declared.map_err(|error| match error.refusal() {
        Some((ACCESS_REFUSED, _)) => anyhow::Error::new(error).context(
            "this user may not declare all of it; use another amqp.url, e.g. by RESCIND_AMQP__URL_FILE",
        ),
        _ => error.explained().into(),
    })?;
    for exchange in &topology.exchanges {
        screen.line(&format!("exchange {} ({})", exchange.name, exchange.kind))?;
    }
    for queue in &topology.queues {
        let sources = queue.bindings.iter();
        let sources: Vec<String> = sources
            .map(|(exchange, key)| format!("{exchange} {key}").trim_end().to_owned())
            .collect();
        screen.line(&format!(
            "queue {} (bound to {})",
            queue.name,
            sources.join(", ")
        ))?;
    }
    text::say("all of it is at the broker");
    Ok(Exit::Done)
}

async fn verify(loaded: &Loaded, json: bool, screen: Screen) -> anyhow::Result<Exit> {
    let connection = connect(loaded, "rescind topology").await?;
    let verified = amqp::verify(&connection, &Topology::of(&loaded.config.amqp)).await;
    amqp::close(&connection).await;
    let found = verified?;
    let sentences = found.differences.iter().map(ToString::to_string);
    let sentences: Vec<String> = sentences.collect();
    if json {
        screen.document(&json!({ "differences": sentences }))?
    } else {
        sentences.iter().try_for_each(|line| screen.line(line))?
    }
    if sentences.is_empty() {
        text::say(found.sentence());
        return Ok(Exit::Done);
    }
    Ok(Exit::Found)
}

fn definitions(settings: &Amqp, user: Option<&str>) -> anyhow::Result<Value> {
    let uri: Result<AMQPUri, String> = settings.url.expose_secret().parse();
    let vhost = uri
        .map_err(|why| CommandError::usage(format!("amqp.url cannot be read: {why}")))?
        .vhost;
    let topology = Topology::of(settings);
    let exchanges = topology.exchanges.iter().map(|exchange| {
        json!({
            "name": exchange.name, "vhost": vhost, "type": exchange.kind,
            "durable": true, "auto_delete": false, "internal": false, "arguments": {},
        })
    });
    let queues = topology.queues.iter().map(|queue| {
        json!({
            "name": queue.name, "vhost": vhost,
            "durable": true, "auto_delete": false, "arguments": arguments(queue),
        })
    });
    let users = user.map(|name| json!({ "name": name, "password_hash": "", "tags": [] }));
    let permissions = user.map(|name| permissions(settings, &topology, name, &vhost));
    Ok(json!({
        "users": users.into_iter().collect::<Vec<_>>(),
        "vhosts": [{ "name": vhost }],
        "permissions": permissions.into_iter().collect::<Vec<_>>(),
        "exchanges": exchanges.collect::<Vec<_>>(),
        "queues": queues.collect::<Vec<_>>(),
        "bindings": bindings(&topology, &vhost),
    }))
}

fn arguments(queue: &Queue) -> Map<String, Value> {
    let values = queue.arguments.iter().map(|(name, value)| {
        let value = match value {
            Argument::Text(text) => json!(text),
            Argument::Number(number) => json!(number),
        };
        ((*name).to_owned(), value)
    });
    values.collect()
}

fn bindings(topology: &Topology, vhost: &str) -> Vec<Value> {
    let of = |queue: &Queue| {
        let bindings = queue.bindings.iter().map(|(exchange, key)| {
            json!({
                "source": exchange, "vhost": vhost, "destination": queue.name,
                "destination_type": "queue", "routing_key": key, "arguments": {},
            })
        });
        bindings.collect::<Vec<_>>()
    };
    topology.queues.iter().flat_map(of).collect()
}

/// The rights of a worker that only verifies: it configures nothing, writes results and dead
/// letters, and reads the rest, since newer brokers let a user see only what it has a right to.
fn permissions(settings: &Amqp, topology: &Topology, user: &str, vhost: &str) -> Value {
    let mut write = vec![
        settings.results_exchange.as_str(),
        settings.dead_exchange.as_str(),
    ];
    if settings.reply_to {
        // RabbitMQ's name for the default exchange.
        write.push("amq.default");
    }
    let exchanges = topology.exchanges.iter().map(|exchange| &exchange.name);
    let queues = topology.queues.iter().map(|queue| &queue.name);
    let read: Vec<&str> = exchanges.chain(queues).map(String::as_str).collect();
    json!({
        "user": user, "vhost": vhost,
        "configure": "^$", "write": any_of(write), "read": any_of(read),
    })
}

/// A pattern that matches exactly these names.
fn any_of(mut names: Vec<&str>) -> String {
    names.sort_unstable();
    names.dedup();
    let names: Vec<String> = names.into_iter().map(escaped).collect();
    format!("^({})$", names.join("|"))
}

fn escaped(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-') || !c.is_ascii();
    let parts = name.chars().map(|c| {
        if plain(c) {
            c.to_string()
        } else {
            format!("\\{c}")
        }
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn printed(variables: &[(&str, &str)]) -> Value {
        let environment = variables
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let sources = Sources {
            environment: environment.collect(),
            ..Sources::default()
        };
        let loaded = load(&sources, crate::providers::ALL).unwrap();
        definitions(&loaded.config.amqp, Some("rescind")).unwrap()
    }

    #[test]
    fn the_definitions_are_those_of_the_contract() {
        let printed = printed(&[]);
        assert_eq!(printed["vhosts"], json!([{ "name": "/" }]));
        assert_eq!(printed["exchanges"].as_array().unwrap().len(), 4);
        assert_eq!(printed["queues"].as_array().unwrap().len(), 5);
        assert_eq!(printed["bindings"].as_array().unwrap().len(), 6);
        let requests = &printed["queues"][0];
        assert_eq!(requests["arguments"]["x-queue-type"], "quorum");
        assert_eq!(
            requests["arguments"]["x-dead-letter-exchange"],
            "rescind.dropped"
        );
        assert!(!printed.to_string().contains("guest"));
    }

    #[test]
    fn permissions_are_the_least_and_names_are_escaped() {
        let least = printed(&[])["permissions"][0].clone();
        assert_eq!(least["configure"], "^$");
        assert_eq!(least["write"], r"^(rescind\.dead|rescind\.results)$");
        assert!(!least["read"].as_str().unwrap().contains("amq"));
        let named = printed(&[
            ("RESCIND_AMQP__DEAD_EXCHANGE", "a+b|c"),
            ("RESCIND_AMQP__REPLY_TO", "true"),
        ]);
        let wanted = r"^(a\+b\|c|amq\.default|rescind\.results)$";
        assert_eq!(named["permissions"][0]["write"], wanted);
    }
}
