//! What a packet costs when it comes as from a NIC: frames that are no skbs yet, through driver, edge and driver, by
//! BPF_PROG_TEST_RUN's live frames. As root:
//!
//! ```text
//! cargo bench -p fast-path --bench live_frames -- --rounds 5 --csv results.csv
//! ```
//!
//! The generator, the edge and the sink behind it work on one processor, without loss, and the kernel says how long a packet took. What it takes
//! to make a packet and drop it at the edge's device is measured in the same round, and taken off. Frames that the edge sends as skbs are dropped
//! as such: an XDP program there would have to convert them.

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
        fmt::Write as _,
        io::Write as _,
        net::IpAddr,
        num::{NonZeroU32, NonZeroUsize},
        process::{Command, Stdio},
        time::Duration,
    };

    use aya::{
        Ebpf, EbpfLoader, Pod,
        maps::{Array, MapData, PerCpuArray, PerCpuValues},
        programs::{
            LinkOrder, SchedClassifier, TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode,
            links::FdLink,
            tc::{SchedClassifierLink, TcAttachOptions, TcAttachType},
        },
        util::nr_cpus,
    };
    use fast_path::{Access, DropReason, FastPath};

    use super::common::{
        frame::Datagram,
        tables::{at, endpoint, ips, listener, listener_table, routing_table, settings},
        world::{self, CLIENT_SIDE, GATEWAY},
    };

    static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/live_frames.o");

    const VIP: &str = "198.18.0.1:7000";
    const ENDPOINT: &str = "198.18.2.2:7000";
    /// The first of the clients, who have 4,096 addresses, and of those who are denied.
    const CLIENTS: u32 = 0xc612_4000;
    const DENIED: u32 = 0xc613_0000;
    const SOURCES: u32 = 10_000;
    const NETWORK: &str = "198.19.0.0/18";
    const BATCH: u32 = 64;
    const FLOWS: [u32; 3] = [16, 10_000, 100_000];
    const SIZES: [usize; 2] = [64, 1200];
    /// In the flood, every so many packets one is of an honest client.
    const EVERY: u32 = 64;

    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Sending {
        head: [u8; 42],
        honest_port: u16,
        honest: u32,
        every: u32,
        first: u32,
        addresses: u32,
        flows: u32,
        next: u32,
        until: u32,
    }

    // SAFETY: integers and arrays of them, without padding.
    unsafe impl Pod for Sending {}

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Edge {
        /// Drops all at its NIC.
        Base,
        Xdp,
        Tcx,
        /// Routes without connection tracking, and without translating.
        Routing,
        /// Destination and source translated.
        Nft,
        /// Those who are denied, as a set or one network, at priority -300.
        NftRaw,
    }

    /// What goes with an edge while it is measured.
    struct Bed {
        fast_path: FastPath,
        frames: Ebpf,
        attached: Vec<FdLink>,
        skb_sink: Option<SchedClassifierLink>,
        /// Those who are denied are told as one network, and not one by one.
        network: bool,
    }

    fn nft(rules: &str) {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    fn denied() -> impl Iterator<Item = IpAddr> {
        (DENIED..DENIED + SOURCES).map(|address| IpAddr::from(address.to_be_bytes()))
    }

    fn access(network: bool) -> Access {
        let deny = if network { vec![NETWORK.parse().unwrap()] } else { denied().map(Into::into).collect() };
        Access { allow: vec!["198.18.0.0/15".parse().unwrap()], deny }
    }

    /// With NAT addresses for `flows`, and no more: what is looked up is as far apart as it would be on such an edge.
    fn fast_path(flows: u32) -> FastPath {
        let mut listener = listener(0, 7000);
        listener.limits.max_flows = 1 << 18;
        listener.limits.max_flows_per_client = NonZeroUsize::new(1000);
        listener.limits.new_flows_per_client_per_second = NonZeroU32::new(10_000);
        listener.timeouts.unanswered = Duration::from_secs(600);
        listener.access = access(false);
        let mut settings = settings(vec![listener]);
        settings.static_ips = ips(&["198.18.0.1"]);
        settings.nat.addresses = ips(&["198.18.2.101", "198.18.2.102"][..if flows > 50_000 { 2 } else { 1 }]);
        settings.nat.ports = 1024..=65_535;
        let mut fast_path = FastPath::load(settings).unwrap();
        let table = routing_table(vec![endpoint(0, "198.18.2.2", None, &[])], vec![listener_table(&[0])]);
        fast_path.publish(&table).unwrap();
        fast_path
    }

    impl Bed {
        fn new() -> Self {
            world::enter();
            for device in ["client", "client-far"] {
                world::ethtool(&format!("-K {device} gro on"));
            }
            // What nft tracked in one round is not to burden the next.
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "2").unwrap();
            let mut frames = EbpfLoader::new().load(OBJECT).unwrap();
            for program in ["generate", "sink"] {
                let program: &mut Xdp = frames.program_mut(program).unwrap().try_into().unwrap();
                program.load().unwrap();
            }
            let program: &mut SchedClassifier = frames.program_mut("sink_skb").unwrap().try_into().unwrap();
            program.load().unwrap();
            Self { fast_path: fast_path(0), frames, attached: Vec::new(), skb_sink: None, network: false }
        }

        fn sink_at(&mut self, device: &str) {
            let program: &mut Xdp = self.frames.program_mut("sink").unwrap().try_into().unwrap();
            let link = program.attach(device, XdpMode::Driver).unwrap();
            let link = program.take_link(link).unwrap();
            self.attached.push(link.try_into().unwrap());
        }

        fn skb_sink(&mut self) {
            let program: &mut SchedClassifier = self.frames.program_mut("sink_skb").unwrap().try_into().unwrap();
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let link = program.attach_with_options("server-far", TcAttachType::Ingress, options).unwrap();
            self.skb_sink = Some(program.take_link(link).unwrap());
        }

        /// Sets up an edge in place of the one before.
        fn set_up(&mut self, edge: Edge) {
            self.attached.clear();
            self.skb_sink = None;
            for device in ["client", "server"] {
                self.fast_path.detach(device).unwrap();
            }
            nft("flush ruleset\n");
            match edge {
                Edge::Base => self.sink_at("client"),
                Edge::Xdp => {
                    self.sink_at("server-far");
                    for device in ["client", "server"] {
                        self.fast_path.attach(device).unwrap();
                        self.fast_path.attach_xdp(device).unwrap();
                    }
                }
                Edge::Tcx => {
                    self.skb_sink();
                    for device in ["client", "server"] {
                        self.fast_path.attach(device).unwrap();
                    }
                }
                Edge::Routing => self.skb_sink(),
                Edge::Nft => {
                    self.skb_sink();
                    nft("table ip nat {\n\
                         chain in { type nat hook prerouting priority -100; ip daddr 198.18.0.1 udp dport 7000 dnat to 198.18.2.2:7000; }\n\
                         chain out { type nat hook postrouting priority 100; ip daddr 198.18.2.2 snat to 198.18.2.101-198.18.2.104; }\n}\n");
                }
                Edge::NftRaw if self.network => {
                    self.skb_sink();
                    nft(&format!(
                        "table ip raw {{\nchain in {{ type filter hook prerouting priority -300; ip saddr {NETWORK} drop; }}\n}}\n"
                    ));
                }
                Edge::NftRaw => {
                    self.skb_sink();
                    let list: Vec<_> = denied().map(|ip| ip.to_string()).collect();
                    nft(&format!(
                        "table ip raw {{\nset denied {{ type ipv4_addr; elements = {{ {} }} }}\n\
                         chain in {{ type filter hook prerouting priority -300; ip saddr @denied drop; }}\n}}\n",
                        list.join(",")
                    ));
                }
            }
        }

        /// Sends `count` frames of `size` bytes and gives the time of each, in ns, and how many arrived.
        fn send(&mut self, to: &str, size: usize, count: u32, sending: Sending) -> (f64, u64) {
            let mut datagram = Datagram::new(at("0.0.0.0:0"), at(to));
            datagram.macs = (GATEWAY, CLIENT_SIDE);
            datagram.payload = vec![0x5a; size - 42];
            let frame = datagram.frame();
            let mut map: Array<_, Sending> = self.frames.map_mut("sending").unwrap().try_into().unwrap();
            map.set(0, Sending { head: frame[..42].try_into().unwrap(), ..sending }, 0).unwrap();
            let mut arrived: PerCpuArray<_, u64> = self.frames.map_mut("arrived").unwrap().try_into().unwrap();
            arrived.set(0, PerCpuValues::try_from(vec![0; nr_cpus().unwrap()]).unwrap(), 0).unwrap();
            let context = [0, u32::try_from(size).unwrap(), 0, world::number("client-far"), 0, 0];
            let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            let generate: &Xdp = self.frames.program("generate").unwrap().try_into().unwrap();
            let result = generate.test_run(options).unwrap();
            let arrived: PerCpuArray<&MapData, u64> = self.frames.map("arrived").unwrap().try_into().unwrap();
            let arrived = arrived.get(&0, 0).unwrap().iter().sum();
            #[allow(clippy::cast_precision_loss)]
            let each = result.duration.as_nanos() as f64;
            (each, arrived)
        }

        fn dropped(&self) -> u64 {
            self.fast_path.counters().unwrap().listeners[0].dropped(DropReason::Denied)
        }
    }

    fn flows(flows: u32) -> Sending {
        let addresses = flows.min(4096);
        Sending { head: [0; 42], honest_port: 0, honest: 0, every: 0, first: CLIENTS, addresses, flows, next: 0, until: 0 }
    }

    fn flood() -> Sending {
        let honest = u32::from_ne_bytes((CLIENTS + 9).to_be_bytes());
        let honest_port = 4000u16.to_be();
        Sending { first: DENIED, addresses: SOURCES, honest, honest_port, every: EVERY, ..flows(SOURCES) }
    }

    fn median(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn report(what: &str, ratios: &[f64]) {
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), &ratio| (low.min(ratio), high.max(ratio)));
        println!("{what:<60} {:.2} ({low:.2}-{high:.2})", median(ratios));
    }

    /// One round of one size and number of flows: ns a packet by edge, the base taken off.
    fn round(bed: &mut Bed, round: usize, size: usize, count: u32, csv: &mut String) -> Vec<f64> {
        let mut base = 0.0;
        let edges = [Edge::Base, Edge::Xdp, Edge::Routing, Edge::Nft, Edge::Tcx];
        let packets = 300_000.max(3 * count);
        let mut results = Vec::new();
        for edge in edges {
            bed.set_up(edge);
            let to = if edge == Edge::Routing { ENDPOINT } else { VIP };
            // Flows begin and neighbours are known before anything is measured.
            bed.send(to, size, count + 10_000, flows(count));
            let (each, arrived) = bed.send(to, size, packets, flows(count));
            let lost = u64::from(packets) - arrived;
            writeln!(csv, "{round},{edge:?},{size},{count},{each:.0},{lost}").unwrap();
            assert_eq!(lost, 0, "{edge:?}, {size} bytes, {count} flows");
            if edge == Edge::Base { base = each } else { results.push(each - base) }
        }
        results
    }

    /// One round of the flood: ns a packet with everything, by edge; none of the honest client's is to be lost.
    fn flood_round(bed: &mut Bed, round: usize, network: bool, csv: &mut String) -> [f64; 3] {
        bed.network = network;
        bed.fast_path.set_access(vec![(0, access(network))]).unwrap();
        let name = if network { "FloodOfNetwork" } else { "Flood" };
        [Edge::Base, Edge::Xdp, Edge::NftRaw].map(|edge| {
            bed.set_up(edge);
            let packets = 640_000;
            // The honest client of the table without Landfall is routed.
            let to = if edge == Edge::NftRaw { ENDPOINT } else { VIP };
            bed.send(to, 64, 20_000, flood());
            let before = bed.dropped();
            let (each, arrived) = bed.send(to, 64, packets, flood());
            let honest = u64::from(packets / EVERY);
            let lost = if edge == Edge::Base { 0 } else { honest.saturating_sub(arrived) };
            writeln!(csv, "{round},{name}{edge:?},64,{SOURCES},{each:.0},{lost}").unwrap();
            if edge == Edge::Xdp {
                assert_eq!(bed.dropped() - before, u64::from(packets) - honest, "the flood is dropped, and only that");
            }
            assert!(lost * 20 <= honest, "{edge:?}: {lost} of {honest} packets of an honest client are lost");
            each
        })
    }

    fn pin() {
        // SAFETY: a set of processors that outlives the call.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(nr_cpus().unwrap() - 1, &mut set);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &raw const set), 0);
        }
    }

    pub fn main() {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |key: &str| arguments.iter().position(|argument| argument == key).map(|at| arguments[at + 1].clone());
        let rounds: usize = value("--rounds").map_or(5, |rounds| rounds.parse().unwrap());
        let mut bed = Bed::new();
        pin();
        let mut csv = "round,edge,bytes,flows,ns,lost\n".to_owned();
        let mut all = std::collections::BTreeMap::<_, Vec<Vec<f64>>>::new();
        let mut floods = [Vec::new(), Vec::new()];
        for number in 0..rounds {
            for count in FLOWS {
                bed.fast_path = fast_path(count);
                for size in SIZES {
                    let results = round(&mut bed, number, size, count, &mut csv);
                    all.entry((count, size)).or_default().push(results);
                }
            }
            for (floods, network) in floods.iter_mut().zip([false, true]) {
                floods.push(flood_round(&mut bed, number, network, &mut csv));
            }
        }
        for ((count, size), results) in &all {
            let of = |edge: usize| results.iter().map(|result| result[edge]).collect::<Vec<_>>();
            println!(
                "{count} flows, {size} bytes: XDP {:.0} ns, routing {:.0}, nft {:.0}, TCX {:.0}",
                median(&of(0)),
                median(&of(1)),
                median(&of(2)),
                median(&of(3))
            );
            for (edge, name) in [(1, "routing"), (2, "nft DNAT and SNAT"), (3, "Landfall at TCX")] {
                let ratios: Vec<_> = results.iter().map(|result| result[0] / result[edge]).collect();
                report(&format!("  Landfall at XDP / {name}"), &ratios);
            }
        }
        let rate = |[_, xdp, raw]: &[f64; 3]| raw / xdp;
        let bare = |[base, xdp, raw]: &[f64; 3]| (raw - base) / (xdp - base);
        for (floods, what) in floods.iter().zip(["addresses", "one network"]) {
            report(&format!("flood from {what}: rate of drops / nft"), &floods.iter().map(rate).collect::<Vec<_>>());
            report("  likewise, without the generator", &floods.iter().map(bare).collect::<Vec<_>>());
        }
        if let Some(path) = value("--csv") {
            std::fs::write(path, csv).unwrap();
        }
    }
}
