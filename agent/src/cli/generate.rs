//! Completions and man pages, made from the table of flags.

use clap::CommandFactory;

use super::args::{self, Args};
use crate::output::{self, Failure};

pub fn completions(options: &args::Completions) {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut Args::command(), "shunt", &mut text);
    output::say(String::from_utf8_lossy(&text).trim_end());
}

pub fn man(options: &args::Man) -> Result<(), Failure> {
    std::fs::create_dir_all(&options.folder)
        .and_then(|()| clap_mangen::generate_to(Args::command(), &options.folder))
        .map_err(|e| Failure::new(format!("cannot write the man pages into {}", options.folder.display())).because(&e))
}
