//! Whether the probe's user may look at what it has to look at.

use shunt_core::observation::Flavour;

use super::Finding;
use crate::probe;

const CHECK: &str = "grants";

/// A privilege by any of its names, each good on its own.
const MYSQL: [&[&str]; 1] = [&["REPLICATION CLIENT", "SUPER"]];
const MARIADB: [&[&str]; 1] = [&["REPLICA MONITOR", "SLAVE MONITOR"]];

/// Judges by what SHOW GRANTS printed. A role's privileges do not show there, so a missing one is a warning only.
pub fn judge(flavour: Flavour, server: &str, lines: &[String]) -> Finding {
    let text = lines.join("\n").to_uppercase();
    let all = text.contains("GRANT ALL PRIVILEGES ON *.*");
    let needed: &[&[&str]] = match flavour {
        Flavour::Mysql => &MYSQL,
        Flavour::Mariadb => &MARIADB,
    };
    let has = |names: &&[&str]| all || names.iter().any(|name| text.contains(name));
    let mut missing: Vec<_> = needed.iter().filter(|names| !has(names)).map(|names| names[0]).collect();
    let reads_schema = all || text.contains("SELECT ON *.*") || text.contains("PERFORMANCE_SCHEMA");
    if flavour == Flavour::Mysql && !reads_schema && !text.contains("GRANT SELECT") {
        missing.push("SELECT on performance_schema");
    }
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("{server}: the probe may look at replication"));
    }
    Finding::warning(
        CHECK,
        format!("{server}: SHOW GRANTS does not show {}", missing.join(", ")),
        format!("unless a role gives it: {}", probe::grants(flavour).join("; ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn check(flavour: Flavour, lines: &[&str], level: Level) {
        let lines: Vec<_> = lines.iter().map(|&l| l.to_owned()).collect();
        let found = judge(flavour, "db1", &lines);
        assert_eq!(found.level, level, "{lines:?}: {found:?}");
    }

    #[test]
    fn enough_is_enough_and_less_is_named() {
        check(
            Flavour::Mysql,
            &["GRANT REPLICATION CLIENT ON *.* TO `s`@`%`", "GRANT SELECT ON `performance_schema`.* TO `s`@`%`"],
            Level::Ok,
        );
        check(Flavour::Mysql, &["GRANT ALL PRIVILEGES ON *.* TO `root`@`%`"], Level::Ok);
        check(Flavour::Mysql, &["GRANT USAGE ON *.* TO `s`@`%`"], Level::Warning);
        check(Flavour::Mysql, &["GRANT REPLICATION CLIENT ON *.* TO `s`@`%`"], Level::Warning);
        check(Flavour::Mariadb, &["GRANT SLAVE MONITOR ON *.* TO `s`@`%`"], Level::Ok);
        check(Flavour::Mariadb, &["GRANT BINLOG MONITOR ON *.* TO `s`@`%`"], Level::Warning);
        check(Flavour::Mariadb, &["GRANT USAGE ON *.* TO `s`@`%`"], Level::Warning);
    }
}
