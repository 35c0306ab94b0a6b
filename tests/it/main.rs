//! The integration tests: one binary, one module per part of the product.

mod abuse;
mod acme;
mod certificates;
mod cli;
mod corpus;
mod doctor;
mod harness;
mod https;
mod hub;
mod privacy;
mod process;
mod relay;
mod streams;
mod turn_clients;
mod ws;
