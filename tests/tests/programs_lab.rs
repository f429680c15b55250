//! Programs that are not ours, through a static IP on both paths, each beside the same run straight to the endpoint: telephony, DNS and a game.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use landfall_tests::command::landfall;
use landfall_tests::edge::Edge;
use landfall_tests::field::Field;
use landfall_tests::lab::{Lab, Namespace};
use landfall_tests::on_both_paths;
use landfall_tests::path::{Families, Path};
use landfall_tests::process::Process;
use landfall_tests::wait::{Beat, wait_until};

/// For a run of a program, and for its server to start: a game reads its map first.
const LIMIT: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
name = "programs"
static_ips = {static_ips}
hash_seed = 7
[edge]
name = "lab"
admin = "127.0.0.1:9900"
control = "{dir}/control.sock"
[[endpoint_groups]]
name = "both"
endpoints = [{ name = "a", address = "{a}", weight = 200 }, { name = "b", address = "{b}", weight = {weight} }]
"#;

on_both_paths!(
    calls_and_their_media_pass_while_the_config_is_reloaded,
    every_name_is_answered_while_an_endpoint_steps_back_and_returns,
    a_game_server_answers_as_it_does_directly,
);

/// What runs in each region.
struct Service {
    /// The listeners, and the health check of the group.
    config: &'static str,
    /// The weight of the endpoint `b`; that of `a` is 200.
    weight: u8,
    /// Starts it in a namespace, with a directory of its own, on an address.
    start: fn(&Namespace, &std::path::Path, IpAddr) -> Process,
}

/// Fields are dropped in this order: first the edge, then the rest.
struct Scene {
    edge: Edge,
    /// One of each family.
    static_ips: Vec<IpAddr>,
    /// The endpoint `a`.
    direct: IpAddr,
    _servers: Vec<Process>,
    lab: Lab,
    files: tempfile::TempDir,
}

/// The service in both regions, behind an edge that has found it healthy.
fn scene(path: Path, families: Families, service: &Service) -> Scene {
    let lab = Lab::first_light().unwrap();
    // For what goes straight to an endpoint, the edge's host is a router.
    for parameter in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
        lab.edge.set(parameter, "1").unwrap();
    }
    lab.client.ip("route add 198.18.2.0/23 via 198.18.1.1\nroute add fd00:18:2::/47 via fd00:18:1::1\n").unwrap();

    let files = tempfile::Builder::new().prefix("landfall-lab-").tempdir().unwrap();
    let [a, b] = [families.endpoint(&lab.region_a, 0, false), families.endpoint(&lab.region_b, 0, true)];
    let servers = [(&lab.region_a, a), (&lab.region_b, b)].map(|(region, address)| {
        let directory = files.path().join(region.namespace.name());
        std::fs::create_dir(&directory).unwrap();
        (service.start)(&region.namespace, &directory, address)
    });
    let listed: Vec<_> = families.static_ips().iter().map(ToString::to_string).collect();
    let config = CONFIG.replace("{static_ips}", &format!("{listed:?}")).replace("{weight}", &service.weight.to_string());
    let config = config.replace("{a}", &a.to_string()).replace("{b}", &b.to_string()) + service.config;
    let edge = path.start(&lab.edge, &config).unwrap();
    for name in ["a", "b"] {
        let is_healthy = || edge.health(name).unwrap().as_deref() == Some("healthy");
        wait_until(&format!("{name} healthy"), LIMIT, is_healthy).unwrap_or_else(|failure| panic!("{failure}\n{}", edge.log()));
    }
    let static_ips = families.static_ips().into_iter().step_by(2).collect();
    Scene { edge, static_ips, direct: a, _servers: servers.into(), lab, files }
}

impl Scene {
    /// A command to the running edge, which must succeed; returns what it shows.
    fn order(&self, words: &[&str]) -> String {
        let control = self.edge.directory().join("control.sock");
        let ended = landfall(words.iter().copied().chain(["--control", control.to_str().unwrap()])).unwrap();
        assert_eq!(ended.status, Some(0), "{words:?}: {}", ended.stderr);
        ended.stdout
    }

    /// How many flows were pinned to each endpoint, once the edge has opened `flows`.
    fn pinned(&self, path: Path, flows: usize) -> [usize; 2] {
        path.assert_carried(&self.edge, flows);
        let metrics = self.edge.metrics().unwrap();
        ["a", "b"].map(|name| {
            let pinned = metrics.sum("landfall_endpoint_flows_opened_total", &[("endpoint", name)]);
            format!("{:.0}", pinned.abs()).parse().unwrap()
        })
    }

    fn assert_nothing_dropped(&self) {
        assert_eq!(self.edge.metrics().unwrap().sum("landfall_drops_total", &[]), 0.0, "{}", self.edge.log());
    }
}

// ---- Telephony ----

const CALLS: usize = 20;
/// Where the media of the first call comes from; the next follow four ports apart.
const CALLER_MEDIA: u16 = 20_000;

/// Calls and media of one client must meet: `b` has so little weight that this client is not among its own. SIPp sends back
/// what comes to its media port, and answers OPTIONS between calls.
const TELEPHONY: Service = Service {
    config: r#"
health_check = { protocol = "sip_options", port = 5060 }
[[listeners]]
name = "sip"
protocol = "udp"
ports = [5060]
client_affinity = "source_ip"
endpoint_groups = ["both"]
[[listeners]]
name = "media"
protocol = "udp"
ports = ["6000-6099"]
client_affinity = "source_ip"
endpoint_groups = ["both"]
"#,
    weight: 1,
    start: |namespace, directory, address| {
        let address = address.to_string();
        sipp(
            namespace,
            directory,
            include_str!("programs_lab/callee.xml"),
            &["-i", &address, "-mi", &address, "-mp", "6000", "-aa", "-rtp_echo", "-p", "5060"],
        )
    },
};

fn sipp(namespace: &Namespace, directory: &std::path::Path, scenario: &str, options: &[&str]) -> Process {
    let file = directory.join("scenario.xml");
    std::fs::write(&file, scenario).unwrap();
    let mut command = Command::new("sipp");
    command.arg("-sf").arg(&file).args(options).arg("-nostdin").current_dir(directory).env("TERM", "dumb");
    namespace.spawn(command).unwrap()
}

/// What a run of calls came to.
#[derive(Debug, PartialEq, Eq)]
struct Calls {
    /// What SIPp says of itself.
    successful: usize,
    failed: usize,
    retransmissions: usize,
    /// The packets of RTP that came back for each call but the first, whose port is SIPp's own.
    media: Vec<usize>,
}

/// Calls `target`, with `meanwhile` again and again until the last call has ended.
fn calls(scene: &Scene, target: IpAddr, mut meanwhile: impl FnMut()) -> Calls {
    let client = &scene.lab.client;
    let own = if target.is_ipv4() { "198.18.1.2" } else { "fd00:18:1::2" };
    // SIPp sends media from these ports and listens on the first of them alone.
    let ports = (1..CALLS).map(|call| CALLER_MEDIA + 4 * u16::try_from(call).unwrap());
    let phones: Vec<_> =
        ports.map(|port| client.enter(|| UdpSocket::bind((own.parse::<IpAddr>().unwrap(), port))).unwrap()).collect();
    let (number, target) = (CALLS.to_string(), SocketAddr::from((target, 5060)).to_string());
    let media = CALLER_MEDIA.to_string();
    let options =
        ["-i", own, "-mi", own, "-mp", &media, "-m", &number, "-r", &number, "-trace_stat", "-stf", "calls.csv", &target];
    let mut caller = sipp(client, scene.files.path(), include_str!("programs_lab/caller.xml"), &options);
    let mut beat = Beat::every(Duration::from_millis(200));
    while caller.is_running() {
        meanwhile();
        beat.wait();
    }
    caller.wait_success(LIMIT).unwrap();
    let table = std::fs::read_to_string(scene.files.path().join("calls.csv")).unwrap();
    let (names, last) = (table.lines().next().unwrap(), table.lines().last().unwrap());
    let figures: BTreeMap<_, _> = names.split(';').zip(last.split(';')).collect();
    let figure = |name| figures[name].parse().unwrap();
    Calls {
        successful: figure("SuccessfulCall(C)"),
        failed: figure("FailedCall(C)"),
        retransmissions: figure("Retransmissions(C)"),
        media: phones.iter().map(waiting).collect(),
    }
}

/// How many datagrams wait in a socket. A call ends a quarter of a second after its last one.
fn waiting(phone: &UdpSocket) -> usize {
    phone.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| phone.recv(&mut [0; 2048]).ok()).count()
}

fn calls_and_their_media_pass_while_the_config_is_reloaded(path: Path) {
    for &families in path.families() {
        let scene = scene(path, families, &TELEPHONY);
        let direct = calls(&scene, scene.direct, || {});
        println!("directly: {direct:?}");
        // Two keys, ten packets each.
        assert_eq!(direct, Calls { successful: CALLS, failed: 0, retransmissions: 0, media: vec![20; CALLS - 1] });

        let mut reloads = 0;
        for &ip in &scene.static_ips {
            let through = calls(&scene, ip, || {
                let file = std::fs::read_to_string(scene.edge.config_path()).unwrap();
                let [old, new] = if reloads % 2 == 0 { [200, 255] } else { [255, 200] };
                let text = file.replace(&format!("weight = {old} }}"), &format!("weight = {new} }}"));
                scene.edge.rewrite_config(&text).unwrap();
                let changed = scene.order(&["reload"]);
                assert!(changed.contains(&new.to_string()), "{changed}");
                reloads += 1;
            });
            println!("{path:?}, to {ip}: {through:?}");
            assert_eq!(through, direct);
        }
        // One flow for the calls, and one for the media of each.
        let flows = scene.static_ips.len() * (1 + CALLS);
        assert_eq!(scene.pinned(path, flows), [flows, 0], "calls and their media meet");
        println!("{path:?}: {flows} flows, {reloads} reloads");
        assert!(reloads >= 2, "{reloads}");
        scene.assert_nothing_dropped();
    }
}

// ---- DNS ----

/// Clients of a run of dnsperf, each with a port of its own.
const CLIENTS: usize = 40;

const NAMES: Service = Service {
    config: r#"
health_check = { protocol = "dns", port = 53 }
[[listeners]]
name = "dns"
protocol = "udp"
ports = [53]
endpoint_groups = ["both"]
"#,
    weight: 200,
    start: |namespace, directory, address| Field::new(namespace, directory).unwrap().unbound(address, None).unwrap(),
};

/// Starts dnsperf: `queries` of them, 1,500 a second, from ports that begin with `port`.
fn dnsperf(scene: &Scene, target: IpAddr, queries: usize, port: u16) -> Process {
    // An answer, a name without such a record, and a name that there is not.
    let names = ["field.example A\n", "field.example MX\n", "none.example A\n"];
    let file = scene.files.path().join(format!("queries-{queries}"));
    std::fs::write(&file, names.into_iter().cycle().take(queries).collect::<String>()).unwrap();
    let mut command = Command::new("dnsperf");
    command.args(["-s", &target.to_string(), "-x", &port.to_string(), "-c", &CLIENTS.to_string()]);
    command.args(["-T", "1", "-n", "1", "-Q", "1500", "-W", "-d"]).arg(file);
    scene.lab.client.spawn(command).unwrap()
}

/// What dnsperf says at its end that is no matter of time: queries sent, completed and lost, codes of the answers, sizes.
fn report(mut dnsperf: Process) -> Vec<String> {
    let text = dnsperf.wait_success(LIMIT).unwrap();
    let told =
        ["Queries sent:", "Queries completed:", "Queries lost:", "Response codes:", "Average packet size:", "Error", "Warning"];
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| told.iter().any(|start| line.contains(start))).collect()
}

fn every_name_is_answered_while_an_endpoint_steps_back_and_returns(path: Path) {
    // Four seconds: longer than all that is done meanwhile, with counters a second late.
    const LONG: usize = 6000;
    const SHORT: usize = 300;
    for &families in path.families() {
        let scene = scene(path, families, &NAMES);
        let direct = [LONG, SHORT].map(|queries| report(dnsperf(&scene, scene.direct, queries, 20_000)));
        println!("directly: {direct:?}");
        for (lines, queries) in direct.iter().zip([LONG, SHORT]) {
            let codes = format!("Response codes: NOERROR {} (66.67%), NXDOMAIN {} (33.33%)", queries / 3 * 2, queries / 3);
            let whole = [format!("Queries sent: {queries}"), format!("Queries completed: {queries} (100.00%)")];
            let expected = [&whole[..], &["Queries lost: 0 (0.00%)".to_owned(), codes]].concat();
            assert_eq!(lines[..4], expected);
            assert_eq!(lines.len(), 5, "no error and no warning: {lines:?}");
        }

        let mut flows = 0;
        let mut before = [0, 0];
        for &ip in &scene.static_ips {
            let mut pinned_since = || {
                flows += CLIENTS;
                let now = scene.pinned(path, flows);
                let since = [now[0] - before[0], now[1] - before[1]];
                before = now;
                since
            };
            let mut long = dnsperf(&scene, ip, LONG, 20_000);
            let first = pinned_since();
            assert!(first[0] > 0 && first[1] > 0, "{first:?}");

            scene.order(&["weight", "b", "0"]);
            assert_eq!(report(dnsperf(&scene, ip, SHORT, 21_000)), direct[1]);
            assert_eq!(pinned_since(), [CLIENTS, 0], "no new flow at weight 0");

            scene.order(&["weight", "b", "200"]);
            assert!(long.is_running(), "its flows to b were there before and stay all the while");
            assert_eq!(report(dnsperf(&scene, ip, SHORT, 22_000)), direct[1]);
            let last = pinned_since();
            assert!(last[0] > 0 && last[1] > 0, "{last:?}");

            let through = report(long);
            println!(
                "{path:?}, to {ip}: {through:?}; flows to a and b: {first:?}, with b at 0 {:?}, after {last:?}",
                [CLIENTS, 0]
            );
            assert_eq!(through, direct[0]);
        }
        scene.assert_nothing_dropped();
    }
}

// ---- A game ----

/// OpenArena. Only `a` is played on, and `b` stands by.
const GAME: Service = Service {
    config: r#"
health_check = { protocol = "udp", port = 27960, send = { hex = "ffffffff676574696e666f" }, expect = { regex = '(?s-u)\A\xff{4}infoResponse\n' } }
[[listeners]]
name = "game"
protocol = "udp"
ports = [27960]
endpoint_groups = ["both"]
"#,
    weight: 0,
    start: |namespace, directory, address| Field::new(namespace, directory).unwrap().openarena(address).unwrap(),
};

/// What qstat sees of the server at `ip`: its name, map, players, the queries that it had to repeat, and all its rules. IPv4 alone.
fn qstat(client: &Namespace, ip: IpAddr) -> String {
    let seen = client.run(["quakestat", "-raw", "|", "-R", "-P", "-q3s", &SocketAddr::from((ip, 27960)).to_string()]).unwrap();
    let mut lines = seen.lines();
    // Kind, address, name, map, most players, players, milliseconds, repeated queries.
    let head: Vec<_> = lines.next().unwrap().split('|').collect();
    let [kind, _, name, map, most, players, _, repeated] = head[..] else { panic!("{seen}") };
    let head = [kind, name, map, most, players, repeated].join("|");
    assert_eq!(head, "Q3S|noname|oa_dm1|8|0|0", "{seen}");
    lines.fold(head, |text, line| text + "\n" + line)
}

/// What the server at `ip` says to a client that finds it and then asks to join, all from one port; but for the challenge, which is random.
fn handshake(client: &Namespace, ip: IpAddr) -> Vec<String> {
    let wildcard = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.enter(|| UdpSocket::bind(wildcard)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    // Nothing is received from elsewhere.
    socket.connect((ip, 27960)).unwrap();
    let answers = ["getinfo 4711", "getstatus 4711", "getchallenge 4711 Quake3Arena"].map(|question| {
        socket.send(&[b"\xff\xff\xff\xff", question.as_bytes()].concat()).unwrap();
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("{question} to {ip}: {error}"));
        String::from_utf8_lossy(&answer[..length]).trim_start_matches('\u{fffd}').trim_end().to_owned()
    });
    assert!(answers[0].starts_with("infoResponse\n") && answers[0].contains("\\challenge\\4711"), "{}", answers[0]);
    assert!(answers[1].starts_with("statusResponse\n") && answers[1].contains("\\mapname\\oa_dm1"), "{}", answers[1]);
    let challenge: Vec<_> = answers[2].split(' ').collect();
    let ["challengeResponse", number, "4711", protocol] = challenge[..] else { panic!("{}", answers[2]) };
    assert!(number.parse::<i32>().is_ok(), "{number}");
    vec![answers[0].clone(), answers[1].clone(), format!("challenge for protocol {protocol}")]
}

fn a_game_server_answers_as_it_does_directly(path: Path) {
    for &families in path.families() {
        let scene = scene(path, families, &GAME);
        let client = &scene.lab.client;
        // The server answers ten questions at once, and then ten a second.
        let mut beat = Beat::every(Duration::from_millis(400));
        let direct = handshake(client, scene.direct);
        println!("directly: {direct:?}");
        let mut flows = 0;
        for &ip in &scene.static_ips {
            beat.wait();
            assert_eq!(handshake(client, ip), direct, "to {ip}");
            flows += 1;
        }
        for &ip in scene.static_ips.iter().filter(|ip| ip.is_ipv4()) {
            beat.wait();
            let seen = qstat(client, scene.direct);
            assert_eq!(qstat(client, ip), seen, "to {ip}");
            println!("{path:?}, to {ip}: {seen}");
            flows += 1;
        }
        assert_eq!(scene.pinned(path, flows), [flows, 0]);
        scene.assert_nothing_dropped();
    }
}
