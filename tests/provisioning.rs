//! The leaf crate against real servers: what a tenant is, how it comes to be, and what keeps it apart.

mod drift;
mod ground;
mod hardening;
mod history;
mod isolation;
mod lending;
mod politeness;
mod possession;
mod renaming;
mod risk;
mod schema;
mod server;
mod sets;
mod shape;
mod statements;
mod subject;
