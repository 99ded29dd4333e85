//! `rescind health`: asks the worker on this machine whether it is ready, for a container's
//! health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;

use super::text::Screen;
use super::{CommandError, Exit};
use crate::config::Config;

/// Longest wait for an answer; the worker gives its ledger two seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// Ask the worker on this machine whether it is ready; for a container's health check.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check liveness (/livez) instead of readiness (/readyz)
    #[arg(long)]
    live: bool,
}

/// Prints the worker's answer; exit code 8 if it is not ready, 7 if there is no worker.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    let path = if args.live { "/livez" } else { "/readyz" };
    let url = format!("http://{}{path}", reachable(config.listen));
    let client = reqwest::Client::builder()
        .tls_certs_only([])
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .context("cannot build the HTTP client")?;
    let nobody = |why: reqwest::Error| {
        let why = if why.is_timeout() {
            "it does not answer"
        } else {
            "the connection failed"
        };
        CommandError::unreachable(format!("no worker at http.listen, {url}: {why}"))
    };
    let answer = client.get(&url).send().await.map_err(nobody)?;
    let status = answer.status();
    screen.line(answer.text().await.map_err(nobody)?.trim_end())?;
    Ok(if status.is_success() {
        Exit::Done
    } else {
        Exit::Found
    })
}

/// A worker that listens on every address of the machine is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    SocketAddr::new(address, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_includes_loopback() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:8620"), "127.0.0.1:8620");
        assert_eq!(of("[::]:1"), "[::1]:1");
        assert_eq!(of("192.0.2.1:8620"), "192.0.2.1:8620");
    }
}
