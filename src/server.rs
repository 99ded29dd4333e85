//! The HTTP endpoints: metrics, liveness, readiness, and the providers' notifications.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::intake::Intake;
use crate::notice::Notices;
use crate::outbox::Outbox;
use crate::shared::Shared;

mod callers;

use callers::Callers;

/// Longest wait for the ledger's answer to a probe or a scrape.
const LEDGER_WAIT: Duration = Duration::from_secs(2);

/// What the endpoints look at.
pub struct Server {
    /// Ledger, metrics, stop signal.
    pub shared: Arc<Shared>,
    /// Whether requests are consumed.
    pub intake: Arc<Intake>,
    /// Whether results can be published.
    pub outbox: Arc<Outbox>,
    /// Takes the providers' notifications.
    pub notices: Arc<Notices>,
}

impl Server {
    /// Serves until `stop`.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/notifications/{provider}", post(notification))
            .with_state(self);
        axum::serve(Callers::of(listener), router)
            .with_graceful_shutdown(stop)
            .await
    }

    /// Whether the ledger can be read, and stored what it was given last.
    async fn ledger_answers(&self) -> bool {
        let stored = self.shared.unwritten.load(Ordering::Acquire) == 0;
        let read = match tokio::time::timeout(LEDGER_WAIT, self.shared.ledger.stats()).await {
            Ok(Ok(stats)) => {
                self.shared.metrics.stats(&stats);
                true
            }
            Ok(Err(_)) | Err(_) => false,
        };
        self.shared.metrics.ledger_answers(read && stored);
        read && stored
    }
}

async fn readyz(State(server): State<Arc<Server>>) -> Response {
    let consuming = server.intake.is_consuming();
    let publishing = server.outbox.is_publishing();
    let ledger = server.ledger_answers().await;
    let draining = server.shared.stop.is_cancelled();
    let notifications = server.notices.ready();
    let held = server.shared.hold.is_on();
    let ready = consuming && publishing && !held && notifications && ledger && !draining;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let checks = json!({
        "ready": ready,
        "checks": {
            "broker_consuming": consuming,
            "broker_publishing": publishing,
            "outbox_within_bound": !held,
            "notifications": notifications,
            "ledger": ledger,
            "not_draining": !draining,
        }
    });
    (status, Json(checks)).into_response()
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let consuming = server.intake.is_consuming();
    let publishing = server.outbox.is_publishing();
    // It does not consume while too much waits to be published: that is no lost connection.
    let held = server.shared.hold.is_on();
    server
        .shared
        .metrics
        .broker_connected((consuming || held) && publishing);
    // A ledger that does not answer leaves its gauges as they were; the counters still say
    // what goes on.
    server.ledger_answers().await;
    match server.shared.metrics.text() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn notification(
    State(server): State<Arc<Server>>,
    Path(provider): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> StatusCode {
    server.notices.receive(&provider, &headers, body).await
}
