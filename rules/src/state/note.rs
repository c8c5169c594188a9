//! The comment of a listener's element: what a restarted agent cannot tell from the other elements.

use std::fmt;
use std::time::Duration;

/// `orders hold 30000 lease 5000 limit 1000 per-source 10`; times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub cluster: String,
    pub stance: Stance,
    pub lease: Option<Duration>,
    pub limit: Option<u32>,
    pub limit_per_source: Option<u32>,
}

/// What a listener does with new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stance {
    #[default]
    Open,
    Hold(Duration),
    Refuse,
    Removed,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cluster)?;
        match self.stance {
            Stance::Open => {}
            Stance::Hold(span) => write!(f, " hold {}", span.as_millis())?,
            Stance::Refuse => f.write_str(" refuse")?,
            Stance::Removed => f.write_str(" removed")?,
        }
        if let Some(lease) = self.lease {
            write!(f, " lease {}", lease.as_millis())?;
        }
        if let Some(limit) = self.limit {
            write!(f, " limit {limit}")?;
        }
        if let Some(limit) = self.limit_per_source {
            write!(f, " per-source {limit}")?;
        }
        Ok(())
    }
}

impl Note {
    /// Reads what [`fmt::Display`] wrote; a word that it does not know is left out.
    pub fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut note = Self { cluster: words.next().unwrap_or_default().to_owned(), ..Self::default() };
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|number| number.parse::<u64>().ok());
            match word {
                "hold" => note.stance = number().map_or(Stance::Refuse, |ms| Stance::Hold(Duration::from_millis(ms))),
                "refuse" => note.stance = Stance::Refuse,
                "removed" => note.stance = Stance::Removed,
                "lease" => note.lease = number().map(Duration::from_millis),
                "limit" => note.limit = number().and_then(|limit| limit.try_into().ok()),
                "per-source" => note.limit_per_source = number().and_then(|limit| limit.try_into().ok()),
                _ => {}
            }
        }
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_as_it_was_written() {
        let ms = Duration::from_millis;
        for stance in [Stance::Open, Stance::Hold(ms(30_000)), Stance::Refuse, Stance::Removed] {
            for (lease, limit, limit_per_source) in
                [(None, None, None), (Some(ms(5000)), Some(10), Some(u32::MAX)), (None, Some(1), None)]
            {
                let note = Note { cluster: "orders".to_owned(), stance, lease, limit, limit_per_source };
                assert_eq!(Note::parse(&note.to_string()), note);
            }
        }
    }

    #[test]
    fn a_note_that_somebody_else_wrote_is_read_as_far_as_it_goes() {
        assert_eq!(Note::parse(""), Note::default());
        assert_eq!(Note::parse("orders hold soon").stance, Stance::Refuse, "a fence at any rate");
        assert_eq!(Note::parse("orders limit -1 what").limit, None);
    }
}
