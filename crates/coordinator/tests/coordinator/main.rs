//! The coordinator as agents and admins see it: a real server on loopback, real TLS, signed
//! requests, and the real command line.

#[cfg(test)]
mod access;
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod agent;
#[cfg(test)]
mod api;
#[cfg(test)]
mod approval;
#[cfg(test)]
mod approval_page;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod backups;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod from_elsewhere;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod full_disk_of_postgres;
#[cfg(test)]
mod health;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod key_life;
#[cfg(test)]
mod liars;
#[cfg(test)]
mod map_stream;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod policy_questions;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod process;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod routes_and_policy;
#[cfg(test)]
mod server;
#[cfg(test)]
mod several;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod store_of_accounts;
#[cfg(test)]
mod store_of_machines;
#[cfg(test)]
mod store_of_requests;
#[cfg(test)]
mod store_of_routes;
#[cfg(test)]
mod store_of_signatures;
#[cfg(test)]
mod store_of_waiting;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod versions;
