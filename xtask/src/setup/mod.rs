//! `cargo xtask setup`: says what is missing, then gets it. Quick when nothing is.
//!
//! Libraries and tools come by apt. Database servers go into a folder of the lab's own, never into the system: nothing
//! of the machine's is replaced, and no service starts.

mod apt;
mod bpf;
pub mod rivals;
pub mod servers;
mod unpack;

use anyhow::{Result, bail};
use shunt_tests::{Flavour, flavour, scratch, template};

use crate::{cargo, root, talk};
use rivals::Rival;

#[derive(clap::Args)]
pub struct Args {
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// Only say what is missing; exit code 1 if anything is
    #[arg(long)]
    check: bool,
    /// Only what needs root (this is what setup itself runs under sudo)
    #[arg(long, hide = true)]
    system: bool,
    /// Only what these flavours and purposes need
    #[arg(long = "for", hide = true)]
    purposes: Vec<String>,
}

/// What a command wants to find.
#[derive(Clone, Default)]
pub struct Needs {
    /// Namespaces, nftables, and root to use them.
    pub lab: bool,
    pub servers: Vec<Flavour>,
    /// cargo-nextest and what the tests of the units call.
    pub tests: bool,
    /// What the eBPF programs are built with.
    pub bpf: bool,
    /// The proxies that a benchmark compares with.
    pub rivals: bool,
    /// Try again what could not be had lately.
    pub again: bool,
}

impl Needs {
    pub fn all() -> Self {
        Self { lab: true, servers: Flavour::ALL.to_vec(), tests: true, bpf: true, rivals: false, again: true }
    }

    /// As arguments of `setup --system`.
    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.servers.iter().map(|f| format!("--for={f}")).collect();
        words.extend(self.lab.then(|| "--for=lab".to_owned()));
        words.extend(self.tests.then(|| "--for=tests".to_owned()));
        words.extend(self.bpf.then(|| "--for=bpf".to_owned()));
        words.extend(self.rivals.then(|| "--for=rivals".to_owned()));
        words.extend(self.again.then(|| "--for=again".to_owned()));
        words
    }

    fn parse(words: &[String]) -> Self {
        let has = |word: &str| words.iter().any(|w| w == word);
        let servers = Flavour::ALL.into_iter().filter(|f| has(f.name())).collect();
        Self {
            lab: has("lab"),
            servers,
            tests: has("tests"),
            bpf: has("bpf"),
            rivals: has("rivals"),
            again: has("again"),
        }
    }
}

/// What is missing.
struct Missing {
    packages: Vec<&'static apt::Package>,
    servers: Vec<Flavour>,
    rivals: Vec<Rival>,
    bpf: bpf::Wanted,
    nextest: bool,
}

impl Missing {
    fn find(needs: &Needs) -> Self {
        let servers: Vec<Flavour> =
            needs.servers.iter().copied().filter(|&f| !servers::is_there(f, needs.tests, needs.again)).collect();
        let rivals: Vec<Rival> =
            if needs.rivals { Rival::ALL.into_iter().filter(|r| !r.is_settled()).collect() } else { Vec::new() };
        Self {
            packages: apt::missing(needs, !servers.is_empty() || !rivals.is_empty()),
            servers,
            rivals,
            bpf: if needs.bpf { bpf::Wanted::find() } else { bpf::Wanted::default() },
            nextest: needs.tests && !cargo::has("nextest"),
        }
    }

    fn needs_root(&self) -> bool {
        !self.packages.is_empty()
            || !self.bpf.packages.is_empty()
            || self.bpf.asks_anew()
            || !self.servers.is_empty()
            || !self.rivals.is_empty()
    }

    fn is_nothing(&self) -> bool {
        !self.needs_root() && !self.nextest && self.bpf == bpf::Wanted::default()
    }

    fn say(&self) {
        if !self.packages.is_empty() || !self.bpf.packages.is_empty() {
            println!("to install with apt{}:", if root::am_i() { "" } else { " (sudo)" });
            for package in &self.packages {
                println!("  {:<14} {}", package.name, package.why);
            }
            for package in &self.bpf.packages {
                println!("  {package:<14} builds the eBPF programs");
            }
        }
        for flavour in &self.servers {
            println!("to unpack into {}:", flavour::folder(*flavour).display());
            println!("  {:<14} the lab's own copy, outside the system; no service starts", flavour.title());
        }
        for rival in &self.rivals {
            println!("to unpack into {}:", flavour::cache().display());
            println!("  {:<14} to compare with; no service starts", rival.title());
        }
        if self.nextest || self.bpf.linker {
            println!("to build with cargo install:");
        }
        if self.nextest {
            println!("  {:<14} runs the tests (some minutes, once)", "cargo-nextest");
        }
        if self.bpf.linker {
            println!("  {:<14} links the eBPF programs (two minutes, once)", "bpf-linker");
        }
        if let Some(reason) = &self.bpf.unavailable {
            let asks =
                if self.bpf.asks_anew() { ", unless apt's lists are only old (they are refreshed first)" } else { "" };
            println!(
                "not to be had here{asks}, and needed for the eBPF datapath (--no-default-features builds without):"
            );
            println!("  {reason}");
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let needs = if args.purposes.is_empty() { Needs::all() } else { Needs::parse(&args.purposes) };
    if args.system {
        return get_as_root(&needs, &Missing::find(&needs));
    }
    if args.check {
        let missing = Missing::find(&needs);
        missing.say();
        if missing.is_nothing() {
            println!("everything is there");
            return Ok(());
        }
        bail!("something is missing; cargo xtask setup gets it");
    }
    ensure(&needs, args.yes)?;
    for flavour in Flavour::ALL {
        println!("{}", servers::status(flavour));
    }
    println!("{}", bpf::status());
    println!("ready");
    Ok(())
}

/// Gets what is missing, after saying what it is. Servers that cannot be had are no error here: whoever needs one says so.
pub fn ensure(needs: &Needs, yes: bool) -> Result<()> {
    let missing = Missing::find(needs);
    if missing.is_nothing() {
        return Ok(());
    }
    missing.say();
    if !yes && !talk::agreed("Go ahead?") {
        bail!("nothing was installed");
    }
    if missing.needs_root() {
        if root::am_i() {
            get_as_root(needs, &missing)?;
        } else {
            let words = needs.words();
            let args: Vec<&str> = ["setup", "--system"].into_iter().chain(words.iter().map(String::as_str)).collect();
            root::again(&args)?;
        }
    }
    if missing.nextest {
        println!("  building cargo-nextest");
        cargo::run(&["install", "--locked", "cargo-nextest"])?;
    }
    // Refreshed lists may have had the compiler.
    if missing.bpf.linker || (missing.bpf.asks_anew() && bpf::Wanted::find().linker) {
        bpf::get_linker()?;
    }
    Ok(())
}

fn get_as_root(needs: &Needs, missing: &Missing) -> Result<()> {
    if !root::am_i() {
        bail!("this part of setup needs root");
    }
    scratch::sweep();
    let bpf = missing.bpf.clone().asked_anew()?;
    let names = missing.packages.iter().map(|package| package.name);
    apt::install(&names.chain(bpf.packages.iter().map(String::as_str)).collect::<Vec<_>>())?;
    for &flavour in &missing.servers {
        if let Err(error) = servers::get(flavour) {
            println!("  {} cannot be had here: {error:#}", flavour.title());
            servers::remember_failure(flavour, &error)?;
        }
    }
    for &rival in &missing.rivals {
        if let Err(error) = rival.get() {
            println!("  {} cannot be had here: {error:#}", rival.title());
            rival.remember_failure(&error)?;
        }
    }
    for &flavour in &needs.servers {
        if let Ok(install) = shunt_tests::Install::find(flavour) {
            talk::step(&format!("{}: data folder to copy from", install.title()), || template::prepare(&install))?;
        }
    }
    Ok(())
}
