//! What operations do on servers: the executors of `shunt_core::operation::Task`.

pub mod salvage;
