//! Tests that this machine cannot run say so by name and with the reason. A skipped test counts as neither passed nor
//! failed: `cargo xtask test` subtracts what is written to the file that `SHUNT_SKIPPED` names.

use std::fs::File;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::Result;

use crate::{Flavour, Install, logs};

/// Names the file that skips are written to, one `name: reason` a line.
pub const SKIPPED: &str = "SHUNT_SKIPPED";

/// Two tests out of one function, `name::mysql` and `name::mariadb`; its parameter is the installed server.
#[macro_export]
macro_rules! each_flavour {
    ($($(#[$meta:meta])* fn $name:ident($install:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports, clippy::allow_attributes, clippy::wildcard_imports, reason = "a test may need none")]
            use super::*;

            fn body($install: &$crate::Install) -> ::anyhow::Result<()> $body

            $(#[$meta])*
            #[test]
            fn mysql() -> ::anyhow::Result<()> {
                $crate::skip::with_server(concat!(module_path!(), "::mysql"), $crate::Flavour::Mysql, body)
            }

            $(#[$meta])*
            #[test]
            fn mariadb() -> ::anyhow::Result<()> {
                $crate::skip::with_server(concat!(module_path!(), "::mariadb"), $crate::Flavour::Mariadb, body)
            }
        }
    )*};
}

/// Four tests out of one function: as [`each_flavour!`] makes, and the same with agents on eBPF, `name::ebpf::mysql` and
/// `name::ebpf::mariadb`.
#[macro_export]
macro_rules! on_each_datapath {
    ($($(#[$meta:meta])* fn $name:ident($install:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports, clippy::allow_attributes, clippy::wildcard_imports, reason = "a test may need none")]
            use super::*;

            fn body($install: &$crate::Install) -> ::anyhow::Result<()> $body

            $(#[$meta])*
            #[test]
            fn mysql() -> ::anyhow::Result<()> {
                $crate::skip::with_server(concat!(module_path!(), "::mysql"), $crate::Flavour::Mysql, body)
            }

            $(#[$meta])*
            #[test]
            fn mariadb() -> ::anyhow::Result<()> {
                $crate::skip::with_server(concat!(module_path!(), "::mariadb"), $crate::Flavour::Mariadb, body)
            }

            mod ebpf {
                use super::body;

                #[test]
                fn mysql() -> ::anyhow::Result<()> {
                    let name = concat!(module_path!(), "::mysql");
                    $crate::Datapath::Ebpf.run(|| $crate::skip::with_server(name, $crate::Flavour::Mysql, body))
                }

                #[test]
                fn mariadb() -> ::anyhow::Result<()> {
                    let name = concat!(module_path!(), "::mariadb");
                    $crate::Datapath::Ebpf.run(|| $crate::skip::with_server(name, $crate::Flavour::Mariadb, body))
                }
            }
        }
    )*};
}

/// Two tests out of one function, with MySQL: `name::nft` and `name::ebpf`.
#[macro_export]
macro_rules! on_each_datapath_with_mysql {
    ($($tests:tt)*) => { $crate::on_each_datapath_with_flavour! { Mysql: $($tests)* } };
}

/// The same with MariaDB.
#[macro_export]
macro_rules! on_each_datapath_with_mariadb {
    ($($tests:tt)*) => { $crate::on_each_datapath_with_flavour! { Mariadb: $($tests)* } };
}

#[doc(hidden)]
#[macro_export]
macro_rules! on_each_datapath_with_flavour {
    ($flavour:ident: $($(#[$meta:meta])* fn $name:ident($install:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports, clippy::allow_attributes, clippy::wildcard_imports, reason = "a test may need none")]
            use super::*;

            fn body($install: &$crate::Install) -> ::anyhow::Result<()> $body

            $(#[$meta])*
            #[test]
            fn nft() -> ::anyhow::Result<()> {
                $crate::skip::with_server(concat!(module_path!(), "::nft"), $crate::Flavour::$flavour, body)
            }

            $(#[$meta])*
            #[test]
            fn ebpf() -> ::anyhow::Result<()> {
                let name = concat!(module_path!(), "::ebpf");
                $crate::Datapath::Ebpf.run(|| $crate::skip::with_server(name, $crate::Flavour::$flavour, body))
            }
        }
    )*};
}

/// One test out of one function, with MySQL: for what does not hang on the server's flavour, or only it has.
#[macro_export]
macro_rules! with_mysql {
    ($($tests:tt)*) => { $crate::with_flavour! { Mysql: $($tests)* } };
}

/// The same with MariaDB: for what only it has.
#[macro_export]
macro_rules! with_mariadb {
    ($($tests:tt)*) => { $crate::with_flavour! { Mariadb: $($tests)* } };
}

#[doc(hidden)]
#[macro_export]
macro_rules! with_flavour {
    ($flavour:ident: $($(#[$meta:meta])* fn $name:ident($install:ident) $body:block)*) => {$(
        $(#[$meta])*
        #[test]
        fn $name() -> ::anyhow::Result<()> {
            fn body($install: &$crate::Install) -> ::anyhow::Result<()> $body
            let name = concat!(module_path!(), "::", stringify!($name));
            $crate::skip::with_server(name, $crate::Flavour::$flavour, body)
        }
    )*};
}

/// Tests that need namespaces, but no server.
#[macro_export]
macro_rules! rooted {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {$(
        $(#[$meta])*
        #[test]
        fn $name() -> ::anyhow::Result<()> {
            fn body() -> ::anyhow::Result<()> $body
            $crate::skip::with_root(concat!(module_path!(), "::", stringify!($name)), body)
        }
    )*};
}

/// Runs `body` with an installed server, or skips.
pub fn with_server(name: &str, flavour: Flavour, body: fn(&Install) -> Result<()>) -> Result<()> {
    with_root(name, move || match Install::find(flavour) {
        Ok(install) => body(&install),
        Err(reason) => {
            skip(name, &format!("{reason:#}"));
            Ok(())
        }
    })
}

/// Runs `body` as root, or skips. Prints what servers and agents logged when it fails.
pub fn with_root(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        skip(name, "needs root");
        return Ok(());
    }
    let result = catch_unwind(AssertUnwindSafe(body));
    if !matches!(result, Ok(Ok(()))) {
        logs::print_kept(logs::LINES);
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Says that a test is skipped.
pub fn skip(name: &str, reason: &str) {
    eprintln!("skipped: {name}: {reason}");
    if let Some(path) = std::env::var_os(SKIPPED)
        && let Ok(mut file) = File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{name}: {reason}");
    }
}
