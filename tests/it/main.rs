//! The integration tests: one binary, one module per part of the product.

mod abuse;
mod acme;
mod certificates;
mod cli;
mod corpus;
mod doctor;
mod fronts;
mod harness;
mod https;
mod hub;
mod one_port;
mod privacy;
mod process;
mod relay;
mod secure;
mod streams;
mod turn_clients;
mod ws;
