//! SIPp: calls with their media.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use landfall_tests::lab::Namespace;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::process::Process;
use landfall_tests::wait::{Beat, Deadline};

use super::{LIMIT, Scene, Service, scene};

on_both_paths!(
    calls_and_their_media_pass_while_the_config_is_reloaded,
    calls_in_progress_outlive_a_drain_and_in_the_kernel_the_edge
);

const CALLS: usize = 20;
/// Of media, for a key.
const PACKETS: usize = 10;

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
unanswered_timeout = "30s"
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

impl Calls {
    /// Every call was answered at once, and all its media came back: two keys, ten packets each.
    fn perfect() -> Self {
        Self { successful: CALLS, failed: 0, retransmissions: 0, media: vec![2 * PACKETS; CALLS - 1] }
    }
}

/// A SIPp that makes [`CALLS`] at once, and where their media come back, but for the first call's.
struct Caller {
    client: Namespace,
    sipp: Process,
    own: IpAddr,
    port: u16,
    directory: PathBuf,
    phones: Vec<UdpSocket>,
    /// How many packets of media have come back to each.
    heard: Vec<usize>,
    /// How often it was let go on.
    told: usize,
}

impl Caller {
    /// Calls `target` from a SIP port of its own, `port`, and media ports that begin with ten times as much.
    fn start(scene: &Scene, target: IpAddr, port: u16) -> Self {
        let client = &scene.lab.client;
        let own: IpAddr = if target.is_ipv4() { "198.18.1.2" } else { "fd00:18:1::2" }.parse().unwrap();
        // SIPp sends media from these ports and listens on the first of them alone.
        let ports = (1..CALLS).map(|call| 10 * port + 4 * u16::try_from(call).unwrap());
        let phones: Vec<_> = ports.map(|port| client.enter(|| UdpSocket::bind((own, port))).unwrap()).collect();
        phones.iter().for_each(|phone| phone.set_nonblocking(true).unwrap());
        let directory = scene.files.path().join(format!("caller-{target}-{port}"));
        std::fs::create_dir(&directory).unwrap();
        let [number, media, from] = [CALLS.to_string(), (10 * port).to_string(), port.to_string()];
        let (own_text, target) = (own.to_string(), SocketAddr::from((target, 5060)).to_string());
        let from = ["-i", &own_text, "-p", &from, "-mi", &own_text, "-mp", &media];
        let what = ["-m", &number, "-r", &number, "-cid_str", "%u-%p", "-trace_stat", "-stf", "calls.csv", &target];
        let sipp = sipp(client, &directory, include_str!("caller.xml"), &[&from[..], &what[..]].concat());
        Self { client: client.clone(), sipp, own, port, directory, heard: vec![0; phones.len()], phones, told: 0 }
    }

    /// Waits until the packets of a key have come back for every call, with `meanwhile` at first and then again and again.
    fn hear(&mut self, mut meanwhile: impl FnMut()) {
        let mut beat = Beat::every(Duration::from_millis(200));
        let heard: Vec<_> = self.heard.iter().map(|heard| heard + PACKETS).collect();
        let deadline = Deadline::after(LIMIT);
        while self.count() != heard {
            assert!(deadline.left().is_some(), "packets of media that came back for each call: {:?}", self.heard);
            meanwhile();
            beat.wait();
        }
    }

    fn count(&mut self) -> &[usize] {
        for (heard, phone) in self.heard.iter_mut().zip(&self.phones) {
            *heard += std::iter::from_fn(|| phone.recv(&mut [0; 2048]).ok()).count();
        }
        &self.heard
    }

    /// Lets every call go on, to its second key or to its end.
    fn go_on(&mut self) {
        self.told += 1;
        let socket = self.client.enter(|| UdpSocket::bind((self.own, 0))).unwrap();
        for call in 1..=CALLS {
            let text = format!(
                "INFO sip:caller@{own} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{told}\r\nFrom: <sip:test@{own}>;tag=1\r\n\
                 To: <sip:caller@{own}>\r\nCall-ID: {call}-{pid}\r\nCSeq: {told} INFO\r\nContent-Length: 0\r\n\r\n",
                own = self.own,
                told = self.told,
                pid = self.sipp.pid()
            );
            socket.send_to(text.as_bytes(), (self.own, self.port)).unwrap();
        }
    }

    /// Waits for its end, and reads what it came to.
    fn end(mut self) -> Calls {
        let status = self.sipp.wait_exit(LIMIT).unwrap();
        let table = std::fs::read_to_string(self.directory.join("calls.csv")).unwrap();
        let (names, last) = (table.lines().next().unwrap(), table.lines().last().unwrap());
        let figures: BTreeMap<_, _> = names.split(';').zip(last.split(';')).collect();
        let figure = |name| figures[name].parse().unwrap();
        let calls = Calls {
            successful: figure("SuccessfulCall(C)"),
            failed: figure("FailedCall(C)"),
            retransmissions: figure("Retransmissions(C)"),
            media: self.count().to_vec(),
        };
        assert_eq!(status.code(), Some(i32::from(calls.failed > 0)), "{calls:?}");
        calls
    }
}

/// Calls `target` from beginning to end, with `meanwhile` again and again.
fn calls(scene: &Scene, target: IpAddr, port: u16, mut meanwhile: impl FnMut()) -> Calls {
    let mut caller = Caller::start(scene, target, port);
    for _key in 0..2 {
        caller.hear(&mut meanwhile);
        caller.go_on();
    }
    caller.end()
}

fn calls_and_their_media_pass_while_the_config_is_reloaded(path: Path) {
    for &families in path.families() {
        let scene = scene(path, families, &TELEPHONY);
        assert_eq!(calls(&scene, scene.direct, 2_000, || {}), Calls::perfect(), "directly");

        let mut reloads = 0;
        for &ip in &scene.static_ips {
            let through = calls(&scene, ip, 2_000, || {
                let file = std::fs::read_to_string(scene.edge.config_path()).unwrap();
                let [old, new] = if reloads % 2 == 0 { [200, 255] } else { [255, 200] };
                let text = file.replace(&format!("weight = {old} }}"), &format!("weight = {new} }}"));
                scene.edge.rewrite_config(&text).unwrap();
                let changed = scene.order(&["reload"]);
                assert!(changed.contains(&new.to_string()), "{changed}");
                reloads += 1;
            });
            println!("{path:?}, to {ip}: {through:?}");
            assert_eq!(through, Calls::perfect());
        }
        // One flow for the calls, and one for the media of each.
        let flows = scene.static_ips.len() * (1 + CALLS);
        assert_eq!(scene.pinned(flows), [flows, 0], "calls and their media meet");
        println!("{path:?}: {flows} flows, {reloads} reloads");
        assert!(reloads >= 2, "{reloads}");
        scene.assert_nothing_dropped();
    }
}

/// Calls in progress stay where they are while their endpoint drains. When the edge is killed and started anew, their media pass again either way.
/// SIPp answers a call where its first message came from: to where the kernel's flow comes from again, and in user space no longer.
fn calls_in_progress_outlive_a_drain_and_in_the_kernel_the_edge(path: Path) {
    for &families in path.families() {
        let mut scene = scene(path, families, &TELEPHONY);
        let ips = scene.static_ips.clone();
        let of_a_run = ips.len() * (1 + CALLS);
        let mut held: Vec<_> = ips.iter().map(|&ip| Caller::start(&scene, ip, 2_000)).collect();
        held.iter_mut().for_each(|caller| caller.hear(|| {}));
        assert_eq!(scene.pinned(of_a_run), [of_a_run, 0]);

        scene.order(&["drain", "a"]);
        for &ip in &ips {
            assert_eq!(calls(&scene, ip, 3_000, || {}), Calls::perfect(), "to {ip}");
        }
        assert_eq!(scene.pinned(2 * of_a_run), [of_a_run; 2], "new calls and their media meet at the other endpoint");
        scene.assert_nothing_dropped();

        scene.edge.kill().unwrap();
        scene.start_again();
        held.iter_mut().for_each(Caller::go_on);
        held.iter_mut().for_each(|caller| caller.hear(|| {}));
        held.iter_mut().for_each(Caller::go_on);
        let expected = match path {
            Path::Kernel => Calls::perfect(),
            // Each waits five seconds for the answer to its end, and gives up.
            Path::User => Calls { successful: 0, failed: CALLS, ..Calls::perfect() },
        };
        for caller in held {
            assert_eq!(caller.end(), expected);
        }
        assert_eq!(scene.pinned(of_a_run), [of_a_run, 0]);
        scene.assert_nothing_dropped();
    }
}
