//! The `rescind` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider of TLS for HTTP and AMQP alike; a second installation cannot happen here.
    drop(rustls::crypto::ring::default_provider().install_default());
    // The environment is read once, here, and passed on.
    let environment = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    rescind::cli::main(environment)
}
