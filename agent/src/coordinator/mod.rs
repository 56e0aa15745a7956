//! The agent's side of the protocol: signed requests, the pin, the map stream.

mod choice;
mod client;
mod error;
mod lines;

pub(crate) use client::{Client, MapStream, now};
pub(crate) use error::ClientError;
