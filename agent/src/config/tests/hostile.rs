//! What is no configuration at all: it gets an error, never a panic, and takes nobody else down.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::{cluster, folder, load, rendered_dir, resolver};
use crate::config::load_with;

#[test]
fn files_that_cannot_be_read_are_errors_and_the_others_are_served() {
    let good = cluster("good", "10.0.0.2:3306", "10.0.0.11");
    let dir = folder(&[("clusters.d/good.toml", &good)]);
    let clusters = dir.path().join("clusters.d");
    std::fs::create_dir(clusters.join("folder.toml")).unwrap();
    std::fs::write(clusters.join("latin1.toml"), b"name = \"a\"\n# caf\xe9\n").unwrap();
    std::fs::write(clusters.join("long.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    symlink("/nowhere", clusters.join("dangling.toml")).unwrap();
    symlink("/dev/zero", clusters.join("zero.toml")).unwrap();
    nix::unistd::mkfifo(&clusters.join("pipe.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let loaded = load_with(dir.path(), None, &resolver);
    assert_eq!(loaded.clusters.len(), 1);
    assert_eq!(loaded.files[&clusters.join("good.toml")].as_str(), "good");
    assert_eq!(loaded.broken.len(), 6);
    assert!(loaded.is_complete);
    assert!(loaded.agent.is_some());
    insta::assert_snapshot!(rendered_dir(dir.path()));
}

#[test]
fn a_folder_that_is_not_there_is_a_clear_error() {
    let dir = folder(&[]);
    insta::assert_snapshot!(rendered_dir(&dir.path().join("gone")));
}

#[test]
fn a_folder_of_clusters_that_cannot_be_listed_says_that_clusters_may_be_unknown() {
    let loaded = load(&[("clusters.d", "a file")]);
    assert!(!loaded.is_complete && loaded.has_errors());
    assert!(loaded.agent.is_some());
}

#[test]
fn a_folder_with_nothing_in_it_is_warned_about() {
    let dir = folder(&[]);
    let loaded = load_with(dir.path(), None, &resolver);
    assert!(loaded.is_complete && loaded.agent.is_some() && !loaded.has_errors());
    insta::assert_snapshot!(rendered_dir(dir.path()));
}

#[test]
fn a_byte_order_mark_is_skipped_and_the_caret_stays_in_its_place() {
    let text = format!("\u{feff}{}", cluster("a", "10.0.0.2:3306", "10.0.0.11"));
    let loaded = load(&[("clusters.d/a.toml", &text)]);
    assert_eq!((loaded.render(false), loaded.clusters.len()), (String::new(), 1));
    let shown = load(&[("clusters.d/a.toml", &text.replace("name", "nam"))]).render(false);
    assert!(shown.contains("| nam = ") && shown.contains("| ^^^"), "{shown}");
}

#[test]
fn a_syntax_error_in_the_agents_file_blames_no_cluster_for_what_it_hides() {
    let text = format!("credentials = \"west\"\n{}", cluster("a", "10.0.0.2:3306", "10.0.0.11"));
    let agent = "[credentials.west\nuser = \"w\"\n";
    let loaded = load(&[("shunt.toml", agent), ("clusters.d/a.toml", &text)]);
    assert!(loaded.agent.is_none());
    assert_eq!(loaded.clusters.len(), 1, "{}", loaded.render(false));
}

#[test]
fn a_file_with_thousands_of_errors_shows_the_first_hundred_and_counts_the_rest() {
    let text = (0..5000).map(|n| format!("k{n} = 1")).collect::<Vec<_>>().join("\n");
    let loaded = load(&[("clusters.d/a.toml", &text)]);
    assert_eq!(loaded.diagnostics.len(), 101);
    assert_eq!(loaded.diagnostics[100].message, "and 4903 more in this file");
}

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("[", "]"), ("{ a = ", "}")] {
        let text = format!("name = {}{}", open.repeat(50_000), close.repeat(50_000));
        assert!(load(&[("clusters.d/a.toml", &text)]).has_errors());
    }
}

#[test]
fn messages_do_not_carry_terminal_escapes() {
    let text = "\"a\\u001b[31mb\" = 1\nfailover = \"\\u001b[2J\"\nx = \"\u{1b}[31m\"\n";
    let shown = load(&[("clusters.d/a.toml", text)]).render(false);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

/// Pieces of configurations, put together without sense.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "name",
        "servers",
        "listen",
        "[[listen]]",
        "[probe]",
        "[agent]",
        "[credentials.x]",
        "address",
        "=",
        " ",
        "\n",
        "\r\n",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "#",
        "\t",
        "\u{feff}",
        "é",
        "10.0.0.2:3306",
        "\"db1.example\"",
        "\"\"\"",
        "password = ",
        "failover",
        "\"promote\"",
        "allow",
        "snat",
        "0",
        "-1",
        "1e400",
        "true",
        "1979-05-27",
        "\\u0000",
        "99999999999999999999",
        "role",
        "\"primary\"",
        "drain",
        "\"30s\"",
        "hooks",
        "notify",
        "url",
        "\"http://x/\"",
        "salvage",
        "rejoin",
        "weight",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_the_reader_or_the_renderer_panic(text in prop_oneof![pieces(), any::<String>()]) {
        let dir = folder(&[("shunt.toml", &text), ("clusters.d/a.toml", &text)]);
        let loaded = load_with(dir.path(), None, &resolver);
        loaded.render(true);
        prop_assert!(loaded.clusters.len() + loaded.broken.len() == 1);
        prop_assert!(loaded.broken.is_empty() || loaded.has_errors());
    }

    #[test]
    fn one_broken_byte_in_a_good_file_never_panics(at in 0usize..200, byte in any::<char>()) {
        let mut text = cluster("a", "10.0.0.2:3306", "db1.example:3306");
        let at = at.min(text.len());
        text.insert(at, byte);
        load(&[("clusters.d/a.toml", &text)]).render(true);
    }
}
