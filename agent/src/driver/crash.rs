//! Places where a test may end the agent as kill -9 would. Release builds have none.

/// Ends the process if `SHUNT_CRASH_AT` names this place, such as `step:promote` or `journal:open`.
#[cfg(debug_assertions)]
pub(super) fn point(kind: &str, step: &str) {
    if std::env::var("SHUNT_CRASH_AT").is_ok_and(|at| at == format!("{kind}:{step}")) {
        tracing::error!("crashing at {kind}:{step}, as SHUNT_CRASH_AT says");
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub(super) const fn point(_: &str, _: &str) {}
