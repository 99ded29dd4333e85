//! A connection that took too long to make, by either clock, carries no call: the machine was suspended
//! meanwhile, and others may have its work by now.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use tower::{BoxError, Layer, Service};

use crate::since::Since;

/// Puts [`Watched`] around whatever connects.
#[derive(Clone)]
pub(super) struct Watch {
    /// The longest that connecting may take.
    pub(super) most: Duration,
    /// The wall clock.
    pub(super) clock: fn() -> Timestamp,
}

impl<S> Layer<S> for Watch {
    type Service = Watched<S>;

    fn layer(&self, connector: S) -> Watched<S> {
        let watch = self.clone();
        Watched { connector, watch }
    }
}

/// Connects, and gives the connection up if that took too long. The library's own limit counts by the steady
/// clock alone.
#[derive(Clone)]
pub(super) struct Watched<S> {
    connector: S,
    watch: Watch,
}

impl<S, A> Service<A> for Watched<S>
where
    S: Service<A, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, address: A) -> Self::Future {
        let Watch { most, clock } = self.watch;
        let since = Since::now(clock());
        let connecting = self.connector.call(address);
        Box::pin(async move {
            let connection = connecting.await?;
            if since.is_over(most, clock()) {
                return Err("the worker was held up while it connected".into());
            }
            Ok(connection)
        })
    }
}
