//! What probing many endpoints costs, and whether the schedule is kept: `cargo run --release -p landfall-tests --bin probe-bench`.
//!
//! One process answers on as many loopback addresses as there are endpoints. Runs without root. What is printed is explained in
//! `docs/BENCHMARKS.md`.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::loopback::{config_head, own_address};
use landfall_tests::wait::{self, wait_until};
use landfall_tests::{Failure, Result};

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 7999;

/// Measures the cost and the punctuality of probes.
#[derive(Parser)]
struct Arguments {
    /// How many endpoints are probed, once a second each.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    endpoints: u16,
    /// How long to measure.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("probe-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Address number `index` of those that are probed: 127.32.0.0 and up.
fn address(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(127, 32, high, low)
}

fn config(arguments: &Arguments, static_ip: Ipv4Addr) -> String {
    let mut text = config_head(&[static_ip], "workers = 1\n");
    text += "[[listeners]]\nname = \"l\"\nprotocol = \"tcp\"\nports = [7998]\nendpoint_groups = [\"g\"]\n\
             [[endpoint_groups]]\nname = \"g\"\nhealth_check = { protocol = \"tcp\", port = 7999, interval = \"1s\" }\nendpoints = [\n";
    for index in 0..arguments.endpoints {
        let ip = address(index);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{{ name = \"e{index}\", address = \"{ip}\" }},");
    }
    text + "]\n"
}

fn run(arguments: &Arguments) -> Result<String> {
    let spec = Spec::echo("all", (Ipv4Addr::UNSPECIFIED, PORT));
    let _endpoint = Endpoint::start(None, spec)?;
    let edge = Edge::start(None, &config(arguments, own_address()))?;
    let results = || edge.metrics().map(|metrics| metrics.sum("landfall_probe_results_total", &[]));
    let probes = f64::from(arguments.endpoints) * 3.0;
    wait_until("the first rounds of probes", LIMIT, || results().is_ok_and(|results| results >= probes))?;

    let (before, begin, used) = (edge.metrics()?, wait::now(), processor_time(edge.pid())?);
    wait::pass(Duration::from_secs(arguments.seconds));
    let (after, elapsed) = (edge.metrics()?, begin.elapsed());
    let used = processor_time(edge.pid())?.saturating_sub(used);

    let grown = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let sent = grown("landfall_probe_lateness_seconds_count", &[]);
    let mut text = format!(
        "{} endpoints, {:.0} probes a second: {:.1} % of one core\n",
        arguments.endpoints,
        sent / elapsed.as_secs_f64(),
        used.as_secs_f64() / elapsed.as_secs_f64() * 100.0
    );
    for bucket in ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1"] {
        let within = grown("landfall_probe_lateness_seconds_bucket", &[("le", bucket)]);
        let _ = writeln!(text, "sent within {bucket} s of when it was due: {:.2} %", within / sent * 100.0);
    }
    let healthy = after.sum("landfall_endpoint_health", &[("health", "healthy")]);
    let _ = writeln!(text, "healthy: {healthy} of {}", arguments.endpoints);
    Ok(text)
}

/// What a process has used so far, in user mode and in the kernel.
fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let cannot = |cause: &dyn std::fmt::Display| Failure::new("read", &path, cause, "mount /proc");
    let text = std::fs::read_to_string(&path).map_err(|error| cannot(&error))?;
    // The name in brackets may hold anything; what counts comes after it (proc(5): utime is field 14, stime 15, in ticks of 10 ms).
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|field| field.parse::<u64>().ok());
    match (ticks(14), ticks(15)) {
        (Some(user), Some(kernel)) => Ok(Duration::from_millis((user + kernel) * 10)),
        _ => Err(cannot(&"it has no processor times")),
    }
}
