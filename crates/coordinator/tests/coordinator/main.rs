//! The coordinator as agents and admins see it: a real server on loopback, real TLS, signed
//! requests, and the real command line.

mod agent;
mod command_line;
mod enrolment;
mod map_stream;
mod requests;
mod restart;
mod routes_and_policy;
mod server;
