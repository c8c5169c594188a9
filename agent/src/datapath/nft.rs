//! nftables: a private table, and the kernel's notices of changes to any.

use shunt_core::datapath::{Datapath, DatapathError};
use shunt_rules::{NftDatapath, Options};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Notices, OpenError};

/// To be called where a tokio runtime is.
pub(super) fn open(table: &str) -> Result<(Box<dyn Datapath>, Notices), OpenError> {
    let datapath = NftDatapath::open(Options { table: table.to_owned() }).map_err(refused)?;
    let failed = |source| {
        let what = "listen to the kernel's notices of changes to nftables".to_owned();
        refused(DatapathError::Kernel { what, source })
    };
    let notices = shunt_rules::Notices::subscribe(vec![datapath.port_id()]).map_err(failed)?;
    // SAFETY: a subscription owns its socket, keeps it open until it is dropped, and always names that one descriptor.
    let notices = unsafe { AsyncFd::register_with_interest(notices, Interest::READABLE) };
    let notices = notices.map_err(|refused| failed(refused.into_parts().1))?;
    Ok((Box::new(datapath), Notices::Nft(notices)))
}

/// A table of somebody else's that has this name is nothing of ours.
pub(super) fn leftover(table: &str) -> Result<Option<Box<dyn Datapath>>, OpenError> {
    if !shunt_rules::holds_table(table).map_err(refused)? {
        return Ok(None);
    }
    let datapath = NftDatapath::open(Options { table: table.to_owned() }).map_err(refused)?;
    // It may have gone meanwhile.
    Ok(datapath.found_table().then(|| Box::new(datapath) as Box<dyn Datapath>))
}

fn refused(source: DatapathError) -> OpenError {
    let hint = match &source {
        DatapathError::Foreign { .. } => {
            "choose another name with `table` in [agent] of shunt.toml, or remove that table".to_owned()
        }
        DatapathError::InUse { .. } => {
            "stop the other agent, or give this one another `table` in [agent] of shunt.toml".to_owned()
        }
        DatapathError::Kernel { what, .. } if what.contains("raw socket") => {
            "the agent needs CAP_NET_RAW: shunt.service grants it; a container must be given it (NET_RAW)".to_owned()
        }
        DatapathError::Kernel { what, .. } if what.contains("nflog group") => {
            "a group has one listener in a network namespace: another `table` in [agent] of shunt.toml takes other groups; \
             /proc/net/netfilter/nfnetlink_log shows the groups that are taken"
                .to_owned()
        }
        _ => "`shunt doctor` examines what the kernel can do".to_owned(),
    };
    OpenError { what: "the datapath cannot be opened".to_owned(), source, hint }
}
