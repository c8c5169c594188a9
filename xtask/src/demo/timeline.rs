//! The timeline: one line an event, milliseconds since the kill, who says so.

use std::time::Instant;

use crate::stage::Failover;

pub fn print(failover: &Failover, name: impl Fn(usize) -> String) {
    println!("  {:>7}  {:<46} says", "ms", "what");
    for (at, what, says) in lines(failover, &name(failover.old), &name(failover.new)) {
        println!("  {:>7}  {what:<46} {says}", format_ms(failover.killed, at));
    }
}

fn lines(f: &Failover, old: &str, new: &str) -> Vec<(Instant, String, &'static str)> {
    let mut lines = vec![
        (f.killed, format!("killed: {old}, the primary, with -9"), "this program"),
        (f.gone, format!("the last of {old}'s process is gone"), "the kernel"),
        (f.noticed, format!("noticed: {old} is dead"), "the agent's history"),
        (f.promoting, format!("an outside tool begins to promote {new} by SQL"), "this program"),
        (f.promoted, format!("promoted: {new} is writable"), "this program"),
        (f.mapped, format!("mapped: the proxy port leads to {new}"), "the kernel (nft monitor)"),
        (f.first_write, "first write through".to_owned(), "the client"),
    ];
    lines.extend(f.suspected.map(|at| (at, format!("suspected: {old}"), "the agent's history")));
    // Stable: what came in the same instant stays in the order above.
    lines.sort_by_key(|(at, ..)| *at);
    lines
}

fn format_ms(from: Instant, at: Instant) -> String {
    format!("{:.1}", (at - from).as_secs_f64() * 1000.0)
}
