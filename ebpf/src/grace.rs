//! Waiting until no packet is under way that a program has asked about before now.
//!
//! A program runs with preemption disabled, as all of the kernel's packet processing does. When a thread of ours has run on
//! a processor, whatever program was running there has ended. So a visit to each processor is a grace period, and takes a
//! twentieth of a millisecond for each but the one that we are on, where RCU's takes ten. Where it cannot be made, the
//! kernel is asked for one of RCU's.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

const LONG: Duration = Duration::from_millis(100);

/// linux/membarrier.h
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// Returns when every program that was running has ended.
pub fn wait() {
    if !is_preemptible() && visit_each_processor().is_ok() {
        return;
    }
    if let Err(error) = global() {
        // A program runs for microseconds.
        tracing::debug!(%error, "cannot tell when no packet is under way any more, and waits long instead");
        std::thread::sleep(LONG);
    }
}

/// On a kernel with PREEMPT_RT, packets are processed by threads that can be interrupted.
fn is_preemptible() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let ask = || std::fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1");
    *ANSWER.get_or_init(ask)
}

fn visit_each_processor() -> io::Result<()> {
    let processors = possible()?;
    let this_thread = Pid::from_raw(0);
    let home = sched_getaffinity(this_thread)?;
    // Where we are, no program was running just now.
    let here = sched_getcpu()?;
    let others = processors.iter().filter(|processor| **processor != here);
    let visited = others.copied().try_for_each(|processor| -> io::Result<()> {
        let mut one = CpuSet::new();
        one.set(processor)?;
        match sched_setaffinity(this_thread, &one) {
            // No packet is processed where there is no processor now.
            Err(Errno::EINVAL) if !list("online")?.contains(&processor) => Ok(()),
            done => Ok(done?),
        }
    });
    sched_setaffinity(this_thread, &home)?;
    visited
}

/// The processors that there are, or could be: those of them that come and go are asked about when they are visited.
fn possible() -> io::Result<&'static [usize]> {
    static PROCESSORS: OnceLock<Vec<usize>> = OnceLock::new();
    if PROCESSORS.get().is_none() {
        // Whoever was faster has read the same.
        let _ = PROCESSORS.set(list("possible")?);
    }
    PROCESSORS.get().map(Vec::as_slice).ok_or_else(|| io::Error::other("the list of processors is not there"))
}

fn list(of: &str) -> io::Result<Vec<usize>> {
    let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{of}"))?;
    parse(text.trim()).ok_or_else(|| io::Error::other("the list of processors is written in another way"))
}

/// `0-3,5`
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

/// What membarrier(2) promises for processes, it keeps by a grace period of RCU, in which programs are readers.
fn global() -> io::Result<()> {
    // SAFETY: three numbers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_is_read() {
        assert_eq!(parse("0-3,5"), Some(vec![0, 1, 2, 3, 5]));
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse("all"), None);
    }

    #[test]
    fn every_processor_is_visited_and_the_thread_comes_home() {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        wait();
        global().unwrap();
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
    }
}
