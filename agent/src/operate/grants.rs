//! What the agent's user needs on a server that it is to promote, make read-only or repoint, as statements that an operator
//! can run; and what SHOW GRANTS says that it has.

pub mod applying;

use std::collections::{BTreeMap, BTreeSet};

use shunt_core::observation::Flavour;

/// One privilege and what needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub privilege: &'static str,
    /// Other names of it, and privileges that contain it.
    pub also: &'static [&'static str],
    pub on: &'static str,
    /// For whoever asks why.
    pub why: &'static str,
}

const EVERYWHERE: &str = "*.*";

const fn need(privilege: &'static str, also: &'static [&'static str], why: &'static str) -> Need {
    Need { privilege, also, on: EVERYWHERE, why }
}

const MYSQL: &[Need] = &[
    need("REPLICATION CLIENT", &["SUPER"], "SHOW REPLICA STATUS"),
    need("REPLICATION_SLAVE_ADMIN", &["SUPER"], "STOP, START and CHANGE of replication"),
    need("RELOAD", &[], "RESET REPLICA ALL"),
    need("SYSTEM_VARIABLES_ADMIN", &["SUPER"], "SET GLOBAL super_read_only and semi-sync"),
    need("CONNECTION_ADMIN", &["SUPER"], "KILL, and a way in when max_connections is reached"),
    need("PROCESS", &[], "seeing which sessions are inside a transaction"),
    need("REPLICATION SLAVE", &[], "fetching transactions from a former primary's binary log"),
    Need {
        privilege: "SELECT",
        also: &[],
        on: "performance_schema.*",
        why: "seeing sessions, and what replication is connected to",
    },
];

const MARIADB: &[Need] = &[
    need("REPLICA MONITOR", &["SLAVE MONITOR"], "SHOW ALL SLAVES STATUS"),
    need("BINLOG MONITOR", &["REPLICATION CLIENT"], "finding the binary logs of a former primary"),
    need("REPLICATION SLAVE ADMIN", &["REPLICATION REPLICA ADMIN"], "STOP, START and CHANGE of replication"),
    need("REPLICATION MASTER ADMIN", &[], "semi-sync"),
    need("RELOAD", &[], "RESET SLAVE ALL"),
    need("READ_ONLY ADMIN", &["READ ONLY ADMIN"], "SET GLOBAL read_only"),
    need("CONNECTION ADMIN", &[], "KILL, and a way in when max_connections is reached"),
    need("PROCESS", &[], "seeing which sessions there are"),
    need("REPLICATION SLAVE", &["REPLICATION REPLICA"], "fetching transactions from a former primary's binary log"),
];

/// What promote mode needs.
pub const fn needed(flavour: Flavour) -> &'static [Need] {
    match flavour {
        Flavour::Mysql => MYSQL,
        Flavour::Mariadb => MARIADB,
    }
}

/// The statements that give a user, such as `'shunt'@'%'`, everything that promote mode needs.
pub fn statements(flavour: Flavour, account: &str) -> Vec<String> {
    grant(needed(flavour).iter(), account)
}

/// One statement a level, since several privileges on one level can be given together.
fn grant<'a>(needs: impl Iterator<Item = &'a Need>, account: &str) -> Vec<String> {
    let mut levels: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for need in needs {
        levels.entry(need.on).or_default().push(need.privilege);
    }
    levels.iter().map(|(on, names)| format!("GRANT {} ON {on} TO {account}", names.join(", "))).collect()
}

/// An account as a statement writes it, from `CURRENT_USER()`: `shunt@%` → `'shunt'@'%'`.
pub fn account(current_user: &str) -> String {
    let (user, host) = current_user.rsplit_once('@').unwrap_or((current_user, "%"));
    format!("'{}'@'{}'", user.replace('\'', "''"), host.replace('\'', "''"))
}

/// What a user has, by where: read from SHOW GRANTS, which also has what the active roles give (tried on MySQL 9.7 and
/// MariaDB 10.11).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    levels: BTreeMap<String, BTreeSet<String>>,
}

impl Granted {
    /// Lines that are not understood give nothing.
    pub fn parse<S: AsRef<str>>(lines: &[S]) -> Self {
        let mut granted = Self::default();
        for line in lines {
            let line = line.as_ref().trim();
            if let Some((privileges, on)) = split(line, "GRANT ", " TO ") {
                granted.levels.entry(on).or_default().extend(privileges);
            } else if let Some((privileges, on)) = split(line, "REVOKE ", " FROM ") {
                // A partial revoke: what is given everywhere is not given there.
                let lost = granted.levels.entry(format!("!{on}")).or_default();
                lost.extend(privileges);
            }
        }
        granted
    }

    pub fn has(&self, need: &Need) -> bool {
        let here = self.gives(need.on, need);
        here || (self.gives(EVERYWHERE, need) && !self.gives(&format!("!{}", need.on), need))
    }

    /// Whether the privilege is given, or revoked, just at that level.
    fn gives(&self, level: &str, need: &Need) -> bool {
        self.levels.get(level).is_some_and(|names| {
            let has = |name: &str| names.contains(name);
            has("ALL PRIVILEGES") || has("ALL") || has(need.privilege) || need.also.iter().any(|name| has(name))
        })
    }

    /// The GRANTs that are lacking, one a privilege.
    pub fn missing(&self, flavour: Flavour, account: &str) -> Vec<String> {
        let lacking = needed(flavour).iter().filter(|need| !self.has(need));
        lacking.flat_map(|need| grant(std::iter::once(need), account)).collect()
    }
}

/// The privileges in upper case, and on what: without quotes, as `performance_schema.*`.
fn split(line: &str, first: &str, last: &str) -> Option<(Vec<String>, String)> {
    let rest = line.strip_prefix(first)?;
    // A role that was granted has no ON, a routine's or PROXY's are of no use here.
    let (privileges, rest) = rest.split_once(" ON ")?;
    let (on, _) = rest.split_once(last)?;
    let on = on.replace('`', "").to_ascii_lowercase();
    let names = outside_parentheses(privileges).into_iter().map(|name| name.trim().to_ascii_uppercase());
    Some((names.filter(|name| !name.is_empty()).collect(), on))
}

/// Split at commas, but not within a list of columns, whose privilege is left out: it is not the whole table's.
fn outside_parentheses(privileges: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![String::new()];
    for c in privileges.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                names.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(name) = names.last_mut() {
            name.push(c);
        }
    }
    names.retain(|name| !name.contains('('));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacks(flavour: Flavour, lines: &[&str]) -> Vec<String> {
        Granted::parse(lines).missing(flavour, "'s'@'%'")
    }

    #[test]
    fn the_statements_give_what_is_needed() {
        for flavour in [Flavour::Mysql, Flavour::Mariadb] {
            let statements = statements(flavour, "'s'@'%'");
            assert_eq!(lacks(flavour, &statements.iter().map(String::as_str).collect::<Vec<_>>()), [""; 0]);
            assert_eq!(lacks(flavour, &["GRANT USAGE ON *.* TO `s`@`%`"]).len(), needed(flavour).len());
        }
    }

    #[test]
    fn all_privileges_are_enough_and_another_schemas_are_none() {
        assert_eq!(lacks(Flavour::Mariadb, &["GRANT ALL PRIVILEGES ON *.* TO `s`@`%` WITH GRANT OPTION"]), [""; 0]);
        assert_eq!(lacks(Flavour::Mariadb, &["GRANT ALL PRIVILEGES ON `app`.* TO `s`@`%`"]).len(), MARIADB.len());
    }

    #[test]
    fn static_and_dynamic_privileges_stand_in_lines_of_their_own() {
        let lines = [
            "GRANT RELOAD, PROCESS, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `s`@`%`",
            "GRANT CONNECTION_ADMIN,REPLICATION_SLAVE_ADMIN ON *.* TO `s`@`%`",
            "GRANT SELECT ON `performance_schema`.* TO `s`@`%`",
            "GRANT `promoter`@`%` TO `s`@`%`",
        ];
        assert_eq!(lacks(Flavour::Mysql, &lines), ["GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO 's'@'%'"]);
    }

    #[test]
    fn a_partial_revoke_and_a_column_take_what_they_take() {
        let schema = &MYSQL[MYSQL.len() - 1];
        let has = |lines: &[&str]| Granted::parse(lines).has(schema);
        assert!(has(&["GRANT SELECT ON *.* TO `s`@`%`"]));
        assert!(!has(&["GRANT SELECT ON *.* TO `s`@`%`", "REVOKE SELECT ON `performance_schema`.* FROM `s`@`%`"]));
        assert!(!has(&["GRANT SELECT (`a`, `b`) ON `performance_schema`.* TO `s`@`%`"]));
    }

    #[test]
    fn an_account_is_quoted() {
        assert_eq!(account("shunt@10.0.%"), "'shunt'@'10.0.%'");
        assert_eq!(account("o'neil@%"), "'o''neil'@'%'");
    }
}
