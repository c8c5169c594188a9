//! `--keep`: everything goes on; what to try, to be pasted into another terminal.

use shunt_tests::{Flavour, Install};

use crate::cargo;
use crate::stage::{CLUSTER, PORT, Stage};

/// Returns never: Ctrl-C ends the program, and that removes everything.
pub fn keep(stage: &mut Stage, install: &Install) {
    let (inside, proxy) = (stage.client.ns().name(), stage.proxy.ns().name());
    let address = stage.proxy.v4();
    let shunt = stage.agent.binary().strip_prefix(cargo::root()).unwrap_or(stage.agent.binary()).display();
    let socket = stage.agent.socket();
    let client = client(install);
    let kill = stage.cluster.servers()[stage.primary].pid().unwrap_or_default();
    println!("\nIt goes on. In another terminal, as root:\n");
    for (what, line) in [
        ("what the agent does", format!("{shunt} list --socket {}", socket.display())),
        ("the servers, as the agent sees them", format!("{shunt} show {CLUSTER} --socket {}", socket.display())),
        ("what happened", format!("{shunt} events --socket {}", socket.display())),
        (
            "a client of your own, through the proxy port (password: shunt-lab)",
            format!("ip netns exec {inside} {client} -h {address} -P {PORT} -u app -p app"),
        ),
        ("the kernel's rules", format!("ip netns exec {proxy} nft list ruleset")),
        ("kill the primary; shunt promotes another", format!("kill -9 {kill}")),
        (
            "hand the primary over to another, as planned",
            format!("{shunt} switchover {CLUSTER} --socket {}", socket.display()),
        ),
    ] {
        println!("  # {what}\n  {line}\n");
    }
    println!("\nCtrl-C ends it all and leaves nothing.");
    loop {
        std::thread::park();
    }
}

/// The client that came with the server: a machine of its own may have none, or one too old for the login.
fn client(install: &Install) -> String {
    let name = match install.flavour {
        Flavour::Mysql => "mysql",
        Flavour::Mariadb => "mariadb",
    };
    match &install.root {
        Some(root) => format!("chroot {} {name}", root.display()),
        None => name.to_owned(),
    }
}
