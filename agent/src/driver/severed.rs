//! What has become of flows whose backend left: collected from the datapath, counted, and put into the history.

use std::sync::Arc;
use std::time::Duration;

use shunt_core::cluster::Entry;
use shunt_core::datapath::Severed;

use super::agent::Agent;

/// History may be told of a severing so much later, and an idle connection of the end of its drain.
const EVERY: Duration = Duration::from_secs(1);

/// Starts the task that collects.
pub(super) fn start(agent: Arc<Agent>) {
    tokio::spawn(async move {
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let looked = agent.shared.datapath.run(|datapath| (datapath.upkeep(), datapath.severed())).await;
            let Ok((upkeep, finished)) = looked else { return };
            if let Err(error) = upkeep {
                // The comparison with the kernel, which comes soon, says what is amiss.
                tracing::warn!(error = super::error_chain(&error), "drains that are over could not be ended");
            }
            for severed in finished.iter().filter(|severed| severed.flows > 0) {
                agent.shared.counters.severed(severed.flows, severed.took);
                agent.shared.journal.record(agent.cluster_of(severed.listener).as_ref(), entry(severed));
            }
        }
    });
}

fn entry(severed: &Severed) -> Entry {
    let Severed { listener, backend, flows, unanswered, took } = severed;
    let flows_in_words = if *flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") };
    let silent = match unanswered {
        0 => String::new(),
        1 => "; an end of 1 of them did not answer, and is told at its next packet".to_owned(),
        n => format!("; an end of {n} of them did not answer, and is told at its next packet"),
    };
    Entry {
        kind: "severed",
        message: format!(
            "severed {flows_in_words} of {listener} → {backend} at both ends in {} ms{silent}",
            took.as_millis()
        ),
        data: vec![
            ("listener", listener.to_string()),
            ("backend", backend.to_string()),
            ("flows", flows.to_string()),
            ("unanswered", unanswered.to_string()),
            ("took_us", took.as_micros().to_string()),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_severing_is_told_with_its_pair_its_time_and_those_that_did_not_answer() {
        let (listener, backend) = ("10.0.0.2:3306".parse().unwrap(), "10.0.0.11:3306".parse().unwrap());
        let said = |flows, unanswered| {
            entry(&Severed { listener, backend, flows, unanswered, took: Duration::from_micros(42_900) }).message
        };
        assert_eq!(said(37, 0), "severed 37 flows of 10.0.0.2:3306 → 10.0.0.11:3306 at both ends in 42 ms");
        assert_eq!(
            said(1, 1),
            "severed 1 flow of 10.0.0.2:3306 → 10.0.0.11:3306 at both ends in 42 ms; an end of 1 of them did not answer, and is told at its next packet"
        );
    }
}
