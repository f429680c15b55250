//! RUN: config, wiring, control, telemetry and the command line of Landfall.

pub mod admin;
pub mod attached;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod control_socket;
pub mod demo;
pub mod explain;
pub mod flows;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod resolve;
pub mod run;
pub mod simulate;
