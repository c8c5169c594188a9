//! Packets that we read and write ourselves: SYNs and the data of blocked flows, which are put back, and questions to the
//! ends of severed flows. Pure.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader};

/// As many hops as hosts commonly give their packets.
const HOPS: u8 = 64;

/// The headers of a TCP packet, without what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    ip: Ip,
    tcp: TcpHeader,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ip {
    V4(Ipv4Header),
    V6(Ipv6Header),
}

impl Segment {
    /// Reads the headers of a packet that begins with its IP header. `None` for what is not TCP, for IPv6 with extension
    /// headers, and for fragments.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        Self::split(packet).map(|(segment, _)| segment)
    }

    /// The headers, and what follows them.
    fn split(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (ip, rest) = match packet.first()? >> 4 {
            4 => {
                let (header, rest) = Ipv4Header::from_slice(packet).ok()?;
                let whole = !header.more_fragments && header.fragment_offset.value() == 0;
                if header.protocol != IpNumber::TCP || !whole {
                    return None;
                }
                (Ip::V4(header), rest)
            }
            6 => {
                let (header, rest) = Ipv6Header::from_slice(packet).ok()?;
                if header.next_header != IpNumber::TCP {
                    return None;
                }
                (Ip::V6(header), rest)
            }
            _ => return None,
        };
        let (tcp, data) = TcpHeader::from_slice(rest).ok()?;
        Some((Self { ip, tcp }, data))
    }

    /// A bare ACK with a sequence number that its receiver does not expect, unless by chance. A socket answers it with
    /// an ACK that says where it stands (RFC 9293, 3.10.7.4; RFC 5961, 5), which the guard answers with a RST. The window
    /// is zero, so that a counting rule can tell these from all others.
    pub fn question(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledgment: u32) -> Option<Self> {
        let mut tcp = TcpHeader::new(from.port(), to.port(), sequence, 0);
        tcp.ack = true;
        tcp.acknowledgment_number = acknowledgment;
        Self::of_ours(from, to, tcp)
    }

    /// An RST with the number that its receiver expects next, which is the only one it takes at its word (RFC 5961, 3.2).
    pub fn reset(from: SocketAddr, to: SocketAddr, sequence: u32) -> Option<Self> {
        let mut tcp = TcpHeader::new(from.port(), to.port(), sequence, 0);
        tcp.rst = true;
        Self::of_ours(from, to, tcp)
    }

    fn of_ours(from: SocketAddr, to: SocketAddr, tcp: TcpHeader) -> Option<Self> {
        let len = tcp.header_len() as u16;
        let ip = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = Ipv4Header::new(len, HOPS, IpNumber::TCP, from.octets(), to.octets()).ok()?;
                header.dont_fragment = true;
                Ip::V4(header)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => Ip::V6(Ipv6Header {
                payload_length: len,
                next_header: IpNumber::TCP,
                hop_limit: HOPS,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            }),
            _ => return None,
        };
        Some(Self { ip, tcp })
    }

    pub fn source(&self) -> SocketAddr {
        let ip: IpAddr = match &self.ip {
            Ip::V4(header) => header.source.into(),
            Ip::V6(header) => header.source.into(),
        };
        SocketAddr::new(ip, self.tcp.source_port)
    }

    pub fn destination(&self) -> SocketAddr {
        let ip: IpAddr = match &self.ip {
            Ip::V4(header) => header.destination.into(),
            Ip::V6(header) => header.destination.into(),
        };
        SocketAddr::new(ip, self.tcp.destination_port)
    }

    pub const fn is_syn(&self) -> bool {
        self.tcp.syn && !self.tcp.ack
    }

    pub const fn is_reset(&self) -> bool {
        self.tcp.rst
    }

    /// The same segment to another address; `None`: of the other family.
    pub fn to(mut self, destination: SocketAddr) -> Option<Self> {
        match (&mut self.ip, destination.ip()) {
            (Ip::V4(header), IpAddr::V4(ip)) => header.destination = ip.octets(),
            (Ip::V6(header), IpAddr::V6(ip)) => header.destination = ip.octets(),
            _ => return None,
        }
        self.tcp.destination_port = destination.port();
        Some(self)
    }

    /// The packet, with sums that are right: a copy that the kernel made on the way out may not have had them yet.
    /// Whatever it carried is left out.
    pub fn bytes(self) -> Option<Vec<u8>> {
        self.bytes_with(&[])
    }

    /// The packet with these data.
    fn bytes_with(mut self, data: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(120 + data.len());
        let len = self.tcp.header_len() + data.len();
        match &mut self.ip {
            Ip::V4(header) => {
                header.set_payload_len(len).ok()?;
                self.tcp.checksum = self.tcp.calc_checksum_ipv4(header, data).ok()?;
                header.write(&mut bytes).ok()?;
            }
            Ip::V6(header) => {
                header.payload_length = len.try_into().ok()?;
                self.tcp.checksum = self.tcp.calc_checksum_ipv6(header, data).ok()?;
                header.write(&mut bytes).ok()?;
            }
        }
        self.tcp.write(&mut bytes).ok()?;
        bytes.extend_from_slice(data);
        Some(bytes)
    }
}

/// A TCP packet with what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub head: Segment,
    data: Vec<u8>,
}

/// Every link carries packets of this length (RFC 8200, 5); those of IPv4 that do not are long gone.
const FITS: usize = 1280;

impl Whole {
    /// `None` for what [`Segment::parse`] does not read, and for a copy that is not all of its packet.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (head, data) = Segment::split(packet)?;
        let told = match &head.ip {
            Ip::V4(header) => usize::from(header.total_len),
            Ip::V6(header) => usize::from(header.payload_length) + Ipv6Header::LEN,
        };
        (told == packet.len()).then(|| Self { head, data: data.into() })
    }

    /// Bytes of data.
    pub fn carries(&self) -> usize {
        self.data.len()
    }

    /// Whether the other is the same packet, sent again.
    pub fn repeats(&self, other: &Self) -> bool {
        let place = |whole: &Self| (whole.head.tcp.sequence_number, whole.data.len(), whole.head.tcp.fin);
        place(self) == place(other)
    }

    /// The packets that carry this to `destination`. What came together on the way, or was not yet taken apart, was more
    /// than a link may carry.
    pub fn pieces(self, destination: SocketAddr) -> Vec<Vec<u8>> {
        let Some(head) = self.head.to(destination) else { return Vec::new() };
        let ip = match &head.ip {
            Ip::V4(header) => header.header_len(),
            Ip::V6(_) => Ipv6Header::LEN,
        };
        let room = FITS - ip - head.tcp.header_len();
        let begins: Vec<usize> = (0..self.data.len().max(1)).step_by(room).collect();
        let piece = |begin: usize| {
            let end = self.data.len().min(begin + room);
            let mut segment = head.clone();
            segment.tcp.sequence_number = head.tcp.sequence_number.wrapping_add(begin as u32);
            let is_last = end == self.data.len();
            segment.tcp.fin &= is_last;
            segment.tcp.psh &= is_last;
            segment.bytes_with(&self.data[begin..end])
        };
        begins.into_iter().filter_map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const ENDS: [(&str, &str); 2] = [("10.0.0.2:3306", "10.0.0.9:40000"), ("[fd00::2]:3306", "[fd00::9]:40000")];

    /// RFC 1071: over everything it protects, its own field included, the sum is all ones.
    fn sums_up(bytes: &[u8]) -> bool {
        let segment = Segment::parse(bytes).unwrap();
        let mut covered = Vec::new();
        let tcp = match &segment.ip {
            Ip::V4(header) => {
                covered.extend([header.source, header.destination].concat());
                &bytes[20..]
            }
            Ip::V6(header) => {
                covered.extend([header.source, header.destination].concat());
                &bytes[40..]
            }
        };
        covered.extend([0, 6]);
        covered.extend((tcp.len() as u16).to_be_bytes());
        covered.extend(tcp);
        let sum: u32 =
            covered.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
        (sum & 0xffff) + (sum >> 16) == 0xffff
    }

    #[test]
    fn a_question_comes_back_as_it_was_asked_and_its_sum_is_right() {
        for (from, to) in ENDS {
            let bytes = Segment::question(at(from), at(to), 0x1234_5678, 9).unwrap().bytes().unwrap();
            let read = Segment::parse(&bytes).unwrap();
            assert_eq!((read.source(), read.destination()), (at(from), at(to)));
            assert_eq!((read.tcp.sequence_number, read.tcp.ack, read.tcp.window_size), (0x1234_5678, true, 0));
            assert!(!read.is_syn());
            assert!(sums_up(&bytes), "{from}");
        }
    }

    #[test]
    fn a_reset_has_its_number_and_nothing_else() {
        for (from, to) in ENDS {
            let bytes = Segment::reset(at(from), at(to), 0x1234_5678).unwrap().bytes().unwrap();
            let read = Segment::parse(&bytes).unwrap();
            assert_eq!((read.source(), read.destination()), (at(from), at(to)));
            assert_eq!((read.tcp.sequence_number, read.tcp.ack, read.is_reset()), (0x1234_5678, false, true));
            assert!(sums_up(&bytes), "{from}");
        }
    }

    #[test]
    fn a_syn_is_sent_elsewhere_with_its_options_and_a_right_sum() {
        for (listener, client) in ENDS {
            let mut syn = Segment::question(at(client), at(listener), 7, 0).unwrap();
            (syn.tcp.syn, syn.tcp.ack) = (true, false);
            syn.tcp.options = etherparse::TcpOptions::try_from_slice(&[2, 4, 5, 0xb4, 1, 3, 3, 7]).unwrap();
            let mut copied = syn.clone().bytes().unwrap();
            // As the kernel hands it over: with a sum that is not there yet, and with the first bytes of its data.
            let sum = copied.len() - syn.tcp.header_len() + 16;
            copied[sum..sum + 2].fill(0);
            copied.extend(b"data");
            let elsewhere = if at(listener).is_ipv4() { at("10.7.7.7:1") } else { at("[fd00::7]:1") };
            let bytes = Segment::parse(&copied).unwrap().to(elsewhere).unwrap().bytes().unwrap();
            let read = Segment::parse(&bytes).unwrap();
            assert!(read.is_syn());
            assert_eq!(read.destination(), elsewhere);
            assert_eq!(read.tcp.options, syn.tcp.options);
            assert!(sums_up(&bytes), "{listener}");
        }
    }

    #[test]
    fn a_packet_is_put_back_in_pieces_that_any_link_carries_and_whose_sums_are_right() {
        for (listener, client) in ENDS {
            for len in [0, 1, 1000, 5000] {
                let data: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
                let mut head = Segment::question(at(client), at(listener), u32::MAX - 1500, 9).unwrap();
                (head.tcp.psh, head.tcp.fin) = (true, true);
                head.tcp.options =
                    etherparse::TcpOptions::try_from_slice(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
                let packet = head.clone().bytes_with(&data).unwrap();
                assert_eq!(Whole::parse(&packet[..packet.len() - 1]), None, "the end is missing");
                let whole = Whole::parse(&packet).unwrap();
                assert!(whole.repeats(&whole.clone()));
                let elsewhere = if at(listener).is_ipv4() { at("10.7.7.7:1") } else { at("[fd00::7]:1") };
                let pieces = whole.pieces(elsewhere);
                let mut arrived = Vec::new();
                for (number, piece) in (1..).zip(&pieces) {
                    assert!(piece.len() <= FITS && sums_up(piece), "{client} {len}");
                    let read = Whole::parse(piece).unwrap();
                    assert_eq!((read.head.source(), read.head.destination()), (at(client), elsewhere));
                    assert_eq!(read.head.tcp.options, head.tcp.options);
                    let place = read.head.tcp.sequence_number.wrapping_sub(head.tcp.sequence_number);
                    assert_eq!(place as usize, arrived.len());
                    assert_eq!(
                        (read.head.tcp.psh, read.head.tcp.fin),
                        [(false, false), (true, true)][usize::from(number == pieces.len())]
                    );
                    arrived.extend(read.data);
                }
                assert_eq!(arrived, data);
            }
        }
    }

    #[test]
    fn what_is_not_a_whole_tcp_header_is_none() {
        let good = Segment::question(at("10.0.0.1:1"), at("10.0.0.2:2"), 1, 1).unwrap().bytes().unwrap();
        for len in 0..good.len() {
            assert_eq!(Segment::parse(&good[..len]), None, "{len} bytes of it");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Segment::parse(&bytes)
        };
        assert_eq!(with(9, 17), None, "UDP");
        assert_eq!(with(6, 0x20), None, "a fragment that others follow");
        assert_eq!(with(7, 1), None, "a later fragment");
        assert_eq!(with(0, 0x55), None, "no IP that we know");
    }
}
