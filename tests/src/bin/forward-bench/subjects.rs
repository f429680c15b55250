//! Who is measured: how each is found, configured and started.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::path::{Path as File, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use landfall_tests::edge::Edge;
use landfall_tests::process::Process;
use landfall_tests::{Failure, Result, programs};
use tempfile::TempDir;

use crate::machine::Tree;
use crate::path::{EDGE, Path, SERVER, STATIC_IP};
use crate::works::{Load, Work};

/// How long a proxy may take to end in order.
const END: Duration = Duration::from_secs(10);

/// What stands between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Subject {
    /// The edge routes packets; clients address the server.
    Direct,
    /// The kernel's NAT, by nftables.
    Nft,
    /// nginx with its stream module.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// HAProxy with splice(2) forced both ways; bulk only.
    HaproxySplice,
    /// The same with pipes of 1 MiB.
    #[value(name = "haproxy-splice-1m")]
    HaproxySplice1m,
    /// Envoy.
    Envoy,
    /// Traefik.
    Traefik,
    /// Quilkin.
    Quilkin,
    /// Landfall, forwarding in user space.
    Landfall,
    /// Landfall, forwarding in the kernel; UDP only.
    LandfallKernel,
}

/// The programs that were found, and why others were not.
pub struct Found {
    programs: BTreeMap<Subject, PathBuf>,
    /// A line for each subject that is missing.
    pub missing: Vec<String>,
}

impl Subject {
    /// Whether it is a proxy in user space that Landfall is compared with.
    pub fn is_peer(self) -> bool {
        !matches!(self, Self::Direct | Self::Nft) && !self.is_landfall()
    }

    /// Whether it is Landfall, by whichever path.
    pub fn is_landfall(self) -> bool {
        matches!(self, Self::Landfall | Self::LandfallKernel)
    }

    /// Whether it can do `work`, and is told apart by it.
    pub fn does(self, work: Work) -> bool {
        let udp = matches!(work, Work::UdpIdle) || (matches!(work.load(0), Load::Udp(_)));
        let process = !matches!(work, Work::TcpIdle | Work::UdpIdle | Work::TcpSyscalls);
        match self {
            Self::Direct | Self::Nft => process,
            Self::Haproxy => !udp,
            Self::HaproxySplice | Self::HaproxySplice1m => work.is_bulk(),
            Self::Quilkin => udp,
            Self::LandfallKernel => udp && process,
            _ => true,
        }
    }

    /// The program that it needs besides `nft` and `ip`.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Landfall | Self::LandfallKernel => None,
            Self::Nft => Some("nft"),
            Self::Nginx => Some("nginx"),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxySplice1m => Some("haproxy"),
            Self::Envoy => Some("envoy"),
            Self::Traefik => Some("traefik"),
            Self::Quilkin => Some("quilkin"),
        }
    }

    fn target(self) -> SocketAddrV4 {
        match self {
            Self::Direct => SERVER,
            // It answers from the address that the route says.
            Self::Quilkin => EDGE,
            _ => STATIC_IP,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Found {
    /// Looks for the programs of `wanted`: where `given` says, else in `PATH` and where Debian has servers.
    pub fn look(wanted: &[Subject], given: &BTreeMap<Subject, PathBuf>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories: Vec<PathBuf> = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).collect();
        let (mut programs, mut missing) = (BTreeMap::new(), Vec::new());
        for subject in wanted {
            let found = match (given.get(subject), subject.program()) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(name)) => directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file()),
                (None, None) if subject.is_landfall() => programs::landfall().ok(),
                (None, None) => Some(PathBuf::new()),
            };
            match found.filter(|found| found.as_os_str().is_empty() || found.is_file()) {
                Some(found) => drop(programs.insert(*subject, found)),
                None => missing.push(format!("{subject} is left out: its program is not found; install it, or say where it is")),
            }
        }
        Self { programs, missing }
    }

    /// Those that can be measured.
    pub fn subjects(&self) -> Vec<Subject> {
        self.programs.keys().copied().collect()
    }

    /// A line for each subject with the version that its program says.
    pub fn versions(&self) -> Vec<String> {
        let ask = |(subject, program): (&Subject, &PathBuf)| {
            let words = match subject {
                Subject::Direct => return None,
                Subject::HaproxySplice | Subject::HaproxySplice1m => return None,
                Subject::Nginx | Subject::Haproxy => "-v",
                Subject::Traefik => "version",
                _ => "--version",
            };
            let output = Command::new(program).arg(words).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            let line = text.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit())).unwrap_or_default();
            Some(format!("{subject}: {}", line.trim()))
        };
        self.programs.iter().filter_map(ask).collect()
    }

    /// Builds the path of `subject` and starts it there.
    ///
    /// # Errors
    /// When the lab cannot be built or the program does not start.
    pub fn start(&self, subject: Subject) -> Result<Running> {
        let routes = matches!(subject, Subject::Direct | Subject::Nft | Subject::LandfallKernel);
        let path = Path::new(&subject.to_string(), routes)?;
        let program = self.programs.get(&subject).cloned().unwrap_or_default();
        let proxy = match subject {
            Subject::Direct => None,
            Subject::Nft => {
                path.edge.run_with_input(["nft", "-f", "-"], &config("nft.rules")?)?;
                None
            }
            Subject::Landfall => Some(Proxy::Landfall(Edge::start(Some(&path.edge), &config("landfall.toml")?)?)),
            Subject::LandfallKernel => Some(Proxy::Landfall(Edge::start(Some(&path.edge), &config("landfall-kernel.toml")?)?)),
            _ => Some(start(subject, &program, &path)?),
        };
        let running = Running { subject, path, target: subject.target(), proxy };
        running.path.bursty(false)?;
        crate::measure::wait_served(&running)?;
        Ok(running)
    }
}

enum Proxy {
    Landfall(Edge),
    Other(Process, #[expect(dead_code, reason = "its files")] TempDir),
}

/// A subject that serves; ends when dropped.
pub struct Running {
    pub subject: Subject,
    pub path: Path,
    /// Where clients are to send to.
    pub target: SocketAddrV4,
    proxy: Option<Proxy>,
}

impl Running {
    /// The processes of the subject as they are now.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn tree(&self) -> Result<Tree> {
        Tree::of(self.proxy.as_ref().map(|proxy| match proxy {
            Proxy::Landfall(edge) => edge.pid(),
            Proxy::Other(process, _) => process.pid(),
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx alone is more than one process, and must end in order: a master that is killed leaves its workers behind. The others
        // would wait for their sessions to expire.
        if let Some(Proxy::Other(process, _)) = self.proxy.as_mut().filter(|_| self.subject == Subject::Nginx) {
            // Err: it has ended already.
            let _ = process.signal(libc::SIGTERM).and_then(|()| process.wait_exit(END));
        }
    }
}

fn config(name: &str) -> Result<String> {
    let path = File::new(env!("CARGO_MANIFEST_DIR")).join("bench/forward").join(name);
    std::fs::read_to_string(&path).map_err(|error| Failure::new("read", path.display(), error, "run it from a whole checkout"))
}

fn start(subject: Subject, program: &File, path: &Path) -> Result<Proxy> {
    let directory = tempfile::tempdir().map_err(|error| Failure::new("create", "a directory", error, "make room"))?;
    let place = |name: &str| -> Result<PathBuf> {
        let file = directory.path().join(name);
        let text = config(name)?.replace("{dir}", &directory.path().to_string_lossy());
        std::fs::write(&file, text).map_err(|error| Failure::new("write", file.display(), error, "make room"))?;
        Ok(file)
    };
    let mut command = Command::new(program);
    match subject {
        Subject::Nginx => command.arg("-p").arg(directory.path()).arg("-c").arg(place("nginx.conf")?),
        Subject::Haproxy => command.arg("-db").arg("-f").arg(place("haproxy.cfg")?),
        Subject::HaproxySplice => command.arg("-db").arg("-f").arg(place("haproxy-splice.cfg")?),
        Subject::HaproxySplice1m => command.arg("-db").arg("-f").arg(place("haproxy-splice-1m.cfg")?),
        Subject::Envoy => {
            let file = place("envoy.yaml")?;
            command.args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(file)
        }
        Subject::Traefik => {
            place("traefik-services.yaml")?;
            command.arg(format!("--configFile={}", place("traefik.yaml")?.display()))
        }
        // All of its config is on the command line.
        _ => command
            .args([
                "--quiet",
                "--admin.enabled=false",
                "--service.udp",
                "--service.udp.port",
                "7000",
                "--service.udp.workers",
                "2",
            ])
            .arg("--provider.static.endpoints")
            .arg(SERVER.to_string())
            .current_dir(directory.path()),
    };
    Ok(Proxy::Other(path.edge.spawn(command)?, directory))
}
