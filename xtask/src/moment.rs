//! Moments on two clocks: ours, and the one that the agent's history is written in.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: Instant,
    wall_ms: f64,
}

impl Moment {
    pub fn now() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), wall_ms: wall.as_secs_f64() * 1000.0 }
    }

    /// Milliseconds from here to another moment of our own clock.
    pub fn ms_to(self, at: Instant) -> f64 {
        at.saturating_duration_since(self.at).as_secs_f64() * 1000.0
    }

    /// Milliseconds from here to an event of the history, which knows whole ones only.
    pub fn ms_to_event(self, event: &Value) -> Option<f64> {
        Some(event["at_ms"].as_i64()? as f64 - self.wall_ms)
    }

    /// When that event was, on our own clock; never before this moment.
    pub fn of_event(self, event: &Value) -> Option<Instant> {
        let since = self.ms_to_event(event)?.max(0.0);
        Some(self.at + Duration::from_secs_f64(since / 1000.0))
    }

    #[cfg(test)]
    pub fn at_wall_ms(wall_ms: f64) -> Self {
        Self { at: Instant::now(), wall_ms }
    }
}
