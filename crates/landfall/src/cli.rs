//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser};
use endpoint_group::{FlowKey, Protocol};

use crate::{
    attached::FastPathArgs,
    commands::{Ask, CONTROL, DrainArgs, StatusArgs, UndrainArgs, WeightArgs},
    flows::FlowsArgs,
    logging::LogFormat,
};

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
    /// Print which endpoint a flow goes to, and why: from a config alone, where every endpoint is taken for healthy but those of
    /// --down, or with --edge by what a running edge knows, and whether it has the flow.
    Explain(ExplainArgs),
    /// Print who would take which share, and what would move, if endpoints died or came back; from a config alone.
    Simulate(SimulateArgs),
    /// Show what a running edge knows and does.
    Status(StatusArgs),
    /// List the live flows of a running edge, of both paths.
    Flows(FlowsArgs),
    /// Set an endpoint's weight on a running edge, until the one in its file changes.
    Weight(WeightArgs),
    /// No new flows for an endpoint; or, for the edge, say that it is not ready.
    Drain(DrainArgs),
    /// Take a drain back.
    Undrain(UndrainArgs),
    /// Tell a running edge to read its config again, and show what that changed.
    Reload(Ask),
    /// Show or detach the programs in the kernel by which edges on this host forward.
    FastPath(FastPathArgs),
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

/// Of `explain`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("view").args(["config", "edge"]).required(true))]
pub struct ExplainArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask the running edge of --control instead of a config.
    #[arg(long)]
    pub edge: bool,
    /// The control socket of that edge: `edge.control` in its config.
    #[arg(long, value_name = "SOCKET", default_value = CONTROL, conflicts_with = "config")]
    pub control: PathBuf,
    /// Address and port of the client, such as 203.0.113.9:5555; an IPv6 address stands in brackets.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub client: SocketAddr,
    /// The static IP and port that the client addresses.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub to: SocketAddr,
    /// What the client speaks.
    #[arg(long, value_parser = PossibleValuesParser::new(["tcp", "udp"]).map(|word| protocol(&word)))]
    pub protocol: Protocol,
    /// Endpoints to take for dead; the name of a group stands for all of its endpoints.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', conflicts_with = "edge")]
    pub down: Vec<String>,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub json: bool,
}

impl ExplainArgs {
    /// The flow that is asked about.
    pub fn flow(&self) -> FlowKey {
        FlowKey { protocol: self.protocol, client: self.client, to: self.to }
    }
}

fn protocol(word: &str) -> Protocol {
    if word == "tcp" { Protocol::Tcp } else { Protocol::Udp }
}

/// Of `simulate`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["down", "scenario"]).required(true))]
pub struct SimulateArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How many flows to make up, spread evenly over listeners, protocols, static IPs and ports.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub flows: u64,
    /// Endpoints that die; the name of a group stands for all of its endpoints.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub down: Vec<String>,
    /// A TOML file of what happens and when; see docs/OPERATIONS.md.
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// What the flows are drawn from; the same seed gives the same output.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// Of `echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// What it calls itself in its answers.
    #[arg(long)]
    pub name: String,
}
