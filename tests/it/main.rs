//! The integration tests: one binary, one module per part of the product.

mod abuse;
mod cli;
mod corpus;
mod harness;
mod hub;
mod privacy;
mod process;
mod relay;
mod streams;
mod tcp_relay;
mod turn_clients;
mod ws;
