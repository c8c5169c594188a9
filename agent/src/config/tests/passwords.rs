//! Where passwords come from, and where they never show.

use std::os::unix::fs::PermissionsExt;

use super::{cluster, folder, load, rendered, resolver};
use crate::config::{Password, Severity, load_with};

#[test]
fn a_password_does_not_show_in_debug() {
    let loaded = load(&[("clusters.d/a.toml", &cluster("a", "10.0.0.2:3306", "10.0.0.11"))]);
    assert_eq!(loaded.agent.as_ref().unwrap().credentials["default"].password, Password::new("swordfish"));
    assert!(!format!("{loaded:?}").contains("swordfish"));
}

#[test]
fn a_password_in_the_configuration_is_refused_and_not_shown() {
    let shown = rendered(&[("shunt.toml", "[credentials.default]\nuser = \"a\"\npassword = \"hunter2\"\n")]);
    assert!(!shown.contains("hunter2"), "{shown}");
    insta::assert_snapshot!(shown);
}

#[test]
fn a_password_file_that_cannot_be_read_is_named_with_the_cause() {
    let agent =
        "[credentials.default]\npassword_file = \"/nowhere/password\"\n\n[credentials.b]\npassword_file = \"/tmp\"\n";
    insta::assert_snapshot!(rendered(&[("shunt.toml", agent)]));
}

#[test]
fn the_usual_password_file_is_only_missed_when_a_cluster_needs_it() {
    let a = cluster("a", "10.0.0.2:3306", "10.0.0.11");
    let dir = folder(&[("clusters.d/a.toml", &a)]);
    std::fs::remove_file(dir.path().join("password")).unwrap();
    let loaded = load_with(dir.path(), None, &resolver);
    assert!(loaded.agent.is_none());
    assert_eq!(loaded.clusters.len(), 1);
    insta::assert_snapshot!(loaded.render(false).replace(&*dir.path().to_string_lossy(), "/etc/shunt"));

    std::fs::remove_file(dir.path().join("clusters.d/a.toml")).unwrap();
    let loaded = load_with(dir.path(), None, &resolver);
    assert!(loaded.agent.is_some() && !loaded.has_errors(), "{}", loaded.render(false));
}

#[test]
fn systemd_credentials_come_before_the_file_in_the_configuration_folder() {
    let dir = folder(&[("run/password", "from systemd\n")]);
    let loaded = load_with(dir.path(), Some(&dir.path().join("run")), &resolver);
    assert_eq!(loaded.agent.unwrap().credentials["default"].password.reveal(), "from systemd");
    let loaded = load_with(dir.path(), Some(&dir.path().join("elsewhere")), &resolver);
    assert_eq!(loaded.agent.unwrap().credentials["default"].password.reveal(), "swordfish");
}

#[test]
fn a_password_file_that_everybody_can_read_is_warned_about() {
    for agent in ["", "[credentials.default]\nuser = \"a\"\n"] {
        let dir = folder(&[("shunt.toml", agent)]);
        let file = dir.path().join("password");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let loaded = load_with(dir.path(), None, &resolver);
        assert!(loaded.agent.is_some());
        let [warning] = &*loaded.diagnostics else { panic!("{}", loaded.render(false)) };
        assert_eq!(warning.severity, Severity::Warning);
        assert!(warning.message.contains("everybody"), "{}", warning.message);
    }
}

#[test]
fn a_password_file_with_anything_but_one_line_is_refused() {
    for (text, why) in [("", "is empty"), ("a\nb\n", "more than one line"), (&*"x".repeat(5000), "longer than")] {
        let dir = folder(&[("shunt.toml", "[credentials.default]\nuser = \"a\"\n"), ("password", text)]);
        let shown = load_with(dir.path(), None, &resolver).render(false);
        assert!(shown.contains(why), "{shown}");
    }
}
