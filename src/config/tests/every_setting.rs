//! Each setting counts, and the documented file has it.

use super::*;
use crate::problem::variable;
use crate::settings::Resolved;

/// A row that nothing reads would be a setting without effect.
#[test]
fn every_setting_changes_the_configuration() {
    let tls = "[amqp]\nurl = 'amqps://broker.test'\ncert_file = 'c'\nkey_file = 'k'\n\
               [ledger]\nurl = 'postgres://db.test/rescind'\ncert_file = 'c'\nkey_file = 'k'\n";
    let file = format!("{tls}{SHOP}server_key = 'k'\n");
    let result = |environment: &[(&str, &str)], flags: &[(&str, &str)]| {
        format!("{:?}", with(&file, environment, flags).unwrap().config)
    };
    let before = result(&[], &[]);
    for field in FIELDS.iter().filter(|f| f.form != Form::Address) {
        let value = match field.form {
            Form::Flag => "true",
            Form::Choice(words) => words[1],
            Form::Whole(..) | Form::Number(_) => "17",
            Form::Span | Form::SpanOrZero => "3m",
            Form::Socket => "127.0.0.1:17",
            Form::Secrets => "amqps://other.test",
            _ => "other",
        };
        let after = result(&[], &[(field.path, value)]);
        assert_ne!(after, before, "{}", field.path);
        let by_variable = result(&[(&variable(field.path), value)], &[]);
        assert_eq!(by_variable, after, "{}", field.path);
    }
}

/// The same of what an account has of its own.
#[test]
fn every_default_can_be_another_one_for_an_account() {
    let file = format!("{SHOP}server_key = 'k'\n");
    let result = |flags: &[(&str, &str)]| format!("{:?}", with(&file, &[], flags).unwrap().config);
    let before = result(&[]);
    let defaults = FIELDS
        .iter()
        .filter_map(|f| Some((f.path.strip_prefix("defaults.")?, f.form)));
    let mut all = std::collections::BTreeSet::new();
    for (name, form) in defaults {
        let value = match form {
            Form::Span | Form::SpanOrZero => "3m",
            _ => "17",
        };
        let own = result(&[(&format!("providers.shop.{name}"), value)]);
        assert_ne!(own, before, "{name}");
        all.insert(own);
    }
    assert!(all.len() >= 13, "each is another one: {}", all.len());
}

#[test]
fn every_default_is_valid_and_the_generated_file_changes_nothing() {
    for field in FIELDS.iter().chain(ACCOUNT) {
        assert_eq!(field.default.is_some(), Resolved::default(field).is_some());
    }
    let text = default_toml(PROVIDERS);
    holds(&text, &["[providers.example]", "server_key_file"]);
    let written = with(&text, &[], &[]).unwrap();
    let built_in = load(&Sources::default(), PROVIDERS).unwrap();
    let values = |loaded: &Loaded| -> Vec<_> {
        let rows = loaded.effective.iter();
        rows.map(|e| (e.path.clone(), e.value.clone())).collect()
    };
    assert_eq!(values(&written), values(&built_in));
}

/// `UPDATE=1` writes it anew.
#[test]
fn the_documented_file_has_every_setting_with_its_default() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rescind.toml");
    let generated = default_toml(crate::providers::ALL);
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let update = std::env::var("UPDATE").is_ok();
    if update {
        std::fs::write(&path, &generated).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), generated);
}
