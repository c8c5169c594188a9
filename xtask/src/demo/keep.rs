//! `--keep`: everything goes on; what to try, to be pasted into another terminal.

use crate::cargo;
use crate::stage::{CLUSTER, PORT, Stage};

/// Returns never: Ctrl-C ends the program, and that removes everything.
pub fn keep(stage: &mut Stage) {
    let (client, proxy) = (stage.client.ns().name(), stage.proxy.ns().name());
    let address = stage.proxy.v4();
    let shunt = stage.agent.binary().strip_prefix(cargo::root()).unwrap_or(stage.agent.binary()).display();
    let socket = stage.agent.socket();
    let db3 = stage.cluster.servers()[2].socket();
    println!("\nIt goes on. In another terminal, as root:\n");
    let tls = match stage.cluster.flavour() {
        shunt_tests::Flavour::Mysql => "",
        shunt_tests::Flavour::Mariadb => " --skip-ssl",
    };
    for (what, line) in [
        ("what the agent does", format!("{shunt} list --socket {}", socket.display())),
        ("the servers, as the agent sees them", format!("{shunt} show {CLUSTER} --socket {}", socket.display())),
        ("what happened", format!("{shunt} events --socket {}", socket.display())),
        (
            "a client of your own (password: shunt-lab)",
            format!("ip netns exec {client} mysql -h {address} -P {PORT} -u app -p{tls} app"),
        ),
        ("the kernel's rules", format!("ip netns exec {proxy} nft list ruleset")),
        ("kill the primary again", format!("kill -9 {}", stage.cluster.servers()[1].pid().unwrap_or_default())),
        ("SQL on db3, as root (promote it)", format!("mysql -u root -S {}", db3.display())),
    ] {
        println!("  # {what}\n  {line}\n");
    }
    println!("Ctrl-C ends it all and leaves nothing.");
    loop {
        std::thread::park();
    }
}
