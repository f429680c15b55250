//! The admin address: read-only HTTP for people, Prometheus and load balancers.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{control::handle::Control, control::status::Status, metrics::Metrics};

/// A control loop that has not answered for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// The admin address could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the admin address {address}: {source}; choose another with edge.admin")]
pub struct AdminError {
    /// As configured.
    pub address: SocketAddr,
    /// What the system said.
    pub source: std::io::Error,
}

#[derive(Clone)]
struct Admin {
    control: Control,
    metrics: Metrics,
}

/// Binds the admin address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError { address, source })
}

/// Serves until dropped.
pub async fn serve(socket: TcpListener, control: Control, metrics: Metrics) {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(show_status))
        .with_state(Admin { control, metrics });
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(%error, "the admin address serves no more");
    }
}

impl Admin {
    async fn status(&self) -> Result<Status, Response> {
        let answer = tokio::time::timeout(PATIENCE, self.control.status()).await;
        let stuck = || (StatusCode::SERVICE_UNAVAILABLE, "the control loop does not answer\n").into_response();
        answer.ok().flatten().ok_or_else(stuck)
    }
}

async fn livez(State(admin): State<Admin>) -> Response {
    match admin.status().await {
        Ok(_) => (StatusCode::OK, "alive\n").into_response(),
        Err(response) => response,
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.status().await {
        Ok(status) if status.ready => (StatusCode::OK, "ready\n").into_response(),
        Ok(status) => {
            let why = if status.draining { "draining".to_owned() } else { status.not_ready.join("\n") };
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        }
        Err(response) => response,
    }
}

async fn show_status(State(admin): State<Admin>) -> Response {
    match admin.status().await {
        Ok(status) => match serde_json::to_vec_pretty(&status) {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        },
        Err(response) => response,
    }
}

async fn show_metrics(State(admin): State<Admin>) -> Response {
    let status = match admin.status().await {
        Ok(status) => status,
        Err(response) => return response,
    };
    match admin.metrics.render(&status) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
