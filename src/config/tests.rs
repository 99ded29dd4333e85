//! The configuration as an operator meets it: files, variables, flags and mistakes.

use jiff::Timestamp;

use super::*;
use crate::job::Payment;
use crate::providers::{Abilities, Ask, Asked, DoubtPolicy, Login, Reading, Request, Setting};
use crate::providers::{Response, Token};

mod every_setting;
mod layers;
mod mistakes;
mod secrets;

struct Example;

impl Provider for Example {
    fn kind(&self) -> &'static str {
        "example"
    }
    fn title(&self) -> &'static str {
        "Example"
    }
    fn settings(&self) -> &'static [Setting] {
        const SETTINGS: &[Setting] = &[
            Setting::secret("server_key"),
            Setting::secret("webhook_secrets").several(),
            Setting::plain("merchant").optional(),
            Setting::plain("oauth.token_url").optional(),
            Setting::secret("oauth.client_secret").optional(),
        ];
        SETTINGS
    }
    fn check(&self, account: &Account) -> Result<(), String> {
        match account.plain("merchant") {
            Some("wrong") => Err("merchant is wrong".to_owned()),
            _ => Ok(()),
        }
    }
    fn abilities(&self, _: &Account, _: &crate::job::Job) -> Abilities {
        Abilities {
            lookup: false,
            finds_all: true,
            look_first: false,
            doubt: DoubtPolicy::Person,
        }
    }
    fn payment(&self, _: &Asked<'_>) -> Result<Payment, String> {
        unreachable!()
    }
    fn cancel(&self, _: &Ask<'_>) -> Request {
        unreachable!()
    }
    fn lookup(&self, _: &Ask<'_>) -> Request {
        unreachable!()
    }
    fn read_cancel(&self, _: &Ask<'_>, _: &Response<'_>) -> Reading {
        unreachable!()
    }
    fn read_lookup(&self, _: &Ask<'_>, _: &Response<'_>) -> Reading {
        unreachable!()
    }
    fn login(&self, _: &Account, _: Timestamp, _: &str) -> Result<Login, String> {
        unreachable!()
    }
    fn read_login(&self, _: &Response<'_>) -> Result<Token, String> {
        unreachable!()
    }
}

const PROVIDERS: &[&dyn Provider] = &[&Example];
const SHOP: &str = "[providers.shop]\nkind = 'example'\nbase_url = 'https://pay.test/v2/'\n";
const SECRET: &str = "s3cr3t";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = pairs.iter().map(|(a, b)| ((*a).into(), (*b).into()));
    owned.collect()
}

fn with(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rescind.toml");
    std::fs::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: pairs(environment),
        flags: pairs(flags),
        ..Sources::default()
    };
    load(&sources, PROVIDERS)
}

fn errors(file: &str, environment: &[(&str, &str)]) -> String {
    with(file, environment, &[]).unwrap_err().to_string()
}

fn shown(loaded: &Loaded, path: &str) -> (String, Origin) {
    let row = loaded.effective.iter().find(|e| e.path == path);
    row.map(|e| (e.value.clone(), e.origin.clone())).unwrap()
}

#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
