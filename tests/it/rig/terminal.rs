//! A person with a terminal: commands of the real binary, what they print and how they end.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::process::{Guard, forget_environment};

/// A command that has not run yet.
pub(crate) struct Terminal(Command);

impl Terminal {
    pub(crate) fn new(config: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rescind"));
        forget_environment(&mut command);
        command.arg("--config").arg(config).args(arguments);
        command.env("LOGNAME", "ana");
        command.stdin(Stdio::null());
        Self(command)
    }

    /// With this in the environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// With this file as its input.
    pub(crate) fn given(mut self, file: &Path) -> Self {
        self.0.stdin(File::open(file).unwrap());
        self
    }

    /// Its output is for who asked. The guard is kept until its end.
    pub(crate) fn spawn(mut self) -> (Child, Guard) {
        self.0.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.0.spawn().unwrap();
        let guard = Guard::of(&child);
        (child, guard)
    }

    pub(crate) fn spawn_and_wait(self) -> Done {
        let (child, _guard) = self.spawn();
        let output = child.wait_with_output().unwrap();
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// JSON lines.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?}: {self:#?}"
        );
        self
    }
}
