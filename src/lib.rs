#![doc = include_str!("README.md")]

pub mod acme;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod daemon;
pub mod doctor;
pub mod edge;
pub mod metrics;
pub mod net;
pub mod relay;
pub mod signal;
pub mod stun;
pub mod telemetry;
pub mod tls;
pub mod turn;
pub mod web;
