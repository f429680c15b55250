//! dnsperf asks unbound.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use landfall_tests::datagrams::any;
use landfall_tests::field::Field;
use landfall_tests::lab::Namespace;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::process::Process;
use landfall_tests::wait::wait_until;

use super::{LIMIT, Scene, Service, scene};

on_both_paths!(
    every_name_is_answered_while_an_endpoint_steps_back_and_returns,
    every_name_is_answered_through_drains,
    a_restart_loses_what_is_asked_between_two_processes,
);

/// Clients of a run of dnsperf.
const CLIENTS: usize = 40;
/// Queries of a run in which every client has several.
const SHORT: usize = 300;

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

/// Starts dnsperf in the client's host, with as many clients, each with a port of its own from `port` on.
fn dnsperf(scene: &Scene, target: IpAddr, port: u16, clients: usize, options: &[&str]) -> Process {
    // A file of its own: another run may be reading.
    let file = scene.files.path().join(format!("names-{target}-{port}"));
    // An answer, a name without such a record, and a name that there is not.
    std::fs::write(&file, "field.example A\nfield.example MX\nnone.example A\n").unwrap();
    let mut command = Command::new("dnsperf");
    command.args(["-s", &target.to_string(), "-x", &port.to_string(), "-c", &clients.to_string(), "-T", "1", "-W", "-d"]);
    command.arg(file).args(options);
    scene.lab.client.spawn(command).unwrap()
}

/// Starts a run of `queries`, 1,500 a second.
fn run(scene: &Scene, target: IpAddr, queries: usize, port: u16) -> Process {
    dnsperf(scene, target, port, CLIENTS, &["-Q", "1500", "-n", &(queries / 3).to_string()])
}

/// What dnsperf says at its end that is no matter of time: queries sent, completed and lost, codes of the answers, sizes.
fn report(mut dnsperf: Process) -> Vec<String> {
    told(&dnsperf.wait_success(LIMIT).unwrap())
}

fn told(text: &str) -> Vec<String> {
    let told =
        ["Queries sent:", "Queries completed:", "Queries lost:", "Response codes:", "Average packet size:", "Error", "Warning"];
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| told.iter().any(|start| line.contains(start))).collect()
}

/// The report of a run all of whose `queries` were answered.
fn whole(queries: usize) -> Vec<String> {
    vec![
        format!("Queries sent: {queries}"),
        format!("Queries completed: {queries} (100.00%)"),
        "Queries lost: 0 (0.00%)".to_owned(),
        format!("Response codes: NOERROR {} (66.67%), NXDOMAIN {} (33.33%)", queries / 3 * 2, queries / 3),
        "Average packet size: request 30, response 36".to_owned(),
    ]
}

/// A dnsperf that asks until it is ended, one question at a time: no answer is on its way when a flow moves, but to the last question.
struct Load(Process);

impl Load {
    const CLIENTS: usize = 10;

    /// Takes a question for lost that is not answered within `patience` seconds.
    fn start(scene: &Scene, target: IpAddr, port: u16, patience: &str) -> Self {
        Self(dnsperf(scene, target, port, Self::CLIENTS, &["-Q", "500", "-l", "600", "-q", "1", "-t", patience, "-v"]))
    }

    /// Ends it. Returns for each question, in order, whether it was answered, but for one that is on its way.
    fn end(mut self) -> Vec<bool> {
        self.0.signal(libc::SIGINT).unwrap();
        let text = self.0.wait_success(LIMIT).unwrap();
        let codes = text.lines().filter_map(|line| line.strip_prefix("> ")?.split(' ').next());
        let answered: Vec<_> = codes
            .filter(|code| *code != "I")
            .map(|code| match code {
                "NOERROR" | "NXDOMAIN" => true,
                "T" => false,
                _ => panic!("{text}"),
            })
            .collect();
        let sum = format!("Queries lost: {} ", answered.iter().filter(|answered| !**answered).count());
        assert!(told(&text).iter().any(|line| line.starts_with(&sum)), "{text}");
        answered
    }
}

/// Flows as they are opened.
struct Flows<'a> {
    scene: &'a Scene,
    opened: usize,
    pinned: [usize; 2],
}

impl<'a> Flows<'a> {
    fn none_yet(scene: &'a Scene) -> Self {
        Self { scene, opened: 0, pinned: [0, 0] }
    }

    /// Once as many more have been opened: how many were pinned to each endpoint since the last question.
    fn more(&mut self, flows: usize) -> [usize; 2] {
        self.opened += flows;
        let before = std::mem::replace(&mut self.pinned, self.scene.pinned(self.opened));
        [0, 1].map(|endpoint| self.pinned[endpoint] - before[endpoint])
    }

    /// As [`Flows::more`], with a run of [`SHORT`] to each static IP, every question of which is answered.
    fn more_by_answered_runs(&mut self, port: u16) -> [usize; 2] {
        for &ip in &self.scene.static_ips {
            assert_eq!(report(run(self.scene, ip, SHORT, port)), whole(SHORT), "to {ip}");
        }
        self.more(self.scene.static_ips.len() * CLIENTS)
    }
}

fn every_name_is_answered_while_an_endpoint_steps_back_and_returns(path: Path) {
    // Four seconds: longer than all that is done meanwhile, with counters a second late.
    const LONG: usize = 6000;
    for &families in path.families() {
        let scene = scene(path, families, &NAMES);
        assert_eq!(report(run(&scene, scene.direct, SHORT, 20_000)), whole(SHORT), "directly");

        let mut flows = Flows::none_yet(&scene);
        for &ip in &scene.static_ips {
            let mut long = run(&scene, ip, LONG, 20_000);
            let first = flows.more(CLIENTS);
            assert!(first[0] > 0 && first[1] > 0, "{first:?}");

            scene.order(&["weight", "b", "0"]);
            assert_eq!(report(run(&scene, ip, SHORT, 21_000)), whole(SHORT));
            assert_eq!(flows.more(CLIENTS), [CLIENTS, 0], "no new flow at weight 0");

            scene.order(&["weight", "b", "200"]);
            assert!(long.is_running(), "its flows to b were there before and stay all the while");
            assert_eq!(report(run(&scene, ip, SHORT, 22_000)), whole(SHORT));
            let last = flows.more(CLIENTS);
            assert!(last[0] > 0 && last[1] > 0, "{last:?}");

            let through = report(long);
            println!(
                "{path:?}, to {ip}: {through:?}; flows to a and b: {first:?}, with b at 0 {:?}, after {last:?}",
                [CLIENTS, 0]
            );
            assert_eq!(through, whole(LONG));
        }
        scene.assert_nothing_dropped();
    }
}

/// Drains of an endpoint, of the edge, and of the endpoint again with an end to the flows that it has.
fn every_name_is_answered_through_drains(path: Path) {
    for &families in path.families() {
        let scene = scene(path, families, &NAMES);
        let ready = || scene.edge.get("/readyz").unwrap();
        let of_b = || scene.edge.metrics().unwrap().sum("landfall_endpoint_flows_active", &[("endpoint", "b")]);
        let ips = scene.static_ips.len();
        let mut flows = Flows::none_yet(&scene);
        let loads: Vec<_> = scene.static_ips.iter().map(|&ip| Load::start(&scene, ip, 20_000, "10")).collect();
        let [_, held] = flows.more(ips * Load::CLIENTS);
        assert!(held > 0, "some of the load is at b");

        scene.order(&["drain", "b"]);
        assert_eq!(flows.more_by_answered_runs(21_000), [ips * CLIENTS, 0], "no new flow");
        assert_eq!(of_b(), held as f64, "its flows stay");

        scene.order(&["drain"]);
        assert_eq!(ready().status, 503, "traffic is for others to send elsewhere");
        assert_eq!(flows.more_by_answered_runs(22_000), [ips * CLIENTS, 0], "what comes is served");
        scene.order(&["undrain"]);
        assert_eq!(ready().status, 200);

        scene.order(&["drain", "b", "--reset-after", "1ms"]);
        wait_until("the flows of b gone", LIMIT, || of_b() == 0.0).unwrap();
        assert_eq!(flows.more(0), [held, 0], "they are at a now");
        assert_eq!(scene.edge.metrics().unwrap().sum("landfall_flows_moved_total", &[]), held as f64);

        scene.order(&["undrain", "b"]);
        let last = flows.more_by_answered_runs(23_000);
        assert!(last[0] > 0 && last[1] > 0, "{last:?}");
        for load in loads {
            let answered = load.end();
            println!("{path:?}: {} questions, {held} flows at b moved; new flows after: {last:?}", answered.len());
            assert_all(&answered);
        }
        scene.assert_nothing_dropped();
    }
}

/// An orderly restart. Flows that there are when it is ordered are served until the process ends, and newcomers dropped. What is asked while there
/// is no process is refused by the host. The new one serves the next question of every flow, and by the same hash new flows are where they were.
fn a_restart_loses_what_is_asked_between_two_processes(path: Path) {
    for &families in path.families() {
        let mut scene = scene(path, families, &NAMES);
        let ips = scene.static_ips.clone();
        let start = |port, patience| ips.iter().map(|&ip| Load::start(&scene, ip, port, patience)).collect::<Vec<_>>();
        let (ending, staying) = (start(20_000, "10"), start(21_000, "3"));
        let mut flows = Flows::none_yet(&scene);
        flows.more(2 * ips.len() * Load::CLIENTS);
        let homes = flows.more_by_answered_runs(22_000);

        scene.edge.signal(libc::SIGTERM).unwrap();
        assert_newcomers_dropped(&scene, flows.opened);
        for load in ending {
            assert_all(&load.end());
        }
        let before: Vec<_> = ips.iter().map(|&ip| refused(&scene.lab.edge, ip)).collect();
        // What is left is forgotten.
        scene.edge.signal(libc::SIGTERM).unwrap();
        assert_eq!(scene.edge.wait_exit(LIMIT).unwrap().code(), Some(0));
        let asked = || ips.iter().zip(&before).all(|(&ip, before)| refused(&scene.lab.edge, ip) > *before);
        wait_until("questions refused by the host", LIMIT, asked).unwrap();

        scene.start_again();
        let mut flows = Flows::none_yet(&scene);
        flows.more(ips.len() * Load::CLIENTS);
        assert_eq!(flows.more_by_answered_runs(22_000), homes);
        for load in staying {
            let answered = load.end();
            let runs: Vec<_> = answered.chunk_by(|one, next| one == next).map(|run| (run[0], run.len())).collect();
            println!("{path:?}: answered, and how many on end: {runs:?}");
            assert!(matches!(runs[..], [(true, _), (false, _), (true, _)]), "{runs:?}");
        }
    }
}

/// In an edge that was just told to end and has opened `opened` flows: each datagram of a newcomer is dropped, and counted.
fn assert_newcomers_dropped(scene: &Scene, opened: usize) {
    let dropped = || {
        let dropped = scene.edge.metrics().unwrap().sum("landfall_drops_total", &[("reason", "draining")]);
        format!("{:.0}", dropped.abs()).parse::<usize>().unwrap()
    };
    let mut newcomers = 0;
    // The order has a way to go to all that forward, so the first may be served yet.
    wait_until("a newcomer dropped", LIMIT, || {
        let target = SocketAddr::from((scene.static_ips[0], 53));
        scene.lab.client.enter(|| UdpSocket::bind(any(target.ip()))?.send_to(b"?", target)).unwrap();
        newcomers += 1;
        dropped() > 0
    })
    .unwrap();
    for &ip in &scene.static_ips {
        let options = ["-n", &(SHORT / 3).to_string(), "-q", &SHORT.to_string(), "-t", "0.5"];
        let report = report(dnsperf(scene, ip, 23_000, CLIENTS, &options));
        assert_eq!(
            report[..3],
            ["Queries sent: 300", "Queries completed: 0 (0.00%)", "Queries lost: 300 (100.00%)"],
            "{report:?}"
        );
        newcomers += SHORT;
    }
    let counted = || scene.path.opened(&scene.edge).unwrap() - opened + dropped();
    wait_until("every newcomer counted", LIMIT, || counted() == newcomers).unwrap();
}

/// How many datagrams to addresses of the family of `ip` have found no socket in `host`, which refuses them.
fn refused(host: &Namespace, ip: IpAddr) -> u64 {
    let file = if ip.is_ipv4() { "snmp" } else { "snmp6" };
    let text = host.enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))).unwrap();
    // Of IPv4 a line of names, the second of them this, and a line of values.
    let line = text.lines().rfind(|line| line.starts_with("Udp: ") || line.starts_with("Udp6NoPorts")).unwrap();
    line.split_whitespace().nth(if ip.is_ipv4() { 2 } else { 1 }).unwrap().parse().unwrap()
}

fn assert_all(answered: &[bool]) {
    let lost: Vec<u32> = answered.iter().zip(1..).filter(|(answered, _)| !**answered).map(|(_, number)| number).collect();
    assert!(lost.is_empty(), "of {} questions, unanswered: {lost:?}", answered.len());
}
