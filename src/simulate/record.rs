//! The money record on disk: a line for each effect, synced before the answer goes out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use tokio::sync::oneshot;

use super::payment::Effect;

/// Resolves when the line is on disk; an error means that it could not be written.
pub(super) type Written = oneshot::Receiver<()>;

struct Line {
    text: String,
    done: oneshot::Sender<()>,
}

/// Hands lines to the one thread that writes them.
pub(super) struct Recorder {
    lines: Sender<Line>,
}

impl Recorder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let (lines, received) = channel();
        thread::Builder::new()
            .name("money-record".to_owned())
            .spawn(move || write_all(file, &received))?;
        Ok(Self { lines })
    }

    /// Queues an effect. Called under the book's lock, so that the file keeps the order of effects.
    pub(super) fn append(&self, effect: &Effect) -> Written {
        let (done, written) = oneshot::channel();
        if let Ok(text) = serde_json::to_string(effect) {
            // A writer that is gone drops the line and with it `done`: the caller sees the failure.
            self.lines.send(Line { text, done }).ok();
        }
        written
    }
}

/// Writes what is there with one sync for all of it, so that many calls share one wait.
fn write_all(mut file: File, lines: &Receiver<Line>) {
    while let Ok(first) = lines.recv() {
        let batch: Vec<Line> = std::iter::once(first).chain(lines.try_iter()).collect();
        let text: String = batch
            .iter()
            .map(|line| format!("{}\n", line.text))
            .collect();
        if let Err(error) = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_data())
        {
            tracing::error!(%error, "the money record cannot be written");
            continue;
        }
        for line in batch {
            // The caller may have hung up; the line is on disk all the same.
            line.done.send(()).ok();
        }
    }
}
