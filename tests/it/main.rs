//! The integration tests: one binary, one module per part of the product.

mod abuse;
mod acme;
mod answers;
mod certificates;
mod cli;
mod conformance;
mod corpus;
mod faults_of_others;
mod flood;
mod harness;
mod https;
mod hub;
mod limits;
mod limits_of_pages;
mod nat_discovery;
mod oracle;
mod privacy;
mod process;
mod relay;
mod resilience;
mod secrets;
mod soak;
mod streams;
mod tcp_relay;
mod turn_clients;
mod ws;
