//! `GET /v1/flows?cluster=NAME&source_port=N`: JSON lines, a flow each, as the kernel tells of them.
//!
//! ```text
//! thread: dump → lines ──4 chunks──► task: the patience ──4 chunks──► the body of the answer
//! ```
//!
//! Nothing is collected: a reader that is slow makes the kernel's dump wait, and one that takes nothing for a minute, or is
//! gone, ends it. A list that could not be read to its end says so in a last line, a [`Problem`]; one that was broken off
//! ends without HTTP's own end, so that nobody takes it for the whole.

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::Deserialize;
use shunt_core::ClusterName;
use shunt_core::flow::{Flow, Phase};
use tokio::sync::mpsc;

use super::api::{FlowLine, Problem, ProblemCode};
use super::server::{Shared, find, problem};
use crate::driver::{FlowList, FlowsError, error_chain};

/// So long may a reader take nothing. The agent's own memory does not suffer meanwhile, but a thread and a place do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines go out in pieces of about this size.
const CHUNK: usize = 32 * 1024;
/// Pieces that may wait at each of the two places.
const WAITING: usize = 4;

#[derive(Deserialize)]
pub struct FlowsQuery {
    cluster: Option<String>,
    source_port: Option<u16>,
}

pub async fn flows(
    State(agent): Shared,
    query: Result<Query<FlowsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| problem(ProblemCode::BadRequest, e.body_text()))?;
    let cluster = query.cluster.map(|name| find(&agent, &name)).transpose()?.map(|(name, _)| name);
    let list = agent.flows(cluster.as_ref(), query.source_port).await.map_err(|error| match error {
        FlowsError::Busy => Problem {
            hint: Some("try again when one of them is through".to_owned()),
            ..problem(ProblemCode::Busy, error.to_string())
        },
        FlowsError::Datapath(_) | FlowsError::Gone(_) => problem(ProblemCode::Failed, error_chain(&error)),
    })?;
    let failed = |e: io::Error| problem(ProblemCode::Failed, format!("cannot start a thread: {e}"));
    let pieces = start(list, PATIENCE).map_err(failed)?;
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::new(Pieces(pieces))).into_response())
}

/// What goes through the channels.
enum Piece {
    Lines(Bytes),
    /// The list is whole, or has said that it is not.
    End,
}

/// Reads the list on a thread of its own. What comes out ends without [`Piece::End`] when nobody took it in time.
fn start(list: FlowList, patience: Duration) -> io::Result<mpsc::Receiver<Piece>> {
    let (lines, mut read) = mpsc::channel(WAITING);
    let (pieces, taken) = mpsc::channel(WAITING);
    std::thread::Builder::new().name("flows".to_owned()).spawn(move || write_lines(list, &lines))?;
    tokio::spawn(async move {
        while let Some(piece) = read.recv().await {
            match pieces.send_timeout(piece, patience).await {
                Ok(()) => {}
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    tracing::info!(?patience, "a list of flows is not taken and is broken off");
                    return;
                }
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return,
            }
        }
    });
    Ok(taken)
}

fn write_lines(list: FlowList, out: &mpsc::Sender<Piece>) {
    let mut lines = Vec::with_capacity(CHUNK * 2);
    let mut broken_off = false;
    let read = list.read(|cluster, flow| {
        put_line(&mut lines, &line(cluster, flow));
        if lines.len() < CHUNK {
            return ControlFlow::Continue(());
        }
        let piece = Piece::Lines(Bytes::copy_from_slice(&lines));
        lines.clear();
        broken_off = out.blocking_send(piece).is_err();
        if broken_off { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if broken_off {
        return;
    }
    if let Err(error) = read {
        tracing::warn!(error = error_chain(&error), "flows could not be listed to the end");
        put_line(&mut lines, &problem(ProblemCode::Failed, error_chain(&error)));
    }
    // Nobody may be there any more to take them.
    let _ = out.blocking_send(Piece::Lines(lines.into())).and_then(|()| out.blocking_send(Piece::End));
}

fn put_line(lines: &mut Vec<u8>, line: &impl serde::Serialize) {
    let before = lines.len();
    if let Err(error) = serde_json::to_writer(&mut *lines, line) {
        // Not possible with these types; half a line must not stay.
        tracing::error!(%error, "a line cannot be written as JSON");
        lines.truncate(before);
        return;
    }
    lines.push(b'\n');
}

fn line(cluster: &ClusterName, flow: &Flow) -> FlowLine {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    FlowLine {
        cluster: cluster.clone(),
        client: flow.tuple.client,
        listener: flow.tuple.listener,
        seen_as: flow.seen_as,
        backend: flow.backend,
        state: match flow.phase {
            Phase::Opening => "opening",
            Phase::Established => "established",
            Phase::Closing => "closing",
        }
        .to_owned(),
        age_ms: flow.age.map(milliseconds),
        idle_ms: flow.idle.map(milliseconds),
        bytes_to_backend: flow.traffic.map(|traffic| traffic.to_backend),
        bytes_to_client: flow.traffic.map(|traffic| traffic.to_client),
    }
}

/// The pieces as a body.
struct Pieces(mpsc::Receiver<Piece>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match ready!(self.0.poll_recv(context)) {
            Some(Piece::Lines(lines)) => Some(Ok(Frame::data(lines))),
            Some(Piece::End) => None,
            None => Some(Err(io::Error::other("the list was broken off"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use shunt_core::datapath::{DatapathError, Meter, Refused, Usage};
    use shunt_core::flow::{FlowFilter, Tuple};

    use super::*;

    const LISTENER: &str = "10.0.0.2:3306";

    /// Tells the same flow over and over: so many times and then fails, or until nobody wants more. Says when it is done.
    struct Endless {
        fails_after: Option<u32>,
        _done: tokio::sync::oneshot::Sender<()>,
    }

    impl Meter for Endless {
        fn connections(&mut self, _: &[SocketAddr]) -> Result<BTreeMap<SocketAddr, u64>, DatapathError> {
            unreachable!("only flows are listed")
        }

        fn flows(
            &mut self,
            _: &FlowFilter,
            each: &mut dyn FnMut(Flow) -> ControlFlow<()>,
        ) -> Result<(), DatapathError> {
            let address = |text: &str| text.parse().unwrap();
            let flow = Flow {
                tuple: Tuple { client: address("10.1.2.3:40000"), listener: address(LISTENER) },
                backend: address("10.0.0.11:3306"),
                seen_as: address("10.0.0.2:41234"),
                phase: Phase::Established,
                traffic: None,
                age: None,
                idle: Some(Duration::from_secs(7)),
            };
            let mut told = 0;
            loop {
                if self.fails_after == Some(told) {
                    return Err(DatapathError::Unsupported("enough of this".to_owned()));
                }
                if each(flow).is_break() {
                    return Ok(());
                }
                told += 1;
            }
        }

        fn usage(&mut self, _: &[SocketAddr]) -> Result<Usage, DatapathError> {
            unreachable!("only flows are listed")
        }

        fn refused(&mut self) -> Result<BTreeMap<SocketAddr, Refused>, DatapathError> {
            unreachable!("only flows are listed")
        }
    }

    /// The list, and what tells that its reading is over.
    fn list(fails_after: Option<u32>) -> (FlowList, tokio::sync::oneshot::Receiver<()>) {
        let (sender, done) = tokio::sync::oneshot::channel();
        let clusters = [(LISTENER.parse().unwrap(), ClusterName::new("orders").unwrap())].into();
        (FlowList::of(Box::new(Endless { fails_after, _done: sender }), clusters), done)
    }

    #[tokio::test]
    async fn a_list_that_nobody_takes_is_broken_off_and_never_looks_whole() {
        let (list, done) = list(None);
        let mut pieces = start(list, Duration::from_millis(10)).unwrap();
        done.await.expect_err("the meter is dropped when its reading is over");
        let mut taken = 0;
        while let Some(piece) = pieces.recv().await {
            assert!(matches!(piece, Piece::Lines(_)));
            taken += 1;
        }
        assert!(taken <= WAITING, "{taken} pieces waited");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_ends_the_reading() {
        let (list, done) = list(None);
        let pieces = start(list, PATIENCE).unwrap();
        drop(pieces);
        done.await.expect_err("the meter is dropped when its reading is over");
    }

    #[tokio::test]
    async fn a_list_that_fails_says_so_in_its_last_line() {
        let (list, _done) = list(Some(3));
        let mut pieces = start(list, PATIENCE).unwrap();
        let Some(Piece::Lines(text)) = pieces.recv().await else { panic!("there are lines") };
        assert!(matches!(pieces.recv().await, Some(Piece::End)));
        let lines: Vec<_> = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        let flow: FlowLine = serde_json::from_slice(lines[0]).unwrap();
        assert_eq!((flow.seen_as.port(), flow.idle_ms, flow.age_ms), (41_234, Some(7_000), None));
        let last: Problem = serde_json::from_slice(lines[3]).unwrap();
        assert!(last.error.contains("enough of this"), "{}", last.error);
    }
}
