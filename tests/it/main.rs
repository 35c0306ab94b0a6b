//! The integration tests: one binary, one module per part of the product.

mod abuse;
mod cli;
mod corpus;
mod fronts;
mod harness;
mod hub;
mod one_port;
mod privacy;
mod process;
mod relay;
mod secure;
mod streams;
mod turn_clients;
mod ws;
