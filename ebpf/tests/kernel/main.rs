//! The programs in a real kernel: loaded, attached between namespaces, and run on packets made by hand. Needs root.

mod carrying;
mod datapath;
mod lab;
mod loading;
mod packets;
mod verifier;
