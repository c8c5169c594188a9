//! `shunt agent`: the daemon, from its start to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Args, Exit};
use crate::control;
use crate::driver::{Agent, Paths, StartError};
use crate::output::{self, Failure};
use crate::telemetry;

/// Clusters are light, and what blocks has threads of its own. With one thread the tasks wake each other without a system
/// call: measured, a quarter less CPU for 300 probes than with two.
const THREADS: usize = 1;

pub fn run(args: &Args) -> Result<(), Failure> {
    telemetry::init_log();
    let paths = Paths { config: args.config.clone(), state: args.state.clone(), socket: args.socket.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start").because(&error))?;
    let outcome = runtime.block_on(serve(paths));
    // A resolver that does not answer must not keep us.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(paths: Paths) -> Result<(), Failure> {
    // The socket comes first: it shows at once whether an agent runs already, before anything is touched.
    let bound = control::bind(&paths.socket).await;
    let (socket, _file) = bound.map_err(|error| Failure::new("cannot start").because(&error))?;
    let agent = match Agent::start(paths).await {
        Ok(agent) => agent,
        Err(StartError::Config(diagnostics)) => {
            output::note(&diagnostics);
            return Err(Failure::new("the agent's configuration is in error").with_exit(Exit::Usage));
        }
        Err(error) => {
            let failure = Failure::new("cannot start").because(&error);
            return Err(match error.hint() {
                Some(hint) => failure.hint(hint),
                None => failure,
            });
        }
    };
    if let Some(address) = agent.settings().http {
        tokio::spawn(serve_pages(address, agent.clone()));
    }
    let (stop, stopped) = watch::channel(false);
    let mut api = tokio::spawn(control::serve_socket(socket, agent.clone(), async move {
        let mut stopped = stopped;
        // An error means that the sender is gone, and so is the daemon.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    telemetry::ready(&agent).await;
    tokio::spawn(telemetry::watch(agent.clone()));

    let outcome = tokio::select! {
        outcome = until_stopped(&agent) => outcome,
        ended = &mut api => Err(Failure::new(format!("the API ended: {ended:?}"))),
    };
    telemetry::stopping();
    stop.send_replace(true);
    tracing::info!("stopping; the mappings stay in the kernel");
    outcome
}

/// The read-only pages. That they cannot be served is no reason not to fail over: it is logged, and tried again.
async fn serve_pages(address: SocketAddr, agent: Arc<Agent>) {
    loop {
        let served = match TcpListener::bind(address).await {
            Ok(listener) => {
                agent.note_pages(None);
                control::serve_http(listener, agent.clone()).await
            }
            Err(error) => Err(error),
        };
        agent.note_pages(served.err().map(|error| format!("http = \"{address}\" cannot be served: {error}")));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// SIGTERM and SIGINT end the daemon, SIGHUP reloads.
async fn until_stopped(agent: &Arc<Agent>) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new("cannot listen to signals").because(&error));
    let (mut term, mut int, mut hup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => {
                telemetry::reloading();
                let agent = agent.clone();
                tokio::spawn(async move {
                    if let Err(error) = agent.reload("SIGHUP").await {
                        tracing::error!("{error}\n{}", error.diagnostics);
                    }
                });
            }
        }
    }
}
