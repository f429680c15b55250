//! Real programs through a real edge, in the lab: what a user would try on the first evening.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use landfall_tests::clients::{UdpFlow, tcp_probe};
use landfall_tests::edge::Edge;
use landfall_tests::endpoints::{Endpoint, Spec};
use landfall_tests::lab::{Lab, Namespace};
use landfall_tests::on_both_paths;
use landfall_tests::path::{self, Families, Path};
use landfall_tests::process::Process;

const LIMIT: Duration = Duration::from_secs(5);
/// For whole transfers, which share two processors with their servers and the edge.
const TRANSFER_LIMIT: Duration = Duration::from_secs(120);
const FILE_BYTES: u64 = 1 << 30;
const MESSAGES: usize = 1000;

/// Both endpoints in one group. `source_ip` where a program opens several flows that must meet on one endpoint. The
/// probe has an endpoint of its own: iperf3 takes a bare connect on its port for a client and fails the running test.
const CONFIG: &str = r#"
name = "first-light"
static_ips = {static_ips}
hash_seed = 7

[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"

[[listeners]]
name = "echo"
protocol = "tcp_udp"
ports = [7000]
endpoint_groups = ["both"]

[[listeners]]
name = "iperf"
protocol = "tcp_udp"
ports = [5201]
client_affinity = "source_ip"
endpoint_groups = ["both"]

[[listeners]]
name = "web"
protocol = "tcp"
ports = [8080]
endpoint_groups = ["both"]

[[listeners]]
name = "mqtt"
protocol = "tcp"
ports = [1883]
client_affinity = "source_ip"
endpoint_groups = ["both"]

[[endpoint_groups]]
name = "both"
region = "lab"
health_check = { protocol = "tcp", port = 7000 }
endpoints = [
  { name = "a-1", address = "{a-1}" },
  { name = "b-1", address = "{b-1}" },
]
"#;

/// Everything that must run while the programs pass. Fields are dropped in this order: first the edge, then the rest.
struct Scene {
    edge: Edge,
    static_ips: Vec<IpAddr>,
    _servers: Vec<Process>,
    _endpoints: Vec<Endpoint>,
    lab: Lab,
    files: tempfile::TempDir,
}

fn scene(path: Path, families: Families) -> Scene {
    let lab = Lab::first_light().unwrap();
    let files = tempfile::Builder::new().prefix("landfall-lab-").tempdir().unwrap();
    std::fs::create_dir(files.path().join("www")).unwrap();
    let mut config = CONFIG.to_owned();
    let mut endpoints = Vec::new();
    let mut servers = Vec::new();
    for (name, region, address) in [
        ("a-1", &lab.region_a, families.endpoint(&lab.region_a, 0, false)),
        ("b-1", &lab.region_b, families.endpoint(&lab.region_b, 0, true)),
    ] {
        let namespace = &region.namespace;
        endpoints.push(Endpoint::start(Some(namespace), Spec::echo(name, (address, 7000))).unwrap());
        servers.push(iperf_server(namespace, address));
        servers.push(nginx(namespace, address, &files.path().join(name), &files.path().join("www")));
        servers.push(mosquitto(namespace, address, &files.path().join(name)));
        config = config.replace(&format!("{{{name}}}"), &address.to_string());
    }
    let static_ips = families.static_ips();
    let listed: Vec<_> = static_ips.iter().map(ToString::to_string).collect();
    let edge = path.start(&lab.edge, &config.replace("{static_ips}", &format!("{listed:?}"))).unwrap();
    Scene { edge, static_ips, _servers: servers, _endpoints: endpoints, lab, files }
}

on_both_paths!(real_programs_pass_through_the_edge);

/// One test, because the programs share two processors and a loss-free run needs them to itself. Programs of TCP alone pass once: both paths
/// forward it alike.
fn real_programs_pass_through_the_edge(path: Path) {
    let _turn = path::turn();
    for &families in path.families() {
        let mut scene = scene(path, families);
        every_static_ip_answers_from_itself(&scene);
        // One of each family.
        let static_ips: Vec<_> = scene.static_ips.iter().step_by(2).copied().collect();
        for &static_ip in &static_ips {
            iperf_tcp_passes_in_both_directions(&scene, static_ip);
            iperf_udp_loses_nothing(&scene, static_ip);
        }
        if path == Path::User {
            a_large_file_arrives_unchanged(&scene);
            messages_pass_from_publisher_to_subscriber(&scene);
        }
        // iperf3 has one UDP flow in each direction that it is run.
        path.assert_carried(&scene.edge, scene.static_ips.len() + 2 * static_ips.len());
        the_edge_counted_no_drop(&scene);
        if path == Path::User {
            scene.edge.signal(libc::SIGTERM).unwrap();
            assert!(scene.edge.wait_exit(Duration::from_secs(40)).unwrap().success(), "an edge that is told to stop ends well");
        }
    }
}

fn every_static_ip_answers_from_itself(scene: &Scene) {
    for &static_ip in &scene.static_ips {
        let landing = scene.lab.client.enter(|| tcp_probe((static_ip, 7000), LIMIT)).unwrap();
        assert!(["a-1", "b-1"].contains(&landing.endpoint.as_str()), "{landing:?}");
        let wildcard = if static_ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let mut flow = scene.lab.client.enter(|| UdpFlow::open(wildcard, (static_ip, 7000))).unwrap();
        // The flow checks that each answer comes from the address and port that it was sent to.
        let first = flow.exchange(LIMIT).unwrap().endpoint;
        let second = flow.exchange(LIMIT).unwrap().endpoint;
        assert_eq!(first, second, "a flow stays where it began");
    }
}

fn iperf_tcp_passes_in_both_directions(scene: &Scene, static_ip: IpAddr) {
    for direction in [&[][..], &["-R"]] {
        let report = iperf(&scene.lab.client, static_ip, &[&["-t", "2"], direction].concat());
        let bytes = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default();
        assert!(bytes > 10_000_000, "{direction:?} brought only {bytes} bytes in two seconds: {report:#}");
    }
}

fn iperf_udp_loses_nothing(scene: &Scene, static_ip: IpAddr) {
    for direction in [&[][..], &["-R"]] {
        // 2,000 packets a second; the buffer holds what comes while a process waits for its turn.
        let rate = ["-u", "-b", "19200K", "-l", "1200", "-w", "208K", "-t", "3"];
        let report = iperf(&scene.lab.client, static_ip, &[&rate, direction].concat());
        let sum = &report["end"]["sum"];
        let packets = sum["packets"].as_u64().unwrap_or_default();
        assert!(packets > 5_000, "{direction:?} sent only {packets} of about 6,000 packets: {sum:#}");
        assert_eq!(sum["lost_packets"].as_u64(), Some(0), "{direction:?} to {static_ip}: {sum:#}");
    }
}

/// Runs one iperf3 test from the client and returns its report, which must carry no error.
fn iperf(client: &Namespace, static_ip: IpAddr, options: &[&str]) -> serde_json::Value {
    let mut command = Command::new("iperf3");
    command.args(["--json", "--connect-timeout", "5000", "-c", &static_ip.to_string()]).args(options);
    let mut process = client.spawn(command).unwrap();
    let status = process.wait_exit(TRANSFER_LIMIT).unwrap();
    let report: serde_json::Value = serde_json::from_str(&process.stdout()).unwrap();
    assert!(status.success() && report.get("error").is_none(), "iperf3 {options:?}: {status}, {}", report["error"]);
    report
}

fn a_large_file_arrives_unchanged(scene: &Scene) {
    let (sent, received) = (scene.files.path().join("www/noise"), scene.files.path().join("received"));
    write_noise(&sent, FILE_BYTES);
    let mut command = Command::new("curl");
    command.args(["--fail", "--silent", "--show-error", "--noproxy", "*", "--output"]).arg(&received);
    command.arg(format!("http://{}:8080/noise", scene.static_ips[1]));
    scene.lab.client.spawn(command).unwrap().wait_success(TRANSFER_LIMIT).unwrap();
    assert_eq!(std::fs::metadata(&received).unwrap().len(), FILE_BYTES);
    assert_eq!(first_difference(&sent, &received), None);
}

fn messages_pass_from_publisher_to_subscriber(scene: &Scene) {
    let static_ip = scene.static_ips[0].to_string();
    // Line buffering shows "Subscribed" as soon as it is true.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "mosquitto_sub", "-d", "-q", "1", "-t", "landfall/test", "-h", &static_ip]);
    command.args(["-C", &MESSAGES.to_string()]);
    let mut subscriber = scene.lab.client.spawn(command).unwrap();
    subscriber.wait_for_line("Subscribed", LIMIT).unwrap();

    let messages: Vec<String> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    let publish = ["mosquitto_pub", "-l", "-q", "1", "-t", "landfall/test", "-h", &static_ip];
    scene.lab.client.run_with_input(publish, &(messages.join("\n") + "\n")).unwrap();
    let output = subscriber.wait_success(TRANSFER_LIMIT).unwrap();
    let received: Vec<&str> = output.lines().filter(|line| line.starts_with("message ")).collect();
    assert_eq!(received, messages, "each message once and in order");
}

fn the_edge_counted_no_drop(scene: &Scene) {
    let metrics = scene.edge.metrics().unwrap();
    let drops: Vec<_> = metrics.samples().iter().filter(|sample| sample.name.contains("_drop") && sample.value > 0.0).collect();
    assert!(drops.is_empty(), "{drops:?}");
}

fn iperf_server(namespace: &Namespace, address: IpAddr) -> Process {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--forceflush", "--bind", &address.to_string()]);
    let process = namespace.spawn(command).unwrap();
    process.wait_for_line("Server listening", LIMIT).unwrap();
    process
}

/// A web server in one process, as the user who runs the test: see [`Process`] on what would escape the guard.
fn nginx(namespace: &Namespace, address: IpAddr, directory: &std::path::Path, root: &std::path::Path) -> Process {
    std::fs::create_dir_all(directory).unwrap();
    let listen = std::net::SocketAddr::from((address, 8080));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
        .collect();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {pid};\nerror_log stderr notice;\nevents {{}}\n\
         http {{\naccess_log off;\nsendfile on;\n{temporary}server {{ listen {listen}; root {root}; }}\n}}\n",
        pid = directory.join("nginx.pid").display(),
        root = root.display(),
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(&file);
    let process = namespace.spawn(command).unwrap();
    // Written after the sockets listen.
    process.wait_for_line("using the \"epoll\" event method", LIMIT).unwrap();
    process
}

fn mosquitto(namespace: &Namespace, address: IpAddr, directory: &std::path::Path) -> Process {
    let file = directory.join("mosquitto.conf");
    let config = format!("listener 1883 {address}\nallow_anonymous true\nuser root\nlog_dest stderr\npersistence false\n");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(&file);
    let process = namespace.spawn(command).unwrap();
    process.wait_for_line("running", LIMIT).unwrap();
    process
}

/// Writes pseudo-random bytes (xorshift64), the same in every run.
fn write_noise(path: &std::path::Path, bytes: u64) {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut state = 0x6c61_6e64_6661_6c6c_u64;
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

/// The offset of the first block in which two files differ.
fn first_difference(left: &std::path::Path, right: &std::path::Path) -> Option<u64> {
    const BLOCK: usize = 1 << 20;
    let (mut left, mut right) = (File::open(left).unwrap(), File::open(right).unwrap());
    let mut offset = 0;
    loop {
        let (mut one, mut other) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
        (&mut left).take(BLOCK as u64).read_to_end(&mut one).unwrap();
        (&mut right).take(BLOCK as u64).read_to_end(&mut other).unwrap();
        if one != other {
            return Some(offset);
        }
        if one.is_empty() {
            return None;
        }
        offset += one.len() as u64;
    }
}
