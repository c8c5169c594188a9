//! The API on the Unix socket. Handlers translate: what to do is decided by the clusters' own tasks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use shunt_core::ClusterName;
use shunt_core::config::ClusterConfig;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::api::{
    Done, EventsAnswer, ListAnswer, PauseRequest, PinRequest, Problem, ProblemCode, ReloadAnswer, SCHEMA_VERSION,
    ShowAnswer, UnpinRequest,
};
use super::convert;
use super::flows::flows;
use super::operations::{self, Wish};
use super::peer::Peer;
use crate::driver::{self, Agent};

pub(super) type Shared = State<Arc<Agent>>;
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// A follower is told that nothing happened after this at the latest, and asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const MOST_EVENTS: u32 = 1000;
/// Longer than anybody means.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A request's body, or why it is none.
pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

pub(super) fn understood<T>(body: Body<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|e| problem(ProblemCode::BadRequest, e.body_text()))
}

/// Serves the API until the socket fails or `stop` resolves.
pub async fn serve_socket(
    listener: UnixListener,
    agent: Arc<Agent>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/v1/listeners", get(list))
        .route("/v1/clusters/{cluster}", get(show))
        .route("/v1/clusters/{cluster}/pin", post(pin))
        .route("/v1/clusters/{cluster}/unpin", post(unpin))
        .route("/v1/clusters/{cluster}/pause", post(pause))
        .route("/v1/clusters/{cluster}/resume", post(resume))
        .route("/v1/clusters/{cluster}/switchover", operations::call(Wish::Switchover))
        .route("/v1/clusters/{cluster}/failover", operations::call(Wish::Failover))
        .route("/v1/clusters/{cluster}/drill", operations::call(Wish::Drill))
        .route("/v1/clusters/{cluster}/abort", post(operations::abort))
        .route("/v1/clusters/{cluster}/rejoin", post(operations::rejoin))
        .route("/v1/clusters/{cluster}/clear", post(operations::clear))
        .route("/v1/events", get(events))
        .route("/v1/flows", get(flows))
        .route("/v1/reload", post(reload))
        .method_not_allowed_fallback(async || problem(ProblemCode::BadRequest, "this call takes another method"))
        .fallback(async || problem(ProblemCode::NotFound, "there is no such call in this version of the API"))
        .layer(from_fn(only_those_allowed))
        .with_state(agent)
        .into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        // A peer that the kernel cannot name is nobody.
        stream.io().peer_cred().map_or_else(|_| Self::new(u32::MAX, u32::MAX), |c| Self::new(c.uid(), c.gid()))
    }
}

async fn only_those_allowed(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    if peer.may_command() {
        return next.run(request).await;
    }
    problem(ProblemCode::NotAllowed, format!("{} is neither root nor in the group shunt", peer.name())).into_response()
}

async fn list(State(agent): Shared) -> Json<ListAnswer> {
    Json(convert::list(&agent).await)
}

async fn show(State(agent): Shared, Path(cluster): Path<String>) -> Answer<ShowAnswer> {
    let (name, _) = find(&agent, &cluster)?;
    let status = agent.status(&name).await.ok_or_else(|| unknown_cluster(&agent, &cluster))?;
    Ok(Json(convert::show(&agent, &status)))
}

async fn pin(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
    wanted: Body<PinRequest>,
) -> Answer<Done> {
    let wanted = understood(wanted)?;
    let (name, config) = find(&agent, &cluster)?;
    let server = find_server(&config, &wanted.server)?;
    let listener = wanted.listener.as_deref().map(|l| find_listener(&config, l)).transpose()?;
    let (confirmed, by) = (wanted.confirmed, peer.name());
    ask(&agent, &name, |reply| driver::Request::Pin { server, listener, confirmed, by, reply }).await
}

async fn unpin(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
    wanted: Body<UnpinRequest>,
) -> Answer<Done> {
    let wanted = understood(wanted)?;
    let (name, config) = find(&agent, &cluster)?;
    let listener = wanted.listener.as_deref().map(|l| find_listener(&config, l)).transpose()?;
    ask(&agent, &name, |reply| driver::Request::Unpin { listener, by: peer.name(), reply }).await
}

async fn pause(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
    wanted: Body<PauseRequest>,
) -> Answer<Done> {
    let wanted = understood(wanted)?;
    let (name, _) = find(&agent, &cluster)?;
    if wanted.reason.trim().is_empty() {
        return Err(problem(ProblemCode::BadRequest, "a pause needs a reason"));
    }
    if wanted.for_seconds.is_some_and(|seconds| !(1..=LONGEST_PAUSE.as_secs()).contains(&seconds)) {
        return Err(problem(
            ProblemCode::BadRequest,
            "a pause takes from one second to ten years, or ends when resumed",
        ));
    }
    let time = wanted.for_seconds.map(Duration::from_secs);
    let (reason, by) = (wanted.reason, peer.name());
    ask(&agent, &name, |reply| driver::Request::Pause { time, reason, by, reply }).await
}

async fn resume(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
) -> Answer<Done> {
    let (name, _) = find(&agent, &cluster)?;
    ask(&agent, &name, |reply| driver::Request::Resume { by: peer.name(), reply }).await
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    after: i64,
    cluster: Option<String>,
    limit: Option<u32>,
    #[serde(default)]
    wait_ms: u64,
    /// The newest `limit` instead of the oldest.
    #[serde(default)]
    newest: bool,
}

async fn events(State(agent): Shared, query: Result<Query<EventsQuery>, QueryRejection>) -> Answer<EventsAnswer> {
    let Query(query) = query.map_err(|e| problem(ProblemCode::BadRequest, e.body_text()))?;
    // A cluster that was removed still has a history.
    let cluster = query
        .cluster
        .map(|name| ClusterName::new(name).map_err(|e| problem(ProblemCode::BadRequest, e.to_string())))
        .transpose()?;
    if let Some(name) = cluster.clone().filter(|name| !agent.cluster_names().contains(name)) {
        let wanted = name.to_string();
        let history = agent.journal().with(move |store| store.latest_events(Some(&name), 1)).await;
        if history.is_ok_and(|events| events.is_empty()) {
            return Err(unknown_cluster(&agent, &wanted));
        }
    }
    let limit = query.limit.unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
    let found = if query.newest {
        agent.journal().with(move |store| store.latest_events(cluster.as_ref(), limit)).await
    } else {
        let patience = Duration::from_millis(query.wait_ms).min(LONGEST_WAIT);
        agent.journal().events(query.after, cluster, limit, patience).await
    };
    let events = found.map_err(|e| problem(ProblemCode::Failed, driver::error_chain(&e)))?;
    Ok(Json(EventsAnswer { schema_version: SCHEMA_VERSION, events: events.into_iter().map(convert::event).collect() }))
}

async fn reload(State(agent): Shared, ConnectInfo(peer): ConnectInfo<Peer>) -> Answer<ReloadAnswer> {
    agent.reload(&peer.name()).await.map(Json).map_err(|e| Problem {
        hint: Some("mend the files, see `shunt config check`, and reload again".to_owned()),
        details: Some(e.diagnostics.clone()),
        ..problem(ProblemCode::BadConfiguration, e.to_string())
    })
}

pub(super) async fn ask(
    agent: &Agent,
    cluster: &ClusterName,
    request: impl FnOnce(oneshot::Sender<Result<String, Problem>>) -> driver::Request,
) -> Answer<Done> {
    let (reply, answer) = oneshot::channel();
    let requests = agent.requests(cluster).ok_or_else(|| gone(cluster))?;
    requests.send(request(reply)).await.map_err(|_| gone(cluster))?;
    Ok(Json(Done::new(answer.await.map_err(|_| gone(cluster))??)))
}

pub(super) fn gone(cluster: &ClusterName) -> Problem {
    problem(ProblemCode::Failed, format!("cluster {cluster} has just been removed"))
}

pub(super) fn find(agent: &Agent, cluster: &str) -> Result<(ClusterName, ClusterConfig), Problem> {
    let name = ClusterName::new(cluster).map_err(|_| unknown_cluster(agent, cluster))?;
    let config = agent.cluster_config(&name).ok_or_else(|| unknown_cluster(agent, cluster))?;
    Ok((name, config))
}

pub(super) fn unknown_cluster(agent: &Agent, cluster: &str) -> Problem {
    let known: Vec<_> = agent.cluster_names().iter().map(ToString::to_string).collect();
    let hint = nearest(cluster, &known)
        .map_or_else(|| "`shunt list` shows the clusters".to_owned(), |near| format!("did you mean `{near}`?"));
    Problem { hint: Some(hint), ..problem(ProblemCode::NotFound, format!("there is no cluster `{cluster}`")) }
}

/// A server by its name or address, with or without the port.
pub(super) fn find_server(config: &ClusterConfig, wanted: &str) -> Result<SocketAddr, Problem> {
    let ip = wanted.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let matches = |s: &&shunt_core::config::ServerConfig| {
        s.label == wanted
            || s.address.to_string() == wanted
            || Some(s.address.ip()) == ip
            || s.label.rsplit_once(':').is_some_and(|(host, _)| host == wanted)
    };
    let found: Vec<_> = config.servers.iter().filter(matches).collect();
    match found[..] {
        [one] => Ok(one.address),
        [] => {
            let names: Vec<_> = config.servers.iter().map(|s| s.label.clone()).collect();
            let all = format!("its servers: {}", names.join(", "));
            let hint = Some(meant(wanted, &names).map_or(all.clone(), |near| format!("did you mean `{near}`? {all}")));
            let error = format!("cluster {} has no server `{wanted}`", config.name);
            Err(Problem { hint, ..problem(ProblemCode::NotFound, error) })
        }
        _ => Err(problem(ProblemCode::BadRequest, format!("`{wanted}` is more than one server: give the port too"))),
    }
}

/// The one server that is likely to be meant, if its name says more than an address: addresses all look alike.
fn meant<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let hosts: Vec<_> =
        names.iter().map(|name| name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host)).collect();
    let named: Vec<_> = hosts.iter().filter(|host| host.parse::<IpAddr>().is_err()).map(ToString::to_string).collect();
    let near = nearest(wanted.rsplit_once(':').map_or(wanted, |(host, _)| host), &named)?;
    names.iter().zip(hosts).find(|(_, host)| host == near).map(|(name, _)| name.as_str())
}

fn find_listener(config: &ClusterConfig, wanted: &str) -> Result<SocketAddr, Problem> {
    let found = config.listeners.iter().find(|l| l.address.to_string() == wanted);
    found.map(|l| l.address).ok_or_else(|| {
        let names: Vec<_> = config.listeners.iter().map(|l| l.address.to_string()).collect();
        let error = format!("cluster {} has no listener `{wanted}`", config.name);
        Problem { hint: Some(format!("its listeners: {}", names.join(", "))), ..problem(ProblemCode::NotFound, error) }
    })
}

fn nearest<'a>(wanted: &str, known: &'a [String]) -> Option<&'a String> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

pub(super) fn problem(code: ProblemCode, error: impl Into<String>) -> Problem {
    Problem { schema_version: SCHEMA_VERSION, code, error: error.into(), hint: None, details: None }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.code {
            ProblemCode::BadRequest => StatusCode::BAD_REQUEST,
            ProblemCode::NotAllowed => StatusCode::FORBIDDEN,
            ProblemCode::NotFound => StatusCode::NOT_FOUND,
            ProblemCode::NeedsConfirmation | ProblemCode::RefusedByRule => StatusCode::CONFLICT,
            ProblemCode::BadConfiguration => StatusCode::UNPROCESSABLE_ENTITY,
            ProblemCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
            ProblemCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self)).into_response()
    }
}
