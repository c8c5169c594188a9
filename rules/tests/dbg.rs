mod lab;
use lab::*;
#[test]
fn dbg() {
    let lab = Lab::new("dbg").unwrap();
    let _d = lab.mapped(Ip::V4);
    println!("{}", lab.on_proxy(&["nft", "list", "ruleset"]));
    let found = lab.in_host(PROXY, || shunt_rules::netlink::read::table(&mut shunt_rules::netlink::socket::Netlink::open().unwrap(), "shunt")).unwrap().unwrap();
    for (chain, rules) in shunt_rules::drift::our_wording() {
        for (a, b) in rules.iter().zip(&found.rules[&chain]) {
            if a != b { println!("{chain}\n  {a:?}\n  {b:?}"); }
        }
    }
}
