//! The programs in a real kernel: loaded, attached between namespaces, and run on packets made by hand. Needs root.

mod admitting;
mod carrying;
mod complaining;
mod complaints;
mod datapath;
mod ending;
mod holding;
mod lab;
mod loading;
mod local;
mod logging;
mod migrating;
mod odd;
mod packets;
mod routing;
mod signals;
mod tagging;
mod tidying;
mod verifier;
mod vlan;
