//! What any frame must be read as: the programs' way of reading headers, and the agent's, against etherparse's. The fuzzer in
//! `ebpf/fuzz` and the tests here call the same function.

mod complaints;
mod rewriting;
mod segments;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice};
use shunt_ebpf_common::packet::v4::{self, V4};
use shunt_ebpf_common::packet::v6::{self, V6};
use shunt_ebpf_common::packet::{Content, Header, Headers, IP, beginning};

/// Panics if one of them reads anything else than the others, whatever the bytes are.
pub fn agree(frame: &[u8]) {
    let Some(packet) = frame.get(IP as usize..) else { return };
    match u16::from_be_bytes([frame[12], frame[13]]) {
        v4::KIND => {
            let content = read::<V4>(frame);
            complaints::agree::<V4>(frame, content == Some(Content::Icmp));
        }
        v6::KIND => {
            let content = read::<V6>(frame);
            complaints::agree::<V6>(frame, content == Some(Content::Icmp));
        }
        _ => {}
    }
    segments::agree(packet);
}

/// As `shunt_ingress` does. `None`: shorter than all headers together.
fn read<I: Family>(frame: &[u8]) -> Option<Content> {
    let head = beginning::<Headers<I>>(frame)?;
    let content = head.ip.content(|at| load(frame, at));
    match I::expected(frame) {
        Expected::This(expected) => assert_eq!(content, expected, "{frame:x?}"),
        // Where the programs look for its ports there is nothing, so that it passes as it came.
        Expected::Cut => {
            if let Content::Behind(at) | Content::Fragment(at) = content {
                assert!(load(frame, (IP + at) as usize).is_err(), "{content:?} {frame:x?}");
            } else {
                assert_eq!(content, Content::Other, "{frame:x?}");
            }
        }
        Expected::Anything => {}
    }
    if content == Content::Tcp {
        segments::read_alike(frame, &head);
        rewriting::keeps_sums(frame, &head);
        rewriting::is_answered(&head);
    }
    Some(content)
}

/// As `bpf_skb_load_bytes` does.
pub fn load(frame: &[u8], at: usize) -> Result<[u8; 4], i64> {
    frame.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or(-14)
}

enum Expected {
    This(Content),
    /// It ends within a header that says how long it is.
    Cut,
    /// Contradicts what it came as: nobody else reads it.
    Anything,
}

trait Family: Header {
    /// By etherparse's reading.
    fn expected(frame: &[u8]) -> Expected;
}

impl Family for V4 {
    fn expected(frame: &[u8]) -> Expected {
        use etherparse::err::ipv4::HeaderSliceError;
        let header = match Ipv4HeaderSlice::from_slice(&frame[14..]) {
            Ok(header) => header,
            Err(HeaderSliceError::Len(_)) => return Expected::Cut,
            Err(HeaderSliceError::Content(_)) => return Expected::This(Content::Other),
        };
        let length = u32::from(header.ihl()) * 4;
        Expected::This(match header.protocol() {
            IpNumber::ICMP if length == 20 && !header.is_fragmenting_payload() => Content::Icmp,
            IpNumber::TCP if header.fragments_offset().value() != 0 => Content::Other,
            IpNumber::TCP if header.more_fragments() => Content::Fragment(length),
            IpNumber::TCP if length == 20 => Content::Tcp,
            IpNumber::TCP => Content::Behind(length),
            _ => Content::Other,
        })
    }
}

impl Family for V6 {
    fn expected(frame: &[u8]) -> Expected {
        let Ok(header) = Ipv6HeaderSlice::from_slice(&frame[14..]) else { return Expected::Anything };
        let (mut next, mut at, mut fragmented) = (header.next_header(), 40, false);
        match next {
            IpNumber::TCP => return Expected::This(Content::Tcp),
            IpNumber::IPV6_ICMP => return Expected::This(Content::Icmp),
            _ => {}
        }
        for _ in 0..4 {
            let rest = frame.get(14 + at..).unwrap_or_default();
            match next {
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    let Ok(fragment) = Ipv6FragmentHeaderSlice::from_slice(rest) else { return Expected::Cut };
                    if fragment.fragment_offset().value() != 0 {
                        return Expected::This(Content::Other);
                    }
                    (next, at, fragmented) = (fragment.next_header(), at + 8, true);
                }
                IpNumber::IPV6_HEADER_HOP_BY_HOP | IpNumber::IPV6_ROUTE_HEADER | IpNumber::IPV6_DESTINATION_OPTIONS => {
                    let Ok(extension) = Ipv6RawExtHeaderSlice::from_slice(rest) else { return Expected::Cut };
                    (next, at) = (extension.next_header(), at + extension.slice().len());
                }
                _ => return Expected::This(Content::Other),
            }
            if next == IpNumber::TCP {
                let at = at as u32;
                return Expected::This(if fragmented { Content::Fragment(at) } else { Content::Behind(at) });
            }
        }
        Expected::This(Content::Other)
    }
}
