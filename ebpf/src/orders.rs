//! What the programs do at the agent's word, see `shunt_ebpf_common::manage` and `kept`: they are run on packets of ours by
//! BPF_PROG_TEST_RUN.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use shunt_ebpf_common::checksum::{add, fold, pseudo, pseudo_v6};
use shunt_ebpf_common::kept::Frame;
use shunt_ebpf_common::manage::{Command, MAX_COMMANDS, OFFSET};

use crate::{Error, Object};

pub(crate) const MANAGE: &str = "shunt_manage";
pub(crate) const REPLAY: &str = "shunt_replay";

/// `struct __sk_buff`, up to what says by which interface a packet has come in.
const CONTEXT: usize = 44;
const INTERFACE: usize = 40;

/// What [`REPLAY`] says when it has put a packet back.
const DONE: u32 = 1;

impl Object {
    /// Has commands carried out; how many were. A flow that is not what a command says is left alone.
    pub fn manage(&mut self, commands: &[Command]) -> Result<u32, Error> {
        let mut done = 0;
        for commands in commands.chunks(MAX_COMMANDS) {
            done += run(self.own_program(MANAGE)?, MANAGE, &packet(commands), &[])?;
        }
        Ok(done)
    }

    /// Lets a packet that was kept come in once more, by the interface that it came in by; `false`: the kernel would not
    /// have it, because that interface is down or gone.
    pub fn replay<const N: usize>(&mut self, frame: &Frame<N>) -> Result<bool, Error> {
        let mut bytes = frame.bytes[..N.min(frame.length as usize)].to_vec();
        if frame.unfinished != 0 {
            finish(&mut bytes);
        }
        let mut context = [0; CONTEXT];
        context[INTERFACE..].copy_from_slice(&frame.interface.to_ne_bytes());
        Ok(run(self.own_program(REPLAY)?, REPLAY, &bytes, &context)? == DONE)
    }
}

/// At most [`MAX_COMMANDS`], as [`MANAGE`] takes them.
pub(crate) fn packet(commands: &[Command]) -> Vec<u8> {
    let mut packet = vec![0; OFFSET];
    packet.extend(commands.iter().flat_map(Command::bytes));
    packet
}

fn run(program: &SchedClassifier, name: &str, packet: &[u8], context: &[u8]) -> Result<u32, Error> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    if !context.is_empty() {
        options.ctx_in = Some(context);
    }
    let result = program.test_run(options).map_err(|error| Error::program(format!("run {name}"), error))?;
    Ok(result.return_value)
}

/// Computes the TCP checksum, which a device was to do. The frame is one that the programs take: without options or
/// extension headers, and with all headers. But nobody has compared the length that the packet claims with that of the
/// frame: one that claims more is left as it is, and the stack drops it.
fn finish(frame: &mut [u8]) {
    const ETHERNET: usize = 14;
    const CHECKSUM: usize = 16;
    let v4 = frame[ETHERNET] >> 4 == 4;
    let word = |at: usize| u32::from_ne_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let address = |at: usize| [word(at), word(at + 4), word(at + 8), word(at + 12)];
    // A frame may be longer than its packet.
    let half = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let (tcp, end) = if v4 { (34, ETHERNET + half(16)) } else { (54, 54 + half(18)) };
    if end > frame.len() || end < tcp + CHECKSUM + 2 {
        return;
    }
    let length = (end - tcp) as u16;
    let mut sum = if v4 { pseudo(word(26), word(30), length) } else { pseudo_v6(&address(22), &address(38), length) };
    frame[tcp + CHECKSUM..tcp + CHECKSUM + 2].fill(0);
    for pair in frame[tcp..end].chunks(2) {
        sum = add(sum, u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]).into());
    }
    frame[tcp + CHECKSUM..tcp + CHECKSUM + 2].copy_from_slice(&(!fold(sum)).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::finish;

    #[test]
    fn a_checksum_that_was_left_to_a_device_is_computed() {
        for v4 in [true, false] {
            for data in [&b""[..], b"odd", b"even"] {
                let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
                let ip = if v4 {
                    ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                } else {
                    ethernet.ipv6([1; 16], [2; 16], 64)
                };
                let mut right = Vec::new();
                ip.tcp(40_000, 3306, 7, 1000).syn().write(&mut right, data).unwrap();
                let mut frame = right.clone();
                let tcp = if v4 { 34 } else { 54 };
                frame[tcp + 16..tcp + 18].copy_from_slice(&[1, 2]);
                // Padding of a short frame is none of TCP's.
                frame.push(9);
                right.push(9);
                finish(&mut frame);
                assert_eq!(frame, right);
            }
        }
    }

    #[test]
    fn a_packet_that_claims_another_length_than_its_frame_has_is_left_alone() {
        for v4 in [true, false] {
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let ip =
                if v4 { ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) } else { ethernet.ipv6([1; 16], [2; 16], 64) };
            let mut frame = Vec::new();
            ip.tcp(40_000, 3306, 7, 1000).syn().write(&mut frame, b"").unwrap();
            let length = if v4 { 16 } else { 18 };
            for claimed in [u16::MAX, 100, 1] {
                frame[length..length + 2].copy_from_slice(&claimed.to_be_bytes());
                let before = frame.clone();
                finish(&mut frame);
                assert_eq!(frame, before, "{claimed}");
            }
        }
    }
}
