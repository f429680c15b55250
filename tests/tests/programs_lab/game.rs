//! OpenArena, as qstat and a client that joins see it.

use std::io::{PipeWriter, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use landfall_tests::field::Field;
use landfall_tests::lab::Namespace;
use landfall_tests::on_both_paths;
use landfall_tests::path::Path;
use landfall_tests::process::Process;
use landfall_tests::wait::{Beat, wait_until};

use super::{LIMIT, Scene, Service, scene};

on_both_paths!(a_game_server_answers_as_it_does_directly, players_stay_through_all_but_the_death_of_their_server);

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

/// A client of OpenArena in the client's host.
struct Player {
    process: Process,
    commands: PipeWriter,
}

impl Player {
    /// Joins the server at `ip` under a name of its own, and waits until it is in the game.
    fn join(scene: &Scene, name: &str, ip: IpAddr) -> Self {
        let directory = scene.files.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        let field = Field::new(&scene.lab.client, &directory).unwrap();
        let mut process = field.openarena_player(name, (ip, 27960).into()).unwrap();
        let commands = process.take_stdin().unwrap();
        process.wait_for_line(&format!("{name}^7 entered the game"), LIMIT).unwrap();
        Self { process, commands }
    }

    fn order(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
    }

    /// Says `word`, which the server must hear, and the player from it.
    fn talk(&mut self, server: &Process, word: &str) {
        self.order(&format!("say {word}"));
        server.wait_for_line(word, LIMIT).unwrap();
        self.process.wait_for_line(word, LIMIT).unwrap();
    }
}

/// What a server gives as the ping of a client that acknowledges nothing.
const NO_PING: u32 = 999;

/// The players in a server's answer to `getstatus`, with their pings.
fn present(status: &str) -> Vec<(String, u32)> {
    // Score, ping, name in quotes, below the settings.
    let rows = status.lines().skip(2).map(|row| row.splitn(3, ' ').collect::<Vec<_>>());
    rows.map(|row| (row[2].to_owned(), row[1].parse().unwrap())).collect()
}

/// Players stay while the weight of their endpoint changes, the config is reloaded and the endpoint drains, and when the edge is killed and started
/// anew. When the endpoint dies, they hear nothing more, as from any dead server, and join again at the next without a change of address.
fn players_stay_through_all_but_the_death_of_their_server(path: Path) {
    for &families in path.families() {
        let mut scene = scene(path, families, &GAME);
        let joined = scene.static_ips.iter().zip(["one", "two"]).map(|(&ip, name)| (name, Player::join(&scene, name, ip)));
        let mut players: Vec<_> = joined.collect();
        let flows = players.len();
        let mut talk = |scene: &Scene, server: usize, topic: &str| {
            players.iter_mut().for_each(|(name, player)| player.talk(&scene.servers[server], &format!("{name}-{topic}")));
        };
        talk(&scene, 0, "hello");
        scene.order(&["weight", "a", "0"]);
        talk(&scene, 0, "weight");
        let text = std::fs::read_to_string(scene.edge.config_path()).unwrap();
        scene.edge.rewrite_config(&text.replace("weight = 0", "weight = 100")).unwrap();
        assert!(scene.order(&["reload"]).contains("weight 0 -> 100"));
        talk(&scene, 0, "reload");
        scene.order(&["drain", "a"]);
        talk(&scene, 0, "drain");
        assert_eq!(scene.pinned(flows), [flows, 0]);
        scene.assert_nothing_dropped();

        scene.edge.kill().unwrap();
        scene.start_again();
        talk(&scene, 0, "restart");
        // The server looks at the address alone, and takes note of another port.
        let log = scene.servers[0].stdout() + &scene.servers[0].stderr();
        let noted = log.lines().filter(|line| line.contains("fixing up a translated port")).count();
        assert_eq!(noted, if path == Path::User { flows } else { 0 }, "{log}");
        let present = present(&handshake(&scene.lab.client, scene.direct)[1]);
        println!("{path:?}: players and their pings: {present:?}");
        assert!(present.len() == flows && present.iter().all(|(_, ping)| *ping < NO_PING), "{present:?}");

        scene.order(&["weight", "b", "100"]);
        scene.servers[0].kill().unwrap();
        for (name, player) in &mut players {
            player.order("set cl_timeout 1");
            player.process.wait_for_line("Server connection timed out", LIMIT).unwrap();
            player.order("set cl_timeout 200");
            player.order("reconnect");
            scene.servers[1].wait_for_line(&format!("{name}^7 entered the game"), LIMIT).unwrap();
            player.talk(&scene.servers[1], &format!("{name}-again"));
        }
        let moved = || scene.edge.metrics().unwrap().sum("landfall_flows_moved_total", &[]);
        wait_until("the moves counted", LIMIT, || moved() == flows as f64).unwrap();
        assert_eq!(scene.pinned(flows), [flows; 2]);
    }
}
