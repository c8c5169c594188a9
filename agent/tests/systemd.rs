//! The unit and its companions, as systemd's own tools judge them. They need no running systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The least secure that the unit may become; 0 is best, 10 worst.
const MOST_EXPOSED: f64 = 2.5;

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(shipped(file)).expect(file)
}

/// A tool's output; `None`, after saying so loudly, where the machine lacks the tool.
fn run(test: &str, tool: &str, args: &[&str]) -> Option<Output> {
    match Command::new(tool).args(args).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(test, &format!("there is no {tool} here: apt-get install systemd"));
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

/// Written to stderr itself, which the test harness does not capture.
fn skip(test: &str, why: &str) {
    let _ = nix::unistd::write(std::io::stderr(), format!("SKIPPED {test}: {why}\n").as_bytes());
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// The unit with the program that was just built in place of the installed one.
fn unit() -> (TempDir, String) {
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join("shunt.service");
    fs::write(&path, read("shunt.service").replace("/usr/bin/shunt", env!("CARGO_BIN_EXE_shunt"))).expect("a unit");
    let path = path.to_string_lossy().into_owned();
    (dir, path)
}

#[test]
fn systemd_finds_nothing_to_say_about_the_unit() {
    let (_dir, unit) = unit();
    let Some(output) = run("systemd verify", "systemd-analyze", &["verify", "--man=no", &unit]) else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("shunt.service"), "{}", text(&output));
}

#[test]
fn the_unit_is_not_more_exposed_than_promised() {
    let (_dir, unit) = unit();
    let args = ["security", "--offline=true", "--no-pager", &unit];
    let Some(output) = run("systemd security", "systemd-analyze", &args) else { return };
    let text = text(&output);
    let line = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{text}"));
    let score = line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a number");
    assert!(score <= MOST_EXPOSED, "{text}");
}

#[test]
fn the_unit_asks_for_four_capabilities_and_no_more() {
    let unit = read("shunt.service");
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let lines: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix(key)).collect();
        assert_eq!(lines, ["CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON"], "{key}");
    }
}

#[test]
fn the_unit_takes_nothing_away_that_the_ebpf_datapath_needs() {
    let unit = read("shunt.service");
    let allows = |key: &str, word: &str| {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)).filter(|value| !value.starts_with('~'));
        values.any(|value| value.split_whitespace().any(|found| found == word))
    };
    for call in ["bpf", "sched_setaffinity"] {
        assert!(allows("SystemCallFilter=", call), "{call}");
    }
    assert!(allows("RestrictAddressFamilies=", "AF_PACKET"));
    // Everything else under /sys is read-only.
    assert!(allows("ReadWritePaths=", "-/sys/fs/bpf/shunt"));
}

#[test]
fn stopping_the_unit_runs_nothing_that_could_take_mappings_away() {
    let unit = read("shunt.service");
    assert!(!unit.lines().any(|line| line.starts_with("ExecStop")), "{unit}");
}

#[test]
fn the_user_and_the_folders_are_made_as_the_unit_needs_them() {
    use std::os::unix::fs::MetadataExt;
    const TEST: &str = "systemd sysusers and tmpfiles";
    if !nix::unistd::geteuid().is_root() {
        return skip(TEST, "it needs root to make files of another user");
    }
    let root = TempDir::new().expect("a folder");
    fs::create_dir_all(root.path().join("etc/shunt")).expect("etc");
    fs::create_dir_all(root.path().join("sys/fs/bpf")).expect("sys");
    fs::write(root.path().join("etc/shunt/password"), "x").expect("a file");
    let at = format!("--root={}", root.path().display());
    // The tools look for what they are given below that root.
    for (tool, file, args) in [
        ("systemd-sysusers", "sysusers.d/shunt.conf", &[][..]),
        ("systemd-tmpfiles", "tmpfiles.d/shunt.conf", &["--create"][..]),
    ] {
        let copy = root.path().join(file.replace('/', "-"));
        fs::copy(shipped(file), &copy).expect("a copy");
        let copy = copy.to_string_lossy();
        let args = [args, &[&*at, &*copy]].concat();
        let Some(output) = run(TEST, tool, &args) else { return };
        assert!(output.status.success(), "{tool}: {}", text(&output));
    }
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).expect("passwd");
    let entry: Vec<_> = passwd.lines().find(|line| line.starts_with("shunt:")).expect("the user").split(':').collect();
    let (uid, gid): (u32, u32) = (entry[2].parse().expect("a uid"), entry[3].parse().expect("a gid"));
    assert!(entry[6].ends_with("nologin"), "{passwd}");
    for (path, mode, owner, group) in [
        ("etc/shunt", 0o755, 0, 0),
        ("etc/shunt/clusters.d", 0o755, 0, 0),
        ("etc/shunt/password", 0o640, 0, gid),
        ("var/lib/shunt", 0o750, uid, gid),
        ("sys/fs/bpf", 0o711, 0, 0),
        ("sys/fs/bpf/shunt", 0o700, uid, gid),
    ] {
        let found = fs::metadata(root.path().join(path)).expect(path);
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, owner, group), "{path}");
    }
}

#[test]
fn every_sysctl_is_one_that_kernels_have() {
    // Those of the connection tracker only appear when something uses it.
    let known =
        |key: &str| Path::new("/proc/sys").join(key.replace('.', "/")).exists() || key.contains(".nf_conntrack_");
    for line in read("sysctl.d/50-shunt.conf").lines() {
        let setting = line.trim_start_matches(['#', '-']);
        let Some((key, value)) = setting.split_once(" = ") else { continue };
        assert!(known(key), "{line}");
        assert!(value.parse::<u64>().is_ok(), "{line}");
    }
}
