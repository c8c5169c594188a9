//! The control plane: the API on the Unix socket, the read-only pages on HTTP, and the client that the command line uses.

pub mod api;
pub mod client;
mod convert;
mod flows;
mod http;
mod operations;
mod peer;
mod server;
mod socket;

pub use http::serve_http;
pub use server::serve_socket;
pub use socket::{SocketError, bind};
