//! The scripts that start what the tests need: `deploy/broker`, `deploy/database`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// One of them.
pub(super) struct Script {
    pub(super) program: &'static str,
    /// Names what somebody lent us, if anything.
    pub(super) lent: &'static str,
}

impl Script {
    /// `PROGRAM COMMAND DIR ARGUMENTS...`
    pub(super) fn command<'a>(
        &self,
        dir: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut arguments = arguments.into_iter();
        let mut command = Command::new(super::project(self.program));
        command
            .args(arguments.next())
            .arg(dir)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// What it prints.
    pub(super) fn run<'a>(
        &self,
        dir: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
        given: bool,
    ) -> String {
        let mut command = self.command(dir, arguments);
        if !given {
            // A test that breaks its own never does that to the one somebody lent us.
            command.env_remove(self.lent);
        }
        let output = command.output().expect("the script runs");
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let text = String::from_utf8(output.stdout).expect("text");
        text.trim_end().to_owned()
    }
}

/// It ends with this process, and takes its folder with it.
pub(super) fn start_arguments() -> Vec<&'static str> {
    static PARENT: OnceLock<String> = OnceLock::new();
    let parent = PARENT.get_or_init(|| std::process::id().to_string());
    vec!["start", "--with-parent", parent, "--temporary"]
}
