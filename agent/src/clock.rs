//! The agent's clock: time since it started, for everything that is compared, and the date, for everything that is shown.
//! The two are tied together anew at every look, so that a date is right even after somebody has set the machine's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shunt_core::Mono;

/// Started once; every copy tells the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

/// A century.
const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Clock {
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub fn now(&self) -> Mono {
        Mono(self.started.elapsed())
    }

    /// For timers.
    pub fn instant(&self, at: Mono) -> Instant {
        // A moment that no clock can show is not reached either.
        self.started.checked_add(at.0).unwrap_or_else(|| self.started + FAR)
    }

    /// The date of a moment, in milliseconds since 1970, by the machine's clock as it is now.
    pub fn unix_ms(&self, at: Mono) -> i64 {
        self.unix_ms_now() + signed_ms(at, self.now())
    }

    pub fn unix_ms_now(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }

    /// The moment of a date. One before the agent's start is its start: there is no earlier moment.
    pub fn at_unix_ms(&self, ms: i64) -> Mono {
        let ahead = ms.saturating_sub(self.unix_ms_now());
        let distance = Duration::from_millis(ahead.unsigned_abs());
        if ahead >= 0 { self.now() + distance } else { self.now() - distance }
    }
}

/// How far `at` lies ahead of `from`.
fn signed_ms(at: Mono, from: Mono) -> i64 {
    if at >= from { at.since(from).as_millis() as i64 } else { -(from.since(at).as_millis() as i64) }
}

/// `2026-11-21T14:05:59.123Z`.
pub fn rfc3339(unix_ms: i64) -> String {
    // humantime can only write the years 1970 to 9999: outside of them no event of ours can lie.
    let ms = unix_ms.clamp(0, 253_402_300_799_999);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_milliseconds() {
        assert_eq!(rfc3339(1_795_269_959_123), "2026-11-21T14:05:59.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn an_absurd_date_does_not_panic() {
        assert_eq!(rfc3339(-1), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_moment_goes_to_a_date_and_back() {
        let clock = Clock::start();
        let at = clock.now() + Duration::from_secs(3600);
        let back = clock.at_unix_ms(clock.unix_ms(at));
        assert!(back.since(at) + at.since(back) < Duration::from_secs(5));
    }

    #[test]
    fn a_date_before_the_start_is_the_start() {
        assert_eq!(Clock::start().at_unix_ms(0), Mono::ZERO);
        assert_eq!(Clock::start().at_unix_ms(i64::MIN), Mono::ZERO);
    }

    #[test]
    fn a_moment_has_its_instant() {
        let clock = Clock::start();
        assert_eq!(clock.instant(Mono::from_millis(250)) - clock.instant(Mono::ZERO), Duration::from_millis(250));
    }
}
