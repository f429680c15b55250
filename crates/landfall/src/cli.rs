//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::logging::LogFormat;

/// A self-hosted global accelerator: two static IPs, TCP and UDP forwarded to the nearest healthy, weighted endpoint.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything on this machine alone: endpoints in two regions, traffic, a death and the failover. Needs no set-up.
    Try(TryArgs),
    /// Serve: forward traffic as the config says until a signal ends it (SIGTERM drains, SIGHUP reloads).
    Run(RunArgs),
    /// Read a config and print every error in it, or what it means and how fast its groups fail over.
    Check(CheckArgs),
    /// Tell a running edge to read its config again.
    Reload(ReloadArgs),
    /// An endpoint of `landfall try`.
    #[command(hide = true)]
    Echo(EchoArgs),
}

/// Of `try`.
#[derive(Debug, Args)]
pub struct TryArgs {
    /// Keep everything running after the demonstration, and print commands to poke at it.
    #[arg(long)]
    pub hold: bool,
}

/// Of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The config file; see docs/CONFIG.md.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How log lines look. `LANDFALL_LOG` filters them, as in `LANDFALL_LOG=debug`.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// Of `reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// The control socket of the edge: `edge.control` in its config.
    #[arg(long, value_name = "SOCKET", default_value = "/run/landfall/control.sock")]
    pub control: PathBuf,
}

/// Of `echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// What it calls itself in its answers.
    #[arg(long)]
    pub name: String,
}
