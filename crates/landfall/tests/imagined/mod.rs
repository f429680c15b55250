//! What the tests of `explain` and `simulate` share: configs, random ones too, and the binary.

#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::{
    fmt::Write,
    num::NonZeroUsize,
    process::{Command, Output},
    time::Instant,
};

use fastrand::Rng;
use landfall::{
    config::{Config, Host},
    control::state::State,
    explain::what_if::imagine,
};

/// Two groups, `eu` at dial 60 with an override and `us`; a UDP listener, and one by client address that fails closed.
pub const CONFIG: &str = r#"
name = "t"
static_ips = ["198.18.0.1", "2001:db8:18::1"]
hash_seed = 7
[edge]
name = "e"
[[listeners]]
name = "match"
protocol = "udp"
ports = [7000, "7100-7199"]
endpoint_groups = ["eu", "us"]
[[listeners]]
name = "web"
protocol = "tcp"
ports = [443]
client_affinity = "source_ip"
when_all_unhealthy = "fail_closed"
endpoint_groups = ["us", "eu"]
[[endpoint_groups]]
name = "eu"
traffic_dial = 60
port_overrides = [{ listener_port = 7000, endpoint_port = 17000 }]
failback = { hold = "5s", ramp = "10s" }
health_check = { protocol = "udp", port = 7000, send = "ping" }
endpoints = [
  { name = "eu-1", address = "10.0.1.10" },
  { name = "eu-2", address = "10.0.1.11:9000", weight = 64 },
  { name = "eu-3", address = "10.0.1.12", weight = 64 },
]
[[endpoint_groups]]
name = "us"
failback = { hold = "5s", ramp = "10s" }
health_check = { port = 7000 }
endpoints = [{ name = "us-1", address = "10.0.2.10" }, { name = "us-2", address = "10.0.2.11" }]
"#;

pub fn parse(text: &str) -> Config {
    let host = Host {
        name: "t".into(),
        cores: NonZeroUsize::MIN,
        descriptors: 20_000,
        congestion: Vec::new(),
        ephemeral: Vec::new(),
        no_dispatcher: Some("a test".into()),
    };
    Config::parse(text, &host).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[allow(clippy::disallowed_methods, reason = "one arbitrary origin; only differences matter")]
pub fn origin() -> Instant {
    Instant::now()
}

pub fn state(text: &str, down: &[&str]) -> State {
    let down: Vec<String> = down.iter().map(|&name| name.to_owned()).collect();
    imagine(parse(text), &down, origin()).unwrap()
}

/// A random config of one to three listeners and one to four groups, and some of its endpoints and groups.
pub fn random(rng: &mut Rng) -> (String, Vec<String>) {
    let mut text = String::from("name = \"t\"\nstatic_ips = [\"198.18.0.1\", \"2001:db8:18::1\"]\n[edge]\nname = \"e\"\n");
    let groups = rng.usize(1..=4);
    let mut down = Vec::new();
    let mut body = String::new();
    for group in 0..groups {
        let dial = rng.choice(["0", "10", "33.333", "50", "100", "100"]).unwrap();
        let ramp = rng.choice(["0s", "10s"]).unwrap();
        let weights: Vec<u8> = (0..rng.usize(1..=6)).map(|_| rng.choice([0, 1, 64, 128, 128, 255]).unwrap()).collect();
        let weighted = weights.iter().filter(|&&weight| weight > 0).count();
        let min = if rng.bool() && weighted > 0 { rng.usize(1..=weighted).to_string() } else { "\"40%\"".into() };
        writeln!(body, "[[endpoint_groups]]\nname = \"g{group}\"\ntraffic_dial = {dial}\nmin_healthy = {min}").unwrap();
        writeln!(body, "failback = {{ hold = \"5s\", ramp = \"{ramp}\" }}\nhealth_check = {{ port = 7000 }}\nendpoints = [")
            .unwrap();
        for (index, weight) in weights.iter().enumerate() {
            writeln!(body, "{{ name = \"g{group}-{index}\", address = \"10.0.{group}.{index}\", weight = {weight} }},").unwrap();
            if rng.u8(..100) < 25 {
                down.push(format!("g{group}-{index}"));
            }
        }
        body.push_str("]\n");
        if rng.u8(..100) < 20 {
            down.push(format!("g{group}"));
        }
    }
    for listener in 0..rng.usize(1..=3) {
        let mut order: Vec<String> = (0..groups).map(|group| format!("\"g{group}\"")).collect();
        rng.shuffle(&mut order);
        order.truncate(rng.usize(1..=groups));
        let word = |rng: &mut Rng, words: [&'static str; 2]| *rng.choice(&words).unwrap();
        writeln!(text, "[[listeners]]\nname = \"l{listener}\"\nports = [{}]", 7000 + listener).unwrap();
        writeln!(text, "protocol = \"{}\"", rng.choice(["tcp", "udp", "tcp_udp"]).unwrap()).unwrap();
        writeln!(text, "client_affinity = \"{}\"", word(rng, ["none", "source_ip"])).unwrap();
        writeln!(text, "when_all_unhealthy = \"{}\"", word(rng, ["fail_open", "fail_closed"])).unwrap();
        writeln!(text, "endpoint_groups = [{}]", order.join(", ")).unwrap();
    }
    (text + &body, down)
}

/// Runs the binary with the files in place of `CONFIG` and `SCENARIO` among `args`.
pub fn landfall(config: &str, scenario: &str, args: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (config, scenario) = (path("landfall.toml", config), path("scenario.toml", scenario));
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    for arg in args.split_whitespace() {
        match arg {
            "CONFIG" => command.arg(&config),
            "SCENARIO" => command.arg(&scenario),
            other => command.arg(other),
        };
    }
    command.output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
