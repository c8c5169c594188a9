//! The algebra's laws against a plain set of numbers, the servers' own texts, and texts that are anything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{GtidError, GtidPosition, GtidSet, History, MariaGtid, Tag};
use crate::observation::Flavour;

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const B: &str = "4350f323-7565-4e59-8763-4b1b83a0ce0e";

fn set(text: &str) -> GtidSet {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn maria(text: &str) -> MariaGtid {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Each of these was given to a MySQL 9.7 server, which writes the same but for the line ends.
#[test]
fn a_set_is_written_as_the_server_writes_it() {
    for (text, canonical) in [
        ("", ""),
        (" , ,\n", ""),
        ("A:1", "A:1"),
        ("A:1-5:3-9:11:10", "A:1-11"),
        ("A:7:1-3", "A:1-3:7"),
        ("B:1,\nA:1-2 : 5 - 6", "A:1-2:5-6,B:1"),
        ("A:1,A:2-3", "A:1-3"),
        ("A:Zeta:1:alpha:2-3,A:5", "A:5:alpha:2-3:zeta:1"),
        ("A:1:t:1,A:T:2", "A:1:t:1-2"),
        ("A:9223372036854775806", "A:9223372036854775806"),
        ("A", ""),
        ("A:tag", ""),
        ("A:tag:other:1", "A:other:1"),
        ("A:5-3", ""),
        ("A:_x9 : 1,,B:2", "A:_x9:1,B:2"),
    ] {
        let full = |text: &str| text.replace('A', A).replace('B', B);
        assert_eq!(set(&full(text)).to_string(), full(canonical), "of {text:?}");
    }
    let lines = format!("{A}:1-3:tag:7,\n{B}:1");
    assert_eq!(format!("{:#}", set(&lines)), lines);
}

#[test]
fn a_uuid_is_read_in_each_form_that_the_server_reads() {
    let upper = A.to_uppercase();
    let bare = A.replace('-', "");
    for form in [&upper, &bare, &format!("{{{A}}}"), &format!("{{{bare}}}")] {
        assert_eq!(set(&format!("{form}:1")).to_string(), format!("{A}:1"));
    }
}

#[test]
fn what_is_no_set_is_refused_with_the_piece_that_is_wrong() {
    let refused = |text: &str, expected: GtidError| {
        let text = text.replace('A', A);
        assert_eq!(text.parse::<GtidSet>().unwrap_err(), expected, "of {text:?}");
    };
    let interval = |text: &str| GtidError::Interval(text.into());
    refused("A:", interval(""));
    refused("A:0", interval("0"));
    refused("A:0-3", interval("0-3"));
    refused("A:1:", interval(""));
    refused("A:1 2", interval("1 2"));
    refused("A:1tag:2", interval("1tag"));
    refused("A:1-", interval("1-"));
    refused("A:-1", interval("-1"));
    refused("A:+1", interval("+1"));
    refused("A:1-2-3", interval("1-2-3"));
    refused("A:9223372036854775807", interval("9223372036854775807"));
    refused("A:99999999999999999999999", interval("99999999999999999999999"));
    refused("A:t-g:1", GtidError::Tag("t-g".into()));
    refused(&format!("A:{}:1", "t".repeat(33)), GtidError::Tag("t".repeat(33)));
    refused("3e11fa47:1", GtidError::Uuid("3e11fa47".into()));
    refused("+e11fa47-71ca-11e1-9e33-c80aa9429562:1", GtidError::Uuid("+e11fa47-71ca-11e1-9e33-c80aa9429562".into()));
    refused("{A:1", GtidError::Uuid(format!("{{{A}")));
    refused(&"é".repeat(100), GtidError::Uuid(format!("{}…", "é".repeat(60))));
}

#[test]
fn a_count_of_more_than_64_bits_is_exact() {
    let last = i64::MAX - 1;
    let text = (0..4).map(|n| format!("{n}{}:1-{last}", &A[1..])).collect::<Vec<_>>().join(",");
    assert_eq!(set(&text).count(), 4 * u128::from(last as u64));
    let position = GtidPosition::Mysql(set(&text));
    let nothing = GtidPosition::Mysql(GtidSet::default());
    assert_eq!(position.missing_from(&nothing).unwrap().count, u64::MAX);
}

#[test]
fn one_origin_can_be_left_out_with_all_its_tags() {
    let text = format!("{A}:1:tag:2,{B}:3");
    assert_eq!(set(&text).without(A.parse().unwrap()).to_string(), format!("{B}:3"));
}

#[test]
fn a_position_of_mariadb_is_compared_by_domain() {
    let primary = maria("0-11-120, 1-12-7\n,2-1-1");
    assert_eq!(primary.to_string(), "0-11-120,1-12-7,2-1-1");
    let replica = maria("0-12-100,1-12-8");
    assert!(!replica.is_subset(&primary) && !primary.is_subset(&replica));
    let missing = primary.missing_from(&replica);
    assert_eq!((missing.text.as_str(), missing.count), ("0-11-101..0-11-120,2-1-1", 21));
    assert_eq!(primary.union(&replica).to_string(), "0-11-120,1-12-8,2-1-1");
    assert_eq!(maria("0-1-5,0-2-9,0-1-7").to_string(), "0-2-9");
    assert!(maria("").is_empty());
    let whole = format!("0-1-{0},1-1-{0}", u64::MAX);
    assert_eq!(maria(&whole).missing_from(&MariaGtid::default()).count, u64::MAX);
}

#[test]
fn what_is_no_position_of_mariadb_is_refused() {
    for text in
        ["0", "0-1", "0-1-2-3", "0-1-", "-0-1-2", "0-+1-2", "4294967296-1-1", "0-1-18446744073709551616", "a-b-c"]
    {
        assert_eq!(text.parse::<MariaGtid>().unwrap_err(), GtidError::Maria(text.into()));
    }
}

#[test]
fn positions_of_two_flavours_cannot_be_compared() {
    let mysql = GtidPosition::parse(Flavour::Mysql, &format!("{A}:1")).unwrap();
    let mariadb = GtidPosition::parse(Flavour::Mariadb, "0-1-1").unwrap();
    assert_eq!((mysql.missing_from(&mariadb), mariadb.is_subset(&mysql)), (None, None));
    assert_eq!((mysql.to_string(), mariadb.to_string()), (format!("{A}:1"), "0-1-1".into()));
}

/// The same set twice: as numbers, and as a text with its intervals in any order.
type Model = BTreeSet<(usize, u64)>;
const ORIGINS: [&str; 3] = [A, "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag", B];

fn model() -> impl Strategy<Value = (Model, GtidSet)> {
    prop::collection::vec((0usize..3, 1u64..40, 0u64..12), 0..12).prop_map(|pieces| {
        let numbers = pieces.iter().flat_map(|(origin, first, more)| (*first..=first + more).map(|n| (*origin, n)));
        let member =
            |(origin, first, more): &(usize, u64, u64)| format!("{}:{first}-{}", ORIGINS[*origin], first + more);
        let text = pieces.iter().map(member).collect::<Vec<_>>().join(",\n");
        (numbers.collect(), set(&text))
    })
}

/// A set out of numbers, one interval a number.
fn from_model(model: &Model) -> GtidSet {
    let member = |(origin, number): &(usize, u64)| format!("{}:{number}", ORIGINS[*origin]);
    set(&model.iter().map(member).collect::<Vec<_>>().join(","))
}

fn position() -> impl Strategy<Value = MariaGtid> {
    prop::collection::vec((0u32..4, 1u32..3, 0u64..20), 0..6).prop_map(|members| {
        let member = |(domain, server, sequence): &(u32, u32, u64)| format!("{domain}-{server}-{sequence}");
        maria(&members.iter().map(member).collect::<Vec<_>>().join(","))
    })
}

/// Texts that look like sets at first.
fn almost() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        A,
        B,
        ":",
        ",",
        "-",
        "1",
        "18446744073709551615",
        "9223372036854775806",
        "0",
        " ",
        "\n",
        "tag",
        "_",
        "{",
        "}",
        "é",
    ]);
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

#[test]
fn a_difference_of_mariadb_histories_knows_where_it_begins() {
    let history = |text: &str| History::parse(Flavour::Mariadb, text).unwrap();
    let left = history("0-11-135,0-12-90,1-11-7").minus(&history("0-11-130,0-12-131"));
    assert_eq!(left.to_string(), "0-11-131..135,1-11-7");
    assert_eq!(history(&left.to_string()), left);
    let History::Mariadb(left) = left else { panic!("not MariaDB's") };
    assert!(left.contains((0, 11), 131) && left.contains((0, 11), 135) && left.contains((1, 11), 1));
    assert!(!left.contains((0, 11), 130) && !left.contains((0, 11), 136) && !left.contains((0, 12), 90));
    assert!(History::parse(Flavour::Mariadb, "0-11-9..8").is_err());
}

#[test]
fn transactions_are_added_one_by_one_in_any_order() {
    let origin = (A.parse().unwrap(), Tag::default());
    let mut gathered = GtidSet::default();
    for number in [4, 5, 1, 2, 9, 3, u64::MAX, 0] {
        gathered.insert(origin.clone(), number);
    }
    assert_eq!(gathered, set(&format!("{A}:1-5:9")));
    assert!(gathered.contains(&origin, 3) && !gathered.contains(&origin, 6));
}

proptest! {
    #[test]
    fn the_algebra_is_that_of_sets((ours, a) in model(), (theirs, b) in model()) {
        prop_assert_eq!(a.union(&b), from_model(&(&ours | &theirs)));
        prop_assert_eq!(a.minus(&b), from_model(&(&ours - &theirs)));
        prop_assert_eq!(a.is_subset(&b), ours.is_subset(&theirs));
        prop_assert_eq!(a.count(), ours.len() as u128);
        prop_assert_eq!(a.is_empty(), ours.is_empty());
    }

    #[test]
    fn the_laws_hold_without_a_model((_, a) in model(), (_, b) in model(), (_, c) in model()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.union(&b.union(&c)), a.union(&b).union(&c));
        prop_assert_eq!(a.minus(&b).union(&a), a.clone());
        prop_assert_eq!(a.minus(&b).minus(&c), a.minus(&b.union(&c)));
        prop_assert!(a.minus(&b).is_subset(&a) && a.is_subset(&a.union(&b)));
        prop_assert_eq!(a.union(&b).count() + a.minus(&a.minus(&b)).count(), a.count() + b.count());
    }

    #[test]
    fn what_is_written_reads_back_the_same((_, a) in model(), position in position()) {
        prop_assert_eq!(set(&a.to_string()), a.clone());
        prop_assert_eq!(set(&format!("{a:#}")), a);
        prop_assert_eq!(maria(&position.to_string()), position);
    }

    #[test]
    fn positions_of_mariadb_form_a_lattice(a in position(), b in position(), c in position()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.union(&b.union(&c)), a.union(&b).union(&c));
        prop_assert!(a.is_subset(&a.union(&b)));
        prop_assert_eq!(a.is_subset(&b), a.missing_from(&b).count == 0);
        prop_assert_eq!(a.missing_from(&b).text.is_empty(), a.is_subset(&b));
    }

    #[test]
    fn no_text_makes_a_parser_or_the_algebra_panic(a in prop_oneof![almost(), any::<String>()], b in almost()) {
        for flavour in [Flavour::Mysql, Flavour::Mariadb] {
            let (a, b) = (GtidPosition::parse(flavour, &a), GtidPosition::parse(flavour, &b));
            if let (Ok(a), Ok(b)) = (a, b) {
                a.missing_from(&b);
                a.is_subset(&b);
                prop_assert_eq!(GtidPosition::parse(flavour, &a.to_string()).unwrap(), a);
            }
        }
    }
}
