//! Each breakage is found, by the invariant that it breaks.

use std::collections::BTreeSet;

use super::history::Story;
use super::invariants::Invariant;
use super::mutation::Breakage;
use super::seeds::run;

/// The seed that finds it, of so many.
#[track_caller]
fn is_found(breakage: Breakage, by: &[Invariant], within: u64) {
    let mut others = BTreeSet::new();
    for seed in 0..within {
        match run(seed, &BTreeSet::new(), Some(breakage), Story::silent()).violation() {
            Some(violation) if by.contains(&violation.invariant) => return,
            Some(violation) => others.insert(violation.invariant),
            None => false,
        };
    }
    panic!("{breakage:?} is not found by {by:?} within {within} seeds; found by {others:?}");
}

#[test]
fn the_simulation_finds_a_new_primary_under_the_old_epoch() {
    is_found(Breakage::KeepsTheEpoch, &[Invariant::OneWriter], 200);
}

#[test]
fn the_simulation_finds_a_fence_that_was_not_committed() {
    is_found(Breakage::SkipsTheFence, &[Invariant::FenceFirst], 200);
}

#[test]
fn the_simulation_finds_a_forged_proof_of_semi_sync() {
    is_found(Breakage::ForgesTheProof, &[Invariant::NothingAcknowledgedIsLost], 3000);
}

#[test]
fn the_simulation_finds_flows_that_are_not_severed() {
    is_found(Breakage::KeepsFlows, &[Invariant::NoPacketToTheOld], 200);
}

#[test]
fn the_simulation_finds_a_drain_that_was_skipped() {
    is_found(Breakage::SkipsTheDrain, &[Invariant::ReadOnlyGoesOffLast], 400);
}

#[test]
fn the_simulation_finds_semi_sync_that_was_not_switched_on() {
    is_found(Breakage::SkipsSemiSync, &[Invariant::ReadOnlyGoesOffLast], 200);
}

#[test]
fn the_simulation_finds_errant_transactions_that_rejoin() {
    is_found(Breakage::HidesErrantTransactions, &[Invariant::OnlySubsetsRejoin], 600);
}

#[test]
fn the_simulation_finds_listeners_that_go_back_to_the_old_primary() {
    is_found(Breakage::ReopensTheOld, &[Invariant::NothingLeadsBack], 200);
}

#[test]
fn the_simulation_finds_a_journal_that_was_dropped() {
    is_found(Breakage::DropsTheJournal, &[Invariant::NothingLeadsBack, Invariant::NothingStaleActs], 1_000);
}

#[test]
fn the_simulation_finds_a_stale_answer_that_acts() {
    is_found(Breakage::TakesStaleAnswers, &[Invariant::NothingStaleActs], 1_000);
}

#[test]
fn the_simulation_finds_a_forged_lock() {
    is_found(Breakage::ForgesTheLock, &[Invariant::NobodyPromotesAlone], 400);
}

#[test]
fn the_simulation_finds_a_forgotten_cooldown() {
    is_found(Breakage::ForgetsTheCooldown, &[Invariant::CooldownBetween], 1_000);
}

#[test]
fn the_simulation_finds_traffic_that_is_believed() {
    is_found(Breakage::BelievesTraffic, &[Invariant::TrafficOnlyAsks], 200);
}

#[test]
fn the_simulation_finds_answers_that_are_lost() {
    is_found(Breakage::LosesAnswers, &[Invariant::ItComesToAnEnd], 400);
}
