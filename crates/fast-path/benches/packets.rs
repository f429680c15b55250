//! What a packet costs in the kernel, by BPF_PROG_TEST_RUN, and what the process's own work costs. As root:
//!
//! ```text
//! cargo bench -p fast-path
//! ```
//!
//! A frame that is run again is the one that the run before made of it, so only a packet that is let be can be repeated. Of the others
//! each is one run, which the kernel times (`BPF_ENABLE_STATS`); from that the time is taken that its timing adds to a packet that is
//! let be.

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

    /// Nanoseconds that the kernel has spent in this process's programs, as it has timed them.
    fn timed() -> u64 {
        let files =
            std::fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        let times =
            files.filter_map(|info| info.lines().find_map(|line| line.strip_prefix("run_time_ns:")?.trim().parse::<u64>().ok()));
        times.sum()
    }

    /// Nanoseconds of one of `count` datagrams that are run once each.
    fn runs(fast_path: &FastPath, device: &str, count: u32, datagram: &dyn Fn(u32) -> Datagram) -> u64 {
        let device = world::number(device);
        let before = timed();
        for start in (0..count).step_by(1000) {
            let frames: Vec<_> = (start..start + 1000).map(|number| datagram(number).frame()).collect();
            for frame in &frames {
                test_support::run(fast_path, frame, device, 1).unwrap();
            }
        }
        (timed() - before) / u64::from(count)
    }

    fn answer(fast_path: &FastPath, client: SocketAddr) -> Datagram {
        let flow = fast_path.flow(client, at(VIP)).unwrap().unwrap();
        let from = [at("198.18.2.2:7000"), at("198.18.2.3:7000")][flow.endpoint.index()];
        Datagram { macs: (world::ENDPOINTS[0], world::SERVER_SIDE), ..Datagram::new(from, flow.nat) }
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
        let timing = test_support::time_programs().unwrap();
        let timer = u128::from(runs(&fast_path, "client", FLOWS, &other)).saturating_sub(miss.as_nanos());
        let report = |what: &str, device: &str, datagram: &dyn Fn(u32) -> Datagram| {
            let each = u128::from(runs(&fast_path, device, FLOWS, datagram)).saturating_sub(timer);
            println!("{what:<55} {each:>10} ns");
        };
        report("a new flow, of a million", "client", &datagram);
        report("a datagram of a flow, of a million", "client", &datagram);
        report("a datagram of one of 64 flows", "client", &|number| datagram(number % 64));
        let answers: Vec<_> = (0..64).map(|number| answer(&fast_path, client(number))).collect();
        report("an answer of one of 64 flows", "server", &|number| answers[number as usize % 64].clone());
        drop(timing);
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
            for number in 0..fast_path.parts() {
                let begin = used();
                ended += fast_path.sweep_part(clock() + Duration::from_secs(900), number).unwrap();
                longest = longest.max(used() - begin);
            }
        });
        println!("{:<55} {:>10} µs", "the longest that a publication waits for it", longest.as_micros());
        println!("{:<55} {:>10}", "ended", ended.ended.iter().sum::<usize>());
    }
}
