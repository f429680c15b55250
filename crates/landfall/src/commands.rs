//! The commands that ask a running edge, over its control socket.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;

use crate::{
    check::EXIT_CONFIG,
    cli::ExplainArgs,
    control::status::{ChangeStatus, EndpointStatus, Status, UnheardStatus},
    control_socket::{self, Answer, Request, SocketError},
    flows::{self, FlowsArgs},
    run,
};

/// How often `status --watch` looks again.
const WATCH: Duration = Duration::from_secs(1);

/// Where an edge listens for commands unless its config says otherwise.
pub const CONTROL: &str = "/run/landfall/control.sock";

/// Which edge to ask.
#[derive(Debug, Args)]
pub struct Ask {
    /// The control socket of the edge: `edge.control` in its config.
    #[arg(long, value_name = "SOCKET", default_value = CONTROL)]
    pub control: PathBuf,
}

/// Of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which edge.
    #[command(flatten)]
    pub ask: Ask,
    /// Print JSON, as `/status` does.
    #[arg(long)]
    pub json: bool,
    /// Show the last changes of every endpoint's health as well, with what its probes said.
    #[arg(long)]
    pub history: bool,
    /// Look again every second until interrupted.
    #[arg(long)]
    pub watch: bool,
}

/// Of `weight`.
#[derive(Debug, Args)]
pub struct WeightArgs {
    /// The endpoint's name.
    pub endpoint: String,
    /// 0 to 255; 0 takes no new flows.
    pub weight: u8,
    /// Which edge.
    #[command(flatten)]
    pub ask: Ask,
}

/// Of `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The endpoint's name; without one the edge says that it is not ready.
    pub endpoint: Option<String>,
    /// End the flows that are left after this long, as in "10m". Without it they end by themselves.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "endpoint")]
    pub reset_after: Option<Duration>,
    /// Which edge.
    #[command(flatten)]
    pub ask: Ask,
}

/// Of `undrain`.
#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// The endpoint's name; without one the edge.
    pub endpoint: Option<String>,
    /// Which edge.
    #[command(flatten)]
    pub ask: Ask,
}

/// Asks for a reload. A refused one exits with the status of a bad config.
pub fn reload(ask: &Ask) -> ExitCode {
    match send(&ask.control, &Request::Reload) {
        Ok(answer) if answer.ok => {
            println!("reloaded:\n{}", answer.message);
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprintln!("landfall: reload refused, the old configuration stays in force:\n{}", answer.message);
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => complain(&error),
    }
}

/// Sets a weight.
pub fn weight(args: WeightArgs) -> ExitCode {
    order(&args.ask, &Request::Weight { endpoint: args.endpoint, weight: args.weight })
}

/// Drains an endpoint or the edge.
pub fn drain(args: DrainArgs) -> ExitCode {
    let reset_after_ms = args.reset_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    order(&args.ask, &Request::Drain { endpoint: args.endpoint, reset_after_ms })
}

/// Takes a drain back.
pub fn undrain(args: UndrainArgs) -> ExitCode {
    order(&args.ask, &Request::Undrain { endpoint: args.endpoint })
}

/// Explains a flow by what a running edge knows.
pub fn explain(args: &ExplainArgs) -> ExitCode {
    let request = Request::Explain { protocol: args.protocol.to_string(), client: args.client, to: args.to };
    match send(&args.control, &request) {
        Ok(Answer { explanation: Some(explanation), .. }) => {
            // Err: whoever reads has read enough.
            let _ = io::stdout().write_all(explanation.print(args.json).as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Answer { message, .. }) => complain(&message),
        Err(error) => complain(&error),
    }
}

/// Prints the live flows of a running edge.
pub fn flows(args: &FlowsArgs) -> ExitCode {
    match send(&args.ask.control, &Request::Flows(args.into())) {
        Ok(Answer { flows: Some(flows), .. }) => {
            let text = match args.json {
                true => serde_json::to_string_pretty(&flows).unwrap_or_default() + "\n",
                false => flows::render(&flows, args.limit),
            };
            // Err: whoever reads has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Answer { message, .. }) => complain(&message),
        Err(error) => complain(&error),
    }
}

fn order(ask: &Ask, request: &Request) -> ExitCode {
    match send(&ask.control, request) {
        Ok(Answer { ok: true, message, .. }) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Ok(Answer { message, .. }) => complain(&message),
        Err(error) => complain(&error),
    }
}

fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("landfall: {error}");
    ExitCode::FAILURE
}

fn send(socket: &Path, request: &Request) -> Result<Answer, SocketError> {
    let asking = |source| SocketError::Ask { path: socket.to_owned(), source };
    let runtime = run::runtime().map_err(|error| asking(io::Error::other(error)))?;
    runtime.block_on(control_socket::ask(socket, request))
}

/// Shows what `/status` says, once or every second.
pub fn status(args: &StatusArgs) -> ExitCode {
    loop {
        let status = match send(&args.ask.control, &Request::Status) {
            Ok(Answer { status: Some(status), .. }) => status,
            Ok(Answer { message, .. }) => return complain(&message),
            Err(error) => return complain(&error),
        };
        let text = if args.json {
            serde_json::to_string_pretty(&status).unwrap_or_default() + "\n"
        } else {
            render(&status, args.history)
        };
        // On a terminal the new one is drawn over the old one.
        let home = if args.watch && io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        let mut out = io::stdout().lock();
        if write!(out, "{home}{text}").and_then(|()| out.flush()).is_err() || !args.watch {
            return ExitCode::SUCCESS;
        }
        drop(out);
        let Ok(runtime) = run::runtime() else { return ExitCode::FAILURE };
        runtime.block_on(async { tokio::time::sleep(WATCH).await });
    }
}

/// The status for people.
pub fn render(status: &Status, history: bool) -> String {
    let mut text = String::new();
    let state = match (status.draining, status.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    // Writing to a string does not fail.
    let _ = writeln!(text, "edge {} ({}): {state}", status.edge, status.version);
    for reason in &status.not_ready {
        let _ = writeln!(text, "  {reason}");
    }
    if let Some(anycast) = &status.anycast {
        let _ = writeln!(text, "BIRD {}", anycast.bird);
        for ip in &anycast.static_ips {
            let _ = writeln!(text, "static IP {}: {}, {}", ip.ip, ip.state, ip.reason);
        }
    }
    for device in status.fast_path.iter().flat_map(|fast_path| &fast_path.devices) {
        let reason = if device.reason.is_empty() { String::new() } else { format!(", {}", device.reason) };
        let _ = writeln!(text, "fast path device {}: {}{reason}", device.name, device.mode);
    }
    for unheard in status.fast_path.iter().flat_map(|fast_path| &fast_path.unheard) {
        let UnheardStatus { endpoint, device } = unheard;
        let _ = writeln!(
            text,
            "  replies of endpoint {endpoint} are refused: they come by {device}, which packets are not taken from"
        );
    }
    for listener in &status.listeners {
        let groups = listener.endpoint_groups.join(", ");
        let _ = writeln!(
            text,
            "listener {}: {} flows, {}, groups {groups}, digest {}",
            listener.name, listener.flows_active, listener.stage, listener.digest
        );
        let reason = &listener.forwarding_reason;
        let reason = if reason.is_empty() { String::new() } else { format!(", because {reason}") };
        let _ = writeln!(text, "  forwarding: {}{reason}", listener.forwarding);
    }
    for name in &status.dns_names {
        let addresses = if name.addresses.is_empty() { "no address".to_owned() } else { name.addresses.join(", ") };
        let error = name.error.as_ref().map_or_else(String::new, |error| format!(" (last lookup failed: {error})"));
        let _ = writeln!(text, "DNS name {}: {addresses}{error}", name.name);
    }
    for group in &status.endpoint_groups {
        let eligible = if group.eligible { "eligible" } else { "not eligible" };
        let dial = if (group.traffic_dial - group.effective_dial).abs() < f64::EPSILON {
            format!("dial {} %", group.traffic_dial)
        } else {
            format!("dial {} of {} %", group.effective_dial, group.traffic_dial)
        };
        let rtt = group.rtt_seconds.map_or_else(String::new, |rtt| format!("rtt {}, ", milliseconds(rtt)));
        let _ = writeln!(
            text,
            "endpoint group {} ({}): {eligible}, {dial}, {rtt}failover within {} s",
            group.name, group.region, group.failover_bound_seconds
        );
        for endpoint in &group.endpoints {
            text.push_str(&line(endpoint));
            for change in endpoint.history.iter().filter(|_| history) {
                text.push_str(&change_line(change));
            }
        }
    }
    text
}

fn line(endpoint: &EndpointStatus) -> String {
    let rtt = endpoint.rtt_seconds.map_or_else(|| "-".to_owned(), milliseconds);
    let weight = match endpoint.weight_set {
        Some(set) => format!("{set} (set at run time)"),
        None => endpoint.weight.to_string(),
    };
    format!(
        "  {:<20} {:<24} {:<9} weight {weight:<5} now {:<6.1} flows {:<7} rtt {rtt:<9} {}\n",
        endpoint.name, endpoint.address, endpoint.health, endpoint.effective_weight, endpoint.flows_active, endpoint.reason
    )
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1000.0)
}

fn change_line(change: &ChangeStatus) -> String {
    let ago = humantime::format_duration(Duration::from_secs(Duration::from_secs_f64(change.ago_seconds).as_secs()));
    let mut text = format!("      {ago} ago: {} -> {}, {}", change.from, change.to, change.reason);
    if let Some(took) = change.took_seconds {
        text.push_str(&format!(", {} after the first failed probe was sent", milliseconds(took)));
    }
    if let Some(latency) = change.last_good_latency_seconds {
        text.push_str(&format!(", last good answer took {}", milliseconds(latency)));
    }
    text.push_str(&format!("; results: {}\n", change.results.join(" ")));
    text
}
