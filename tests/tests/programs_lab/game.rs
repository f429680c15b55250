//! OpenArena, as qstat and a client that joins see it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::field::Field;
use landfall_tests::lab::Namespace;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::wait::Beat;

use super::{LIMIT, Service, scene};

on_both_paths!(a_game_server_answers_as_it_does_directly);

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
        assert_eq!(scene.pinned(flows), [flows, 0]);
        scene.assert_nothing_dropped();
    }
}
