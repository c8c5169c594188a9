//! What a configuration may already say and this version does not do yet. Whoever builds one of these deletes its line.

use shunt_core::ClusterName;

/// A key that is accepted, checked, and without effect.
struct Pending {
    section: &'static str,
    key: &'static str,
    /// Only this value of it.
    value: Option<&'static str>,
    /// What happens instead.
    instead: &'static str,
}

const PENDING: &[Pending] = &[
    Pending {
        section: "cluster",
        key: "failover",
        value: Some("promote"),
        instead: "shunt promotes nobody yet and runs the cluster as `follow`",
    },
    Pending { section: "hooks", key: "fence", value: None, instead: "the hook is not run" },
    Pending { section: "hooks", key: "before_promote", value: None, instead: "the hook is not run" },
    Pending { section: "hooks", key: "after_failover", value: None, instead: "the hook is not run" },
    Pending { section: "hooks", key: "notify", value: None, instead: "the hook is not run" },
];

/// For the agent's alarms: a setting that is accepted and not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotInForce {
    /// `None`: the agent's own file.
    pub cluster: Option<ClusterName>,
    /// `failover = "promote"`, `fence`.
    pub setting: String,
    /// What happens instead.
    pub instead: &'static str,
}

/// Whether a key, or this value of it, is not in force; and what happens instead.
pub(super) fn not_in_force(section: &str, key: &str, value: Option<&str>) -> Option<NotInForce> {
    let pending =
        PENDING.iter().find(|p| p.section == section && p.key == key && (p.value.is_none() || p.value == value))?;
    let setting = pending.value.map_or_else(|| key.to_owned(), |value| format!("{key} = \"{value}\""));
    Some(NotInForce { cluster: None, setting, instead: pending.instead })
}
