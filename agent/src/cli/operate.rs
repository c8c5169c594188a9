//! The commands that change something at once: pin, unpin, pause, resume, abort, rejoin, clear, reload.

use std::fmt::Write as _;

use super::{Args, args, block_on};
use crate::control::api::{Done, PauseRequest, PinRequest, ProblemCode, ReloadAnswer, ServerRequest, UnpinRequest};
use crate::control::client::{Client, ClientError};
use crate::output::{self, Failure};

pub fn pin(args: &Args, options: &args::Pin) -> Result<(), Failure> {
    let path = call(&options.cluster, "pin");
    let mut request =
        PinRequest { server: options.server.clone(), listener: options.listener.clone(), confirmed: options.yes };
    block_on(async {
        let client = Client::new(&args.socket);
        let mut answer = client.post::<Done>(&path, &request).await;
        if let Err(ClientError::Refused(problem)) = &answer
            && problem.code == ProblemCode::NeedsConfirmation
            && output::confirm(&format!("{}. Pin {} to it all the same?", problem.error, options.cluster))
        {
            request.confirmed = true;
            answer = client.post(&path, &request).await;
        }
        output::note(&answer?.message);
        Ok(())
    })
}

pub fn unpin(args: &Args, options: &args::Unpin) -> Result<(), Failure> {
    let request = UnpinRequest { listener: options.listener.clone() };
    post(args, &call(&options.cluster, "unpin"), &request)
}

pub fn pause(args: &Args, options: &args::Pause) -> Result<(), Failure> {
    // Never shorter than asked for.
    let for_seconds = options.time.map(|t| t.as_secs() + u64::from(t.subsec_nanos() > 0));
    let request = PauseRequest { for_seconds, reason: options.reason.clone() };
    post(args, &call(&options.cluster, "pause"), &request)
}

pub fn resume(args: &Args, options: &args::OneCluster) -> Result<(), Failure> {
    post(args, &call(&options.cluster, "resume"), &())
}

pub fn abort(args: &Args, options: &args::OneCluster) -> Result<(), Failure> {
    post(args, &call(&options.cluster, "abort"), &())
}

pub fn rejoin(args: &Args, options: &args::OneServer) -> Result<(), Failure> {
    post(args, &call(&options.cluster, "rejoin"), &ServerRequest { server: options.server.clone() })
}

pub fn clear(args: &Args, options: &args::OneServer) -> Result<(), Failure> {
    post(args, &call(&options.cluster, "clear"), &ServerRequest { server: options.server.clone() })
}

pub fn reload(args: &Args) -> Result<(), Failure> {
    let answer: ReloadAnswer = block_on(async { Ok(Client::new(&args.socket).post("/v1/reload", &()).await?) })?;
    if !answer.diagnostics.is_empty() {
        output::note(&answer.diagnostics);
    }
    let names = |list: &[shunt_core::ClusterName]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut text = String::from("reloaded");
    for (what, list) in [("added", &answer.added), ("changed", &answer.changed), ("removed", &answer.removed)] {
        if !list.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {what}: {}", names(list));
        }
    }
    output::note(&text);
    Ok(())
}

fn post(args: &Args, path: &str, request: &impl serde::Serialize) -> Result<(), Failure> {
    let done: Done = block_on(async { Ok(Client::new(&args.socket).post(path, request).await?) })?;
    output::note(&done.message);
    Ok(())
}

pub fn call(cluster: &str, verb: &str) -> String {
    format!("/v1/clusters/{}/{verb}", path_word(cluster))
}

/// A word from the command line as a segment of a path (RFC 3986, percent-encoding of all but the unreserved).
pub fn path_word(word: &str) -> String {
    word.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_stays_one_segment_of_the_path() {
        assert_eq!(path_word("orders-1.eu"), "orders-1.eu");
        assert_eq!(path_word("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    }
}
