//! Dead letters in the hands of people: the real binary beside a real worker, broker and
//! simulated providers.

mod bad_input;
mod beside;
mod discard;
mod look;
mod replay;
mod stop;
mod world;

use std::time::Duration;

/// For things that take some seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
