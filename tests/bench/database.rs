//! A database of one run's own, at the server that `DATABASE_URL` names.

use std::process::Command;

/// It is dropped with this.
pub(crate) struct Database {
    name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) fn new() -> Self {
        let server = std::env::var("DATABASE_URL")
            .expect("DATABASE_URL names a PostgreSQL of the benchmark's own");
        let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
        // What the last run left to be written is no part of the next one.
        sql(&format!("CREATE DATABASE {name}"));
        sql("CHECKPOINT");
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        Self {
            name,
            url: url.into(),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        sql(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

fn sql(statement: &str) {
    let done = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/database"))
        .args(["sql", "-", "-q", "-c", statement])
        .status()
        .unwrap();
    assert!(done.success(), "{statement}");
}
