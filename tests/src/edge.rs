//! One running `landfall`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;

use crate::admin::{self, Answer};
use crate::lab::Namespace;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::{Failure, Result, programs, wait};

/// How long an edge may take from its start to `/readyz`: the first result of every probe, and the kernel's check of the fast path's
/// program, which takes more than a second of a processor that other edges and other tests may want as well.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A running edge. Dropping it kills the process; dropped by a panic, it also shows its log.
pub struct Edge {
    process: Process,
    namespace: Option<Namespace>,
    admin: SocketAddr,
    directory: TempDir,
}

impl Edge {
    /// Writes `config` into a directory of its own, runs `landfall run --config` on it in `namespace` (or where the test
    /// runs when there is none), and waits until it is ready.
    ///
    /// `{dir}` in the text stands for that directory. The text must name `[edge] admin` and `[edge] control`: two edges
    /// of parallel tests would otherwise share the default ones.
    ///
    /// # Errors
    /// When the binary is missing, refuses the file, or is not ready in time; the message carries its log.
    pub fn start(namespace: Option<&Namespace>, config: &str) -> Result<Self> {
        let mut edge = Self::launch(namespace, config)?;
        edge.wait_ready(READY_LIMIT)?;
        Ok(edge)
    }

    /// As [`Edge::start`], without `capabilities` in the words of `setpriv`, such as `net_admin`: an edge that is not all of root.
    ///
    /// # Errors
    /// As [`Edge::start`].
    pub fn start_without(namespace: Option<&Namespace>, capabilities: &[&str], config: &str) -> Result<Self> {
        // The bounding set alone decides what root has after it runs another program.
        let mut command = Command::new("setpriv");
        let without: Vec<_> = capabilities.iter().map(|capability| format!("-{capability}")).collect();
        command.arg(format!("--bounding-set={}", without.join(","))).arg(programs::landfall()?);
        let mut edge = Self::launch_by(command, namespace, config)?;
        edge.wait_ready(READY_LIMIT)?;
        Ok(edge)
    }

    /// As [`Edge::start`] without waiting: for edges that are not meant to become ready.
    ///
    /// # Errors
    /// When the binary is missing or the text lacks an address to wait on.
    pub fn launch(namespace: Option<&Namespace>, config: &str) -> Result<Self> {
        Self::launch_by(Command::new(programs::landfall()?), namespace, config)
    }

    /// As [`Edge::launch`] without any privilege beyond the user's.
    ///
    /// # Errors
    /// As [`Edge::launch`].
    pub fn launch_unprivileged(namespace: Option<&Namespace>, config: &str) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(programs::landfall()?);
        Self::launch_by(command, namespace, config)
    }

    /// Adds the arguments of `landfall` to `command`.
    fn launch_by(mut command: Command, namespace: Option<&Namespace>, config: &str) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("landfall-edge-")
            .tempdir()
            .map_err(|error| Failure::new("create", "a directory for the edge", error, "make room in the temporary directory"))?;
        let file = config_file(directory.path());
        let admin = write_config(&file, directory.path(), config)?;
        command.args(["run", "--config"]).arg(&file);
        let process = Process::spawn(namespace, command)?;
        Ok(Self { process, namespace: namespace.cloned(), admin, directory })
    }

    /// Waits until `/readyz` answers 200 and returns how long that took.
    ///
    /// # Errors
    /// When the process ends or `limit` passes first; the message carries the log.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Duration> {
        let begin = wait::now();
        let mut last = "it never answered".to_owned();
        let asked = wait::wait_for("/readyz", limit, || {
            if !self.process.is_running() {
                return Some(false);
            }
            match self.get("/readyz") {
                Ok(Answer { status: 200, .. }) => return Some(true),
                Ok(Answer { status, body }) => last = format!("it last answered {status} {body}"),
                Err(failure) => last = failure.to_string(),
            }
            None
        });
        let cause = match asked {
            Ok(true) => return Ok(begin.elapsed()),
            Ok(false) => "the process ended".to_owned(),
            Err(_) => format!("not within {limit:?}; {last}"),
        };
        Err(Failure::new("see", "the edge ready", cause, format_args!("its log says why:\n{}", self.log())))
    }

    /// Asks the admin address for `path`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        admin::get(self.namespace.as_ref(), self.admin, path)
    }

    /// A scrape of `/metrics`.
    ///
    /// # Errors
    /// When the admin address does not answer 200, or not in the Prometheus text format.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.get_ok("/metrics")?)
    }

    /// `/status` as JSON.
    ///
    /// # Errors
    /// When the admin address does not answer 200, or not with JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let body = self.get_ok("/status")?;
        serde_json::from_str(&body).map_err(|error| Failure::new("read", "/status", error, format_args!("it was:\n{body}")))
    }

    fn get_ok(&self, path: &str) -> Result<String> {
        match self.get(path)? {
            Answer { status: 200, body } => Ok(body),
            Answer { status, body } => {
                let cause = format!("the edge answered {status}: {body}");
                Err(Failure::new("get", path, cause, format_args!("its log says why:\n{}", self.log())))
            }
        }
    }

    /// The health of an endpoint according to `/status`, such as `healthy`; nothing if there is no endpoint of that name.
    ///
    /// # Errors
    /// When `/status` cannot be read.
    pub fn health(&self, endpoint: &str) -> Result<Option<String>> {
        let status = self.status()?;
        let groups = status["endpoint_groups"].as_array().into_iter().flatten();
        let mut endpoints = groups.flat_map(|group| group["endpoints"].as_array().into_iter().flatten());
        let found = endpoints.find(|candidate| candidate["name"] == endpoint);
        Ok(found.and_then(|found| found["health"].as_str()).map(str::to_owned))
    }

    /// Replaces the file's text, as before a reload. `{dir}` is replaced as in [`Edge::start`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rewrite_config(&self, config: &str) -> Result<()> {
        let path = config_file(self.directory.path());
        let text = expand(config, self.directory.path());
        std::fs::write(&path, text).map_err(|error| Failure::new("write", path.display(), error, "make room on the disk"))
    }

    /// Sends a signal such as `libc::SIGTERM` or `libc::SIGHUP`.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        self.process.signal(signal)
    }

    /// Freezes the process with SIGSTOP, and waits until all of it stands still: its kernel goes on to fill its queues.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(libc::SIGSTOP)?;
        wait::wait_until("the frozen edge", READY_LIMIT, || self.process.is_stopped()).map(drop)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(libc::SIGCONT)
    }

    /// Lets the process open `spare` more descriptors and no further one, or sets its soft limit back to the hard one.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn limit_descriptors(&self, spare: Option<u64>) -> Result<()> {
        self.process.limit_descriptors(spare)
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait_exit(limit)
    }

    /// Kills the process with SIGKILL: the death of an edge.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// How many descriptors the process has open.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn descriptors(&self) -> Result<usize> {
        self.process.descriptors()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The admin address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The file it runs on.
    pub fn config_path(&self) -> PathBuf {
        config_file(self.directory.path())
    }

    /// The resident memory of the process in bytes.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let kilobytes = read.and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("there is no VmRSS in it")?;
            line.trim().trim_end_matches(" kB").parse::<u64>().map_err(|error| error.to_string())
        });
        let bytes = kilobytes.map(|kilobytes| kilobytes * 1024);
        bytes.map_err(|cause| Failure::new("read", path, cause, "check that the edge still runs"))
    }

    /// The edge's own directory, `{dir}` in its config.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything that the edge has written so far.
    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Waits for a line of the log that contains `text`.
    ///
    /// # Errors
    /// When `limit` passes or the process ends first.
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> Result<String> {
        self.process.wait_for_line(text, limit)
    }
}

fn config_file(directory: &Path) -> PathBuf {
    directory.join("landfall.toml")
}

fn expand(config: &str, directory: &Path) -> String {
    config.replace("{dir}", &directory.to_string_lossy())
}

/// Writes the file and returns the admin address that it names.
fn write_config(file: &Path, directory: &Path, config: &str) -> Result<SocketAddr> {
    let text = expand(config, directory);
    std::fs::write(file, &text).map_err(|error| Failure::new("write", file.display(), error, "make room on the disk"))?;
    admin_address(&text).map_err(|cause| {
        let cure = "write [edge] admin = \"ADDRESS:PORT\" and control = \"{dir}/control.sock\" into the test's config";
        Failure::new("use", "the test's config", cause, cure)
    })
}

fn admin_address(text: &str) -> Result<SocketAddr, String> {
    let config: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let edge = config.get("edge").and_then(toml::Value::as_table).ok_or("it has no [edge]")?;
    if !edge.contains_key("control") {
        return Err("it names no control socket".into());
    }
    let admin = edge.get("admin").and_then(toml::Value::as_str).ok_or("it names no admin address")?;
    admin.parse().map_err(|error| format!("the admin address {admin:?} is not one: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_must_name_what_parallel_edges_must_not_share() {
        let whole = "[edge]\nadmin = \"127.0.0.1:9900\"\ncontrol = \"/tmp/control.sock\"\n";
        assert_eq!(admin_address(whole).unwrap().port(), 9900);
        assert!(admin_address("[edge]\nadmin = \"127.0.0.1:9900\"\n").unwrap_err().contains("control"));
        assert!(admin_address("[edge]\ncontrol = \"c\"\n").unwrap_err().contains("admin"));
        assert!(admin_address("name = \"x\"\n").unwrap_err().contains("[edge]"));
    }
}
