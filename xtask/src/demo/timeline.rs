//! The timeline: one line an event, milliseconds since the kill, who says so.

use std::time::Instant;

use crate::stage::Failover;

pub fn print(failover: &Failover) {
    println!("  {:>7}  {:<46} says", "ms", "what");
    for (at, what, says) in lines(failover) {
        println!("  {:>7}  {what:<46} {says}", format_ms(failover.killed, at));
    }
}

fn lines(f: &Failover) -> Vec<(Instant, &'static str, &'static str)> {
    let mut lines = vec![
        (f.killed, "killed: db1, the primary, with -9", "this program"),
        (f.noticed, "noticed: the primary is dead", "the agent's history"),
        (f.promoting, "an outside tool begins to promote db2 by SQL", "this program"),
        (f.promoted, "promoted: db2 is writable", "this program"),
        (f.mapped, "mapped: the proxy port leads to db2", "the kernel (nft monitor)"),
        (f.first_write, "first write through", "the client"),
    ];
    lines.extend(f.suspected.map(|at| (at, "suspected", "the agent's history")));
    // Stable: what came in the same instant stays in the order above.
    lines.sort_by_key(|(at, ..)| *at);
    lines
}

fn format_ms(from: Instant, at: Instant) -> String {
    format!("{:.1}", (at - from).as_secs_f64() * 1000.0)
}
