//! What the programs say, and that they say nothing unless they are asked.

use std::io::{self, ErrorKind};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::Level;
use shunt_ebpf::common::mapping::kind;
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, PATIENCE};

use crate::lab::{LISTENER, Lab, PAIRS, fence, on_both, to};

/// What `tracing` was told in this process.
static HEARD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Ear;

impl io::Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines() -> Result<Vec<String>> {
    let text = String::from_utf8(HEARD.lock().unwrap_or_else(PoisonError::into_inner).clone())?;
    Ok(text.lines().filter(|line| line.contains("shunt::ebpf")).map(str::to_owned).collect())
}

fn refused(lab: &Lab<'_>) -> Result<()> {
    let refused = lab.star.dial(CLIENT, lab.listener()).map(drop).map_err(|error| error.kind());
    ensure!(refused == Err(ErrorKind::ConnectionRefused), "{refused:?}");
    Ok(())
}

#[test]
fn a_refused_syn_is_told_when_somebody_wants_to_hear_it_and_not_otherwise() -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG).with_writer(|| Ear).init();
    on_both("logging::a_refused_syn", |mut lab| {
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).clear();
        lab.attach()?;
        lab.lead(0)?;
        let mut change = lab.tables.begin();
        change.lead(LISTENER, fence(kind::REFUSES));
        change.commit();
        let _listener = lab.object.listen()?;
        refused(&lab)?;
        lab.tables.set_log(Level::Error);
        refused(&lab)?;
        lab.tables.set_log(Level::Info);
        refused(&lab)?;
        // What is said comes in order: nothing of the first two is still on its way.
        let told = eventually("a line", PATIENCE, || Ok(Some(lines()?).filter(|lines| !lines.is_empty())))?;
        assert_eq!(told.len(), 1, "{told:?}");
        let listener = lab.listener().to_string();
        for part in ["INFO", "answered with RST", "fenced", listener.as_str()] {
            ensure!(told[0].contains(part), "{part} is not in {}", told[0]);
        }
        lab.tables.set_log(Level::Off);
        refused(&lab)?;
        lab.tables.set_log(Level::Debug);
        let mut change = lab.tables.begin();
        change.lead(LISTENER, to(PAIRS[0]));
        change.commit();
        let call = lab.star.dial(CLIENT, lab.listener())?;
        for _ in 0..10 {
            call.echo()?;
        }
        let told = eventually("the next", PATIENCE, || Ok(Some(lines()?).filter(|lines| lines.len() > 1)))?;
        let ends = [call.local()?.to_string(), lab.ip.db(0).to_string()];
        ensure!(told[1].contains("opened") && ends.iter().all(|end| told[1].contains(end)), "{}", told[1]);
        let last = lines()?;
        assert_eq!(last.len(), 2, "of a connection that goes on nothing is said: {last:?}");
        Ok(())
    })
    .context("what the programs say")
}
