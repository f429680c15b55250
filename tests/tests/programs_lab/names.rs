//! dnsperf asks unbound.

use std::net::IpAddr;
use std::process::Command;

use landfall_tests::field::Field;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::process::Process;

use super::{LIMIT, Scene, Service, scene};

on_both_paths!(every_name_is_answered_while_an_endpoint_steps_back_and_returns);

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
