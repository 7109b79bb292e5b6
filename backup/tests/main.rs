//! What the crate promises, without PostgreSQL and without S3: the programs are stand-ins, and the
//! stores are a directory and memory.

mod dumps;
mod scene;
mod stores;
mod tampering;
mod tools;
