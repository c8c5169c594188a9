//! Entries as a kernel (Linux 6.18) has told of them, and what is read from them.

use std::net::SocketAddr;
use std::time::Duration;

use shunt_core::flow::{Phase, Traffic};

use super::details::{Details, Timeouts};
use super::entry::Entry;
use super::filter::Filter;
use super::{IPS_DST_NAT, IPS_SRC_NAT};

/// Established, IPv4, with nf_conntrack_acct and nf_conntrack_timestamp on.
const ESTABLISHED: &str = "\
     1c010000000122000200000000000000020000003400018014000180080001000a4d0102080002000a4d01011c000280\
     0500010006000000060002008cae0000060003000cea00003400028014000180080001000a4d0202080002000a4d0201\
     1c0002800500010006000000060002000cea000006000300ee1a000008000300000001be080008000000000008000c00\
     db67aba508000b0000000001080007000006977f300004802c0001800500010003000000050002000a00000005000300\
     0a000000060004002300000006000500230000001c0009800c00010000000000000000110c0002000000000000000381\
     1c000a800c00010000000000000000100c0002000000000000000361100014800c00010018ea1c6e1203b7fa";

/// The same, IPv6.
const ESTABLISHED_V6: &str = "\
     4c0100000001220006000000000000000a0000004c0001802c00018014000300fd770001000000000000000000000002\
     14000400fd7700010000000000000000000000011c000280050001000600000006000200b1200000060003000cea0000\
     4c0002802c00018014000300fd77000200000000000000000000000214000400fd770002000000000000000000000001\
     1c0002800500010006000000060002000cea000006000300ad23000008000300000001be080008000000000008000c00\
     4552957208000b0000000001080007000006977f300004802c0001800500010003000000050002000a00000005000300\
     0a000000060004002300000006000500230000001c0009800c00010000000000000000100c000200000000000000048d\
     1c000a800c000100000000000000000f0c000200000000000000045b100014800c00010018ea1c6e16239f04";

/// The client has closed its end; nothing is counted or timed.
const CLOSING: &str = "\
     d4000000000122000200000000000000020000003400018014000180080001000a4d0102080002000a4d01011c000280\
     0500010006000000060002008cbe0000060003000cea00003400028014000180080001000a4d0202080002000a4d0201\
     1c0002800500010006000000060002000cea000006000300476c000008000300000001be080008000000000008000c00\
     4cb9a18408000b00000000010800070000000077300004802c0001800500010004000000050002000a00000005000300\
     0a00000006000400370000000600050023000000";

const TIMEOUTS: Timeouts = Timeouts {
    established: Duration::from_secs(432_000),
    unacknowledged: Duration::from_secs(300),
    retransmitting: Duration::from_secs(300),
};

fn bytes(recorded: &str) -> Vec<u8> {
    let digits: Vec<_> = recorded.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_recorded_entry_says_who_is_who() {
    let entry = Entry::parse(&bytes(ESTABLISHED)).unwrap();
    assert_eq!(entry.original.source, address("10.77.1.2:36014"));
    assert_eq!(entry.original.destination, address("10.77.1.1:3306"));
    assert_eq!(entry.reply.source, address("10.77.2.2:3306"));
    assert_eq!(entry.reply.destination, address("10.77.2.1:60954"));
    assert_eq!(entry.status & (IPS_DST_NAT | IPS_SRC_NAT), IPS_DST_NAT | IPS_SRC_NAT);

    let entry = Entry::parse(&bytes(ESTABLISHED_V6)).unwrap();
    assert_eq!(entry.original.destination, address("[fd77:1::1]:3306"));
    assert_eq!(entry.reply.source, address("[fd77:2::2]:3306"));
}

#[test]
fn a_recorded_entry_tells_its_details() {
    let began = 0x18ea_1c6e_1203_b7fa;
    let details = Details::parse(&bytes(ESTABLISHED));
    assert_eq!(
        details,
        Details {
            phase: Phase::Established,
            unacknowledged: false,
            traffic: Some(Traffic { to_backend: 0x381, to_client: 0x361 }),
            began: Some(began),
            remaining: Some(Duration::from_secs(431_999)),
        }
    );
    assert_eq!(details.idle(&TIMEOUTS), Some(Duration::from_secs(1)));
    assert_eq!(details.age(Duration::from_nanos(began + 5)), Some(Duration::from_nanos(5)));
    assert_eq!(details.age(Duration::from_nanos(began - 1)), None, "the clock was set back");

    let details = Details::parse(&bytes(CLOSING));
    assert_eq!((details.phase, details.traffic, details.began), (Phase::Closing, None, None));
    assert_eq!(details.idle(&TIMEOUTS), None);
    assert_eq!(details.age(Duration::from_secs(1)), None);
}

#[test]
fn idle_time_is_told_only_where_the_timeout_is_known() {
    let details = |unacknowledged, remaining| Details {
        phase: Phase::Established,
        unacknowledged,
        traffic: None,
        began: None,
        remaining: Some(Duration::from_secs(remaining)),
    };
    for (unacknowledged, remaining, idle) in [
        (false, 432_000, Some(0)),
        (false, 431_000, Some(1_000)),
        (false, 432_001, None),
        // Short of one or the other: the window may be closed.
        (false, 300, None),
        (true, 299, Some(1)),
        (true, 301, Some(431_699)),
    ] {
        let told = details(unacknowledged, remaining).idle(&TIMEOUTS);
        assert_eq!(told, idle.map(Duration::from_secs), "{unacknowledged} {remaining}");
    }
    let short = Timeouts { established: Duration::from_secs(200), ..TIMEOUTS };
    assert_eq!(details(false, 50).idle(&short), Some(Duration::from_secs(150)), "there is but one timeout then");
}

#[test]
fn a_filter_lets_through_what_it_asks_for() {
    let entry = Entry::parse(&bytes(ESTABLISHED)).unwrap();
    for (filter, wanted) in [
        (Filter::Mapped, true),
        (Filter::Rewritten, true),
        (Filter::SeenPort(60_954), true),
        (Filter::SeenPort(36_014), false),
        (Filter::Pair(entry.pair()), true),
    ] {
        assert_eq!(filter.lets_through(&entry), wanted, "{filter:?}");
    }
    let plain = Entry { status: entry.status & !IPS_DST_NAT, ..entry };
    assert!(!Filter::Mapped.lets_through(&plain) && !Filter::SeenPort(60_954).lets_through(&plain));
}

#[test]
fn a_message_that_is_cut_short_tells_less_and_harms_nobody() {
    let whole = bytes(ESTABLISHED);
    for len in 0..whole.len() {
        let _ = Entry::parse(&whole[..len]);
        let _ = Details::parse(&whole[..len]);
    }
}
