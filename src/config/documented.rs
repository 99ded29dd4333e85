//! The documented file: every setting with its default, written from the list of settings.

use super::{FIELDS, Form};
use crate::providers::Provider;

/// A file with every setting at its default, optional ones as comments, and a commented
/// table for each kind of provider.
pub fn default_toml(providers: &[&'static dyn Provider]) -> String {
    let mut text = String::new();
    let mut section = "";
    for field in FIELDS {
        let (table, key) = field.path.split_once('.').unwrap_or(("", field.path));
        if table != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            text += &format!("{gap}[{table}]\n");
            section = table;
        }
        let quoted = !matches!(field.form, Form::Flag | Form::Whole(..) | Form::Number(_));
        let line = match field.default {
            Some(value) if quoted => format!("{key} = {value:?}"),
            Some(value) => format!("{key} = {value}"),
            None if field.form.is_many() => format!("# {key} = []"),
            None => format!("# {key} = \"\""),
        };
        text += &format!("{line}  # {}\n", field.about);
    }
    for provider in providers {
        let kind = provider.kind();
        text +=
            &format!("\n# [providers.{kind}]\n# kind = \"{kind}\"\n# base_url = \"https://\"\n");
        for setting in provider.settings() {
            let file = if setting.secret { "_file" } else { "" };
            let optional = if setting.required { "" } else { "  # optional" };
            // An empty one may mean something.
            text += &format!("# {}{file} = \"…\"{optional}\n", setting.key);
        }
    }
    text
}
