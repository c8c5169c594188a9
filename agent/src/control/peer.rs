//! Who is at the other end of the Unix socket, and whether that person may command the agent.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::socket::GROUP;

/// The process at the other end, by the kernel's word (`SO_PEERCRED`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    uid: Uid,
    gid: Gid,
}

impl Peer {
    pub fn new(uid: u32, gid: u32) -> Self {
        Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }
    }

    /// Root, the agent's own user, or a member of the group `shunt`.
    pub fn may_command(&self) -> bool {
        if self.uid.is_root() || self.uid == Uid::effective() {
            return true;
        }
        let Ok(Some(group)) = Group::from_name(GROUP) else { return false };
        self.gid == group.gid || self.groups().contains(&group.gid)
    }

    /// The user's name for the history, or its number if it has none.
    pub fn name(&self) -> String {
        User::from_uid(self.uid).ok().flatten().map_or_else(|| format!("uid {}", self.uid), |user| user.name)
    }

    fn groups(&self) -> Vec<Gid> {
        let user = User::from_uid(self.uid).ok().flatten();
        let name = user.and_then(|user| CString::new(user.name).ok());
        name.and_then(|name| getgrouplist(&name, self.gid).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_own_user_may_command() {
        assert!(Peer::new(0, 0).may_command());
        assert!(Peer::new(Uid::effective().as_raw(), 12345).may_command());
    }

    #[test]
    fn a_stranger_may_not_command() {
        assert!(!Peer::new(54_321, 54_321).may_command());
        assert_eq!(Peer::new(54_321, 54_321).name(), "uid 54321");
    }
}
