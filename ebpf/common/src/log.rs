//! What the programs say in words, if an operator wants to hear it: of connections that are opened and of packets that do
//! not pass, never of the packets of a connection that goes on. They say it in numbers, which the agent puts into words.

use crate::counter::Counter;
use crate::tally::Event;

/// How much is said: [`Control::log`](crate::control::Control).
pub mod level {
    pub const OFF: u32 = 0;
    /// What should not be: a packet that the kernel would not change.
    pub const ERROR: u32 = 1;
    /// Also what is refused or dropped.
    pub const INFO: u32 = 3;
    /// Also what is opened or put by.
    pub const DEBUG: u32 = 4;
}

/// What was done with a packet.
pub mod deed {
    pub const OPENED: u32 = 0;
    /// Answered with RST.
    pub const RESET: u32 = 1;
    pub const DROPPED: u32 = 2;
    /// Put by, because its listener holds or its flow is blocked.
    pub const HELD: u32 = 3;

    pub const fn word(deed: u32) -> &'static str {
        match deed {
            OPENED => "opened",
            RESET => "answered with RST",
            DROPPED => "dropped",
            HELD => "put by",
            _ => "did something unknown",
        }
    }
}

/// Why, as a number: nothing to say, or one more than a [`Counter`], or an [`Event`] from [`EVENT`] on.
pub mod reason {
    pub const NONE: u32 = 0;
    pub const EVENT: u32 = 0x100;
}

pub const fn because_of(counter: Counter) -> u32 {
    counter as u32 + 1
}

pub const fn because_it_was(event: Event) -> u32 {
    reason::EVENT + event as u32
}

/// As an operator reads it.
pub fn words(reason: u32) -> &'static str {
    if reason >= reason::EVENT {
        return match reason - reason::EVENT {
            event if event == Event::Fenced as u32 => "fenced",
            event if event == Event::Unavailable as u32 => "unavailable",
            event if event == Event::NotAllowed as u32 => "not_allowed",
            event if event == Event::OverLimit as u32 => "over_limit",
            event if event == Event::OverSourceLimit as u32 => "over_source_limit",
            _ => "",
        };
    }
    let counter = reason.checked_sub(1).and_then(|counter| Counter::ALL.get(counter as usize));
    counter.map_or("", |counter| counter.name())
}
