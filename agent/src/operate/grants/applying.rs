//! What the agent's user needs on a server that salvaged transactions are applied to, beyond what it takes to promote it.

use shunt_core::observation::Flavour;

use super::{EVERYWHERE, Granted, Need, grant, need};

const MYSQL: &[Need] = &[need("REPLICATION_APPLIER", &["SUPER"], "BINLOG, and transactions under their own numbers")];
const MARIADB: &[Need] = &[need("BINLOG REPLAY", &[], "BINLOG, and transactions under their own numbers")];

/// From 8.3 on; earlier there are no tags, and no such privilege.
const TAGGED: &[Need] = &[need("TRANSACTION_GTID_TAG", &[], "transactions whose number has a tag")];

/// On every table that they change. Which these are nobody knows before they are there.
const TABLES: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP"];

/// Whether a server of that version knows transactions whose number has a tag.
pub fn has_tags(flavour: Flavour, version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    flavour == Flavour::Mysql && (numbers.next(), numbers.next()) >= (Some(8), Some(3))
}

impl Granted {
    /// The GRANTs that are lacking for transactions that are not known yet, one a level. Rights on tables may be given by
    /// schema: then an operator has chosen which.
    pub fn missing_to_apply(&self, flavour: Flavour, tags: bool, account: &str) -> Vec<String> {
        let mut lacking = self.lacking(flavour, tags);
        let tables = TABLES.map(|privilege| need(privilege, &[], "rows and statements"));
        lacking.extend(tables.into_iter().filter(|need| !self.has_somewhere(need)));
        grant(lacking.iter(), account)
    }

    /// The same for transactions that change rows of these tables (`schema.table`) in these ways (`INSERT`, …).
    pub fn missing_for<'a>(
        &self,
        flavour: Flavour,
        tags: bool,
        changes: impl Iterator<Item = (&'a str, &'static str)>,
        account: &str,
    ) -> Vec<String> {
        let mut missing = grant(self.lacking(flavour, tags).iter(), account);
        let lacking = changes.filter(|(table, privilege)| !self.has_on(table, privilege));
        missing.extend(lacking.map(|(table, privilege)| format!("GRANT {privilege} ON {table} TO {account}")));
        missing
    }

    fn lacking(&self, flavour: Flavour, tags: bool) -> Vec<Need> {
        let needs = match flavour {
            Flavour::Mysql => MYSQL,
            Flavour::Mariadb => MARIADB,
        };
        let tagged = if tags { TAGGED } else { &[] };
        needs.iter().chain(tagged).filter(|need| !self.has(need)).copied().collect()
    }

    fn has_somewhere(&self, need: &Need) -> bool {
        let mut levels = self.levels.keys().filter(|level| !level.starts_with('!') && *level != "performance_schema.*");
        levels.any(|level| self.gives(level, need))
    }

    /// On a table by its own grant, its schema's, whose name may be a pattern, or everybody's.
    fn has_on(&self, table: &str, privilege: &'static str) -> bool {
        let (table, need) = (table.to_ascii_lowercase(), need(privilege, &[], "rows"));
        let (schema, _) = table.split_once('.').unwrap_or((&table, ""));
        let is_of = |level: &str| level.strip_suffix(".*").is_some_and(|pattern| is_like(schema, pattern));
        let mut of_schema = self.levels.keys().filter(|&level| level != EVERYWHERE && is_of(level));
        self.gives(&table, &need)
            || of_schema.any(|level| self.gives(level, &need))
            || (self.gives(EVERYWHERE, &need) && !self.gives(&format!("!{schema}.*"), &need))
    }
}

/// LIKE, as the names of schemas are in grants.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('%') => {
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| is_like(&name[at..], rest.as_str()))
        }
        Some(first) => {
            let wanted = if first == '\\' { rest.next() } else { Some(first) };
            let mut name = name.chars();
            let found = name.next();
            found.is_some() && (found == wanted || first == '_') && is_like(name.as_str(), rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacks(flavour: Flavour, tags: bool, lines: &[&str]) -> Vec<String> {
        Granted::parse(lines).missing_to_apply(flavour, tags, "'s'@'%'")
    }

    #[test]
    fn what_is_missing_is_one_statement_that_gives_it() {
        for (flavour, tags) in [(Flavour::Mysql, true), (Flavour::Mysql, false), (Flavour::Mariadb, false)] {
            let missing = lacks(flavour, tags, &["GRANT USAGE ON *.* TO `s`@`%`"]);
            assert_eq!(missing.len(), 1, "{missing:?}");
            assert_eq!(missing[0].contains("TRANSACTION_GTID_TAG"), tags);
            assert_eq!(lacks(flavour, tags, &[&missing[0]]), [""; 0]);
        }
    }

    #[test]
    fn rights_on_tables_may_be_given_by_schema() {
        let with = |on: &str| {
            let tables = format!("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP ON {on} TO `s`@`%`");
            lacks(Flavour::Mariadb, false, &["GRANT BINLOG REPLAY ON *.* TO `s`@`%`", &tables])
        };
        assert_eq!(with("`app`.*"), [""; 0]);
        assert_eq!(with("`performance_schema`.*").len(), 1);
    }

    #[test]
    fn a_known_change_needs_its_right_on_its_table_at_some_level() {
        let missing = |on: &str| {
            let lines = ["GRANT REPLICATION_APPLIER ON *.* TO `s`@`%`", &format!("GRANT UPDATE ON {on} TO `s`@`%`")];
            Granted::parse(&lines).missing_for(Flavour::Mysql, false, [("app.T1", "UPDATE")].into_iter(), "'s'@'%'")
        };
        for enough in ["*.*", "`app`.*", "`a%`.*", "`ap_`.*", "`app`.`T1`"] {
            assert_eq!(missing(enough), [""; 0], "{enough}");
        }
        for other in ["`other`.*", "`ap\\_`.*", "`app`.`t2`", "`b%`.*"] {
            assert_eq!(missing(other), ["GRANT UPDATE ON app.T1 TO 's'@'%'"], "{other}");
        }
        let revoked = ["GRANT UPDATE ON *.* TO `s`@`%`", "REVOKE UPDATE ON `app`.* FROM `s`@`%`"];
        assert!(!Granted::parse(&revoked).has_on("app.t1", "UPDATE"));
    }

    #[test]
    fn tags_came_with_8_3() {
        for (version, tags) in [("8.0.45", false), ("8.3.0", true), ("8.4.3-log", true), ("9.7.4", true)] {
            assert_eq!(has_tags(Flavour::Mysql, version), tags, "{version}");
        }
        assert!(!has_tags(Flavour::Mariadb, "10.11.19-MariaDB"));
    }
}
