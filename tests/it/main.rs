//! The integration tests: one binary, one module per part of the product.

mod abuse;
mod cli;
mod conformance;
mod corpus;
mod harness;
mod hub;
mod nat_discovery;
mod oracle;
mod privacy;
mod process;
mod relay;
mod streams;
mod turn_clients;
mod ws;
