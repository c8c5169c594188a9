//! `POST /v1/clusters/NAME/switchover`, `failover`, `drill`, `abort`, `rejoin`, `clear`: from a request to an intent, and the little
//! that the status tells of whether it makes sense. What the rules say is decided by the cluster's own task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use axum::routing::{MethodRouter, post};
use shunt_core::cluster::{ClusterStatus, Verdict};
use shunt_core::config::FailoverMode;
use shunt_core::operation::{Intent, Kind};
use tokio::sync::oneshot;

use super::api::{Done, OperateAnswer, OperateRequest, Problem, ProblemCode, SCHEMA_VERSION, ServerRequest};
use super::peer::Peer;
use super::server::{Answer, Body, Shared, ask, find, find_server, gone, problem, understood, unknown_cluster};
use crate::driver::{self, Agent};

/// What sessions inside a transaction get when nobody says how long.
const GRACE: Duration = Duration::from_secs(2);
/// New connections wait meanwhile: nobody means more.
const LONGEST_GRACE: Duration = Duration::from_secs(600);

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Switchover,
    Failover,
    /// A failover of a primary that is well; its dry run is that of a switchover, which needs the most.
    Drill,
}

/// The call that begins what is wished for.
pub fn call(wish: Wish) -> MethodRouter<Arc<Agent>> {
    post(move |agent, peer, cluster, wanted| operate(agent, peer, cluster, wanted, wish))
}

pub async fn abort(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
) -> Answer<Done> {
    let (name, _) = find(&agent, &cluster)?;
    ask(&agent, &name, |reply| driver::Request::Abort { by: peer.name(), reply }).await
}

pub async fn rejoin(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
    wanted: Body<ServerRequest>,
) -> Answer<Done> {
    let wanted = understood(wanted)?;
    let (name, config) = find(&agent, &cluster)?;
    let server = find_server(&config, &wanted.server)?;
    if config.failover == FailoverMode::Follow {
        return Err(follows(name.as_str()));
    }
    let status = agent.status(&name).await.ok_or_else(|| unknown_cluster(&agent, &cluster))?;
    if status.primary == Some(server) {
        let error =
            format!("{} is the primary of {name}: there is nothing that it could follow", label(&status, server));
        return Err(problem(ProblemCode::BadRequest, error));
    }
    ask(&agent, &name, |reply| driver::Request::Rejoin { server, by: peer.name(), reply }).await
}

/// Taking a mark away changes no server, so a cluster that is followed may be cleared of marks from before.
pub async fn clear(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
    wanted: Body<ServerRequest>,
) -> Answer<Done> {
    let wanted = understood(wanted)?;
    let (name, config) = find(&agent, &cluster)?;
    let server = find_server(&config, &wanted.server)?;
    let status = agent.status(&name).await.ok_or_else(|| unknown_cluster(&agent, &cluster))?;
    if !status.outcasts.iter().any(|outcast| outcast.server == server) {
        return Ok(Json(Done::new(format!("{} of {name} was not cast out", label(&status, server)))));
    }
    ask(&agent, &name, |reply| driver::Request::Clear { server, by: peer.name(), reply }).await
}

async fn operate(
    State(agent): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(cluster): Path<String>,
    wanted: Body<OperateRequest>,
    wish: Wish,
) -> Answer<OperateAnswer> {
    let wanted = understood(wanted)?;
    let (name, config) = find(&agent, &cluster)?;
    let to = wanted.to.as_deref().map(|server| find_server(&config, server)).transpose()?;
    let intent = intent(wish, &wanted, to, &peer.name())?;
    let status = agent.status(&name).await.ok_or_else(|| unknown_cluster(&agent, &cluster))?;
    if let Some(refusal) = refusal(&status, wish) {
        return Err(refusal);
    }
    Ok(Json(OperateAnswer { schema_version: SCHEMA_VERSION, op: begin(&agent, &name, intent).await? }))
}

async fn begin(agent: &Arc<Agent>, cluster: &shunt_core::ClusterName, intent: Intent) -> Result<u64, Problem> {
    let (reply, answer) = oneshot::channel();
    let requests = agent.requests(cluster).ok_or_else(|| gone(cluster))?;
    requests.send(driver::Request::Operate { intent, reply }).await.map_err(|_| gone(cluster))?;
    Ok(answer.await.map_err(|_| gone(cluster))??.0)
}

fn intent(wish: Wish, wanted: &OperateRequest, to: Option<SocketAddr>, by: &str) -> Result<Intent, Problem> {
    let unfit = |what: &str| Err(problem(ProblemCode::BadRequest, what));
    if wish != Wish::Switchover && wanted.grace_ms.is_some() {
        return unfit("only a switchover gives sessions a grace");
    }
    if wish != Wish::Failover && wanted.allow_data_loss {
        return unfit("only a failover may lose data");
    }
    let grace = wanted.grace_ms.map_or(GRACE, Duration::from_millis);
    if grace > LONGEST_GRACE {
        return unfit("a grace takes ten minutes at most: new connections wait meanwhile");
    }
    let rehearsed = wish == Wish::Drill && wanted.dry_run;
    Ok(Intent {
        kind: if wish == Wish::Switchover || rehearsed { Kind::Switchover } else { Kind::Failover },
        to,
        grace,
        allow_loss: wanted.allow_data_loss,
        dry_run: wanted.dry_run,
        by: if wish == Wish::Drill { format!("{by}, as a drill") } else { by.to_owned() },
    })
}

/// What keeps a drill from being one. That something else is under way is for the cluster's own rules to say.
fn refusal(status: &ClusterStatus, wish: Wish) -> Option<Problem> {
    let cluster = status.name.as_str();
    if status.operation.is_some() {
        return None;
    }
    (wish == Wish::Drill).then(|| unwell(status)).flatten().map(|why| Problem {
        hint: Some(format!("a drill is for a cluster that is well; `shunt show {cluster}` tells more")),
        ..rule(format!("{cluster} is not well: {why}"))
    })
}

/// Why a failover on purpose would not be a drill but an accident.
fn unwell(status: &ClusterStatus) -> Option<String> {
    if status.verdict != Verdict::Healthy {
        return Some(format!("the verdict is {}: {}", status.verdict, status.reasons.join("; ")));
    }
    if let Some(silent) = status.servers.iter().find(|s| !s.answers) {
        return Some(format!("{} does not answer", silent.label));
    }
    let outcast = status.outcasts.first()?;
    Some(format!("{} was cast out and has not rejoined", label(status, outcast.server)))
}

fn follows(cluster: &str) -> Problem {
    Problem {
        hint: Some(
            "promote a server by what promotes there, and shunt leads to it; failover = \"promote\" or \"off\" in the \
             cluster's file lets shunt do it"
                .to_owned(),
        ),
        ..rule(format!("shunt follows {cluster} and changes none of its servers"))
    }
}

fn rule(error: String) -> Problem {
    problem(ProblemCode::RefusedByRule, error)
}

fn label(status: &ClusterStatus, server: SocketAddr) -> String {
    let known = status.servers.iter().find(|s| s.address == server);
    known.map_or_else(|| server.to_string(), |s| s.label.clone())
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
