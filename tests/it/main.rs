//! The integration tests: one binary, one module per part of the product.

mod cli;
mod corpus;
mod harness;
mod process;
mod relay;
mod turn_clients;
