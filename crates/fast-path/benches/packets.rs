//! What a packet costs in the kernel, by BPF_PROG_TEST_RUN, and what the process's own work costs. As root:
//!
//! ```text
//! cargo bench -p fast-path
//! ```
//!
//! A frame that is run again meets the flow table as the run before left it, so a hit can simply be repeated. A new flow is one run a
//! frame, from which the cost of a run that does nothing is taken.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark panics where it fails")]

#[cfg(all(target_os = "linux", feature = "kernel"))]
#[path = "../tests/common/mod.rs"]
mod common;

#[cfg(all(target_os = "linux", feature = "kernel"))]
fn main() {
    bench::main();
}

#[cfg(not(all(target_os = "linux", feature = "kernel")))]
fn main() {}

#[cfg(all(target_os = "linux", feature = "kernel"))]
mod bench {
    use std::{
        net::{IpAddr, SocketAddr},
        time::Duration,
    };

    use fast_path::{FastPath, Sweep, clock, test_support};

    use super::common::{
        frame::Datagram,
        tables::{at, endpoint, ips, listener, listener_table, routing_table, settings},
        world,
    };

    const HITS: u32 = 2_000_000;
    const FLOWS: u32 = 1_000_000;
    const VIP: &str = "198.18.0.1:7000";

    /// Time on the processor that this thread has used.
    fn used() -> Duration {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes into the structure it is given.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.try_into().unwrap())
    }

    fn took<T>(what: &str, work: impl FnOnce() -> T) -> T {
        let before = used();
        let result = work();
        println!("{what:<55} {:>10.1} ms", (used() - before).as_secs_f64() * 1e3);
        result
    }

    /// What the kernel has taken for the maps that this process holds.
    fn memory() -> u64 {
        let files =
            std::fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        let sizes = files
            .filter(|info| info.contains("map_type"))
            .filter_map(|info| info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok()));
        sizes.sum()
    }

    fn client(number: u32) -> SocketAddr {
        let host = 0xc612_4000 + number / 60_000;
        SocketAddr::new(IpAddr::from(host.to_be_bytes()), u16::try_from(1024 + number % 60_000).unwrap())
    }

    fn datagram(number: u32) -> Datagram {
        let mut datagram = Datagram::new(client(number), at(VIP));
        datagram.macs = (world::GATEWAY, world::CLIENT_SIDE);
        datagram
    }

    /// Has the endpoint of a flow answer.
    fn answer(fast_path: &FastPath, number: u32) {
        let flow = fast_path.flow(client(number), at(VIP)).unwrap().unwrap();
        let address = if flow.endpoint.index() == 0 { "198.18.2.2:7000" } else { "198.18.2.3:7000" };
        let mut datagram = Datagram::new(at(address), flow.nat);
        datagram.macs = (world::ENDPOINTS[flow.endpoint.index()], world::SERVER_SIDE);
        test_support::run(fast_path, &datagram.frame(), world::number("server"), 1).unwrap();
    }

    /// What it takes to run each datagram once; building them is not counted.
    fn runs(fast_path: &FastPath, count: u32, datagram: &dyn Fn(u32) -> Datagram) -> Duration {
        let client_side = world::number("client");
        let mut sum = Duration::ZERO;
        for start in (0..count).step_by(1000) {
            let frames: Vec<_> = (start..start + 1000).map(|number| datagram(number).frame()).collect();
            let before = used();
            for frame in &frames {
                test_support::run(fast_path, frame, client_side, 1).unwrap();
            }
            sum += used() - before;
        }
        sum
    }

    fn per_packet(what: &str, fast_path: &FastPath, frame: &[u8], device: &str, repeat: u32) -> Duration {
        let verdict = test_support::run(fast_path, frame, world::number(device), repeat).unwrap();
        println!("{what:<55} {:>10} ns", verdict.duration.as_nanos());
        verdict.duration
    }

    pub fn main() {
        world::enter();
        let mut plain = listener(0, 7000);
        plain.limits.max_flows = 1 << 21;
        plain.timeouts.unanswered = Duration::from_secs(600);
        plain.timeouts.idle = Duration::from_secs(600);
        let mut settings = settings(vec![plain]);
        settings.static_ips = ips(&["198.18.0.1"]);
        settings.nat.addresses = (1..=20).map(|host| IpAddr::from([198, 18, 2, host + 100])).collect();
        settings.nat.ports = 1024..=65_535;
        let mut fast_path = took("load: verify and lay out for 1,290,240 flows", || FastPath::load(settings).unwrap());
        println!("{:<55} {:>10} MB", "memory of the maps, the flow table apart", memory() / 1_000_000);
        let endpoints = vec![endpoint(0, "198.18.2.2", None, &[]), endpoint(1, "198.18.2.3", None, &[])];
        let table = routing_table(endpoints.clone(), vec![listener_table(&[0, 1])]);
        took("publish a table", || fast_path.publish(&table).unwrap());

        let other = Datagram { to: at("198.18.0.1:53"), ..datagram(0) };
        let miss = per_packet("a packet that is not ours", &fast_path, &other.frame(), "client", HITS);

        let other = |number| Datagram { to: at("198.18.0.1:53"), ..datagram(number) };
        let nothing = runs(&fast_path, FLOWS, &other);
        let report = |what: &str, runs: Duration| {
            let each = (runs.saturating_sub(nothing).as_nanos()) / u128::from(FLOWS) + miss.as_nanos();
            println!("{what:<55} {each:>10} ns");
        };
        report("a new flow, of a million", runs(&fast_path, FLOWS, &datagram));
        report("a datagram of a flow, of a million", runs(&fast_path, FLOWS, &datagram));
        report("a datagram of one of 64 flows", runs(&fast_path, FLOWS, &|number| datagram(number % 64)));
        (0..64).for_each(|number| answer(&fast_path, number));
        report("a datagram of one of 64 flows that were answered", runs(&fast_path, FLOWS, &|number| datagram(number % 64)));
        let counted = fast_path.counters().unwrap().listeners.remove(0);
        println!("{:<55} {:>10}", "flows open", counted.active);
        println!("{:<55} {:>10}", "new flows refused", counted.drops.iter().sum::<u64>());

        let sweep = took("a sweep that ends nothing", || fast_path.sweep(clock()).unwrap());
        assert_eq!(u64::try_from(sweep.live).unwrap(), counted.active);
        let leaving = listener_table(&[1]).with_leaving(vec![super::common::tables::id(0)], Vec::new());
        took("publish that half of them leave their endpoint", || {
            fast_path.publish(&routing_table(endpoints, vec![leaving])).unwrap();
        });
        let mut ended = Sweep::default();
        let mut longest = Duration::ZERO;
        took("a sweep that ends a million", || {
            for number in 0..fast_path.addresses() {
                let begin = used();
                ended += fast_path.sweep_address(clock() + Duration::from_secs(900), number).unwrap();
                longest = longest.max(used() - begin);
            }
        });
        println!("{:<55} {:>10} µs", "the longest that a publication waits for it", longest.as_micros());
        println!("{:<55} {:>10}", "ended", ended.ended.iter().sum::<usize>());
    }
}
