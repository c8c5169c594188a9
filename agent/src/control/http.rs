//! What anybody may read over HTTP: metrics, health, and a page for people. Nothing here changes anything.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;

use super::convert;
use crate::driver::Agent;
use crate::telemetry;

/// Serves the pages until the socket fails.
pub async fn serve_http(listener: TcpListener, agent: Arc<Agent>) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(agent);
    axum::serve(listener, routes).await
}

async fn metrics(State(agent): State<Arc<Agent>>) -> impl IntoResponse {
    let text = telemetry::metrics_text(&agent).await;
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// 200 while every part of the agent gets round to its work, whatever the clusters are like: restarting the agent would
/// not mend a cluster.
async fn health(State(agent): State<Arc<Agent>>) -> (StatusCode, &'static str) {
    if agent.is_alive(std::time::Duration::from_secs(2)).await {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a part of the agent does not answer\n")
    }
}

async fn page(State(agent): State<Arc<Agent>>) -> Html<String> {
    let list = convert::list(&agent).await;
    let mut rows = String::new();
    for l in &list.listeners {
        let backends = if l.backends.is_empty() { "nobody".to_owned() } else { l.backends.join(", ") };
        let connections = l.connections.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let mark = match (l.pinned, l.paused) {
            (true, true) => "pinned, paused",
            (true, false) => "pinned",
            (false, true) => "paused",
            (false, false) => "",
        };
        // Writing to a String cannot fail.
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class={}>{}</td><td>{}</td><td>{}</td><td>{connections}</td><td>{}</td><td>{mark}</td></tr>",
            escape(l.cluster.as_str()),
            role(l.role),
            l.listener,
            backends,
            l.state,
            l.state,
            l.verdict,
            l.epoch,
            l.since,
        );
    }
    let mut under_way = String::new();
    for o in &list.operations {
        let cluster = escape(o.cluster.as_str());
        let to = o.chosen.as_ref().map_or_else(String::new, |server| format!(" to {}", escape(server)));
        let _ = write!(
            under_way,
            "<li><b>{cluster}</b> {} {}{to}: {}, begun {}</li>",
            o.kind.word(),
            o.op,
            o.step,
            o.since
        );
    }
    let mut outcasts = String::new();
    for o in &list.outcasts {
        let (cluster, server) = (escape(o.cluster.as_str()), escape(&o.name));
        let why = o
            .reason
            .as_deref()
            .map_or_else(|| "not yet compared".to_owned(), |why| format!("quarantined: {}", escape(why)));
        let _ = write!(outcasts, "<li><b>{cluster}</b> {server}: {why}</li>");
    }
    let mut alarms = String::new();
    for a in &list.alarms {
        let cluster = a.cluster.as_ref().map_or("agent", |c| c.as_str());
        let (cluster, message) = (escape(cluster), escape(&a.message));
        let _ = write!(alarms, "<li><b>{cluster}</b> {}: {message}</li>", a.alarm.word());
    }
    let lists = [("Under way", under_way), ("Cast out", outcasts), ("Alarms", alarms)];
    let mut sections = String::new();
    for (heading, items) in lists.iter().filter(|(_, items)| !items.is_empty()) {
        let _ = write!(sections, "<h2>{heading}</h2><ul>{items}</ul>");
    }
    Html(format!(include_str!("page.html"), rows = rows, lists = sections, version = env!("CARGO_PKG_VERSION")))
}

const fn role(role: shunt_core::config::ListenerRole) -> &'static str {
    match role {
        shunt_core::config::ListenerRole::Primary => "primary",
        shunt_core::config::ListenerRole::Replica => "replica",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
