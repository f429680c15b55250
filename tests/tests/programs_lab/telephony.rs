//! SIPp: calls with their media.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use landfall_tests::lab::Namespace;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::process::Process;
use landfall_tests::wait::Beat;

use super::{LIMIT, Scene, Service, scene};

on_both_paths!(calls_and_their_media_pass_while_the_config_is_reloaded);

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
            include_str!("callee.xml"),
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
    let mut caller = sipp(client, scene.files.path(), include_str!("caller.xml"), &options);
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
        assert_eq!(scene.pinned(flows), [flows, 0], "calls and their media meet");
        println!("{path:?}: {flows} flows, {reloads} reloads");
        assert!(reloads >= 2, "{reloads}");
        scene.assert_nothing_dropped();
    }
}
