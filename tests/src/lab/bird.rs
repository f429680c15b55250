//! A BIRD of the lab: a child process in the foreground, with its control socket in a directory of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::Namespace;
use crate::process::Process;
use crate::{Failure, Result, wait};

/// How long BIRD may take to start, to answer, and to end.
const LIMIT: Duration = Duration::from_secs(10);

/// A running BIRD. Dropping it kills the process and removes its directory.
pub struct Bird {
    namespace: Namespace,
    process: Process,
    directory: TempDir,
}

/// What a BGP protocol of BIRD has heard since its session began.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Routes announced or changed.
    pub updates: u64,
    /// Routes withdrawn.
    pub withdraws: u64,
}

impl Bird {
    /// Runs BIRD on `config`, the text of one of the files in `deploy/bird`, in which each definition named in `values` gets
    /// that value instead of its own. It logs to standard error instead of syslog; nothing else is changed.
    ///
    /// # Errors
    /// When BIRD is not installed or refuses the text, or the text has no such definition.
    pub fn start(namespace: &Namespace, config: &str, values: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("landfall-bird-")
            .tempdir()
            .map_err(|error| Failure::new("create", "a directory for BIRD", error, "make room in the temporary directory"))?;
        let text = substituted(config, values)?;
        let file = directory.path().join("bird.conf");
        std::fs::write(&file, text).map_err(|error| Failure::new("write", file.display(), error, "make room on the disk"))?;
        let process = spawn(namespace, &directory)?;
        let bird = Self { namespace: namespace.clone(), process, directory };
        bird.wait_answering()?;
        Ok(bird)
    }

    /// The control socket, for `bird_socket` in landfall's config.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("bird.ctl")
    }

    /// The process behind it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// Gives one command to the control socket and returns the answer, without the codes.
    ///
    /// # Errors
    /// When BIRD does not answer, or says that it cannot do it.
    pub fn command(&self, command: &str) -> Result<String> {
        let cannot = |cause: &dyn std::fmt::Display| {
            Failure::new("ask BIRD", format_args!("in {}: {command}", self.namespace.name()), cause, self.log())
        };
        let answer = self.exchange(command).map_err(|error| cannot(&error))?;
        // Codes from 8000 are errors at run time, from 9000 of syntax.
        if answer.iter().any(|line| line.starts_with(['8', '9'])) {
            return Err(cannot(&answer.join("\n")));
        }
        Ok(answer.iter().map(|line| line.get(5..).unwrap_or_default()).collect::<Vec<_>>().join("\n"))
    }

    fn exchange(&self, command: &str) -> std::io::Result<Vec<String>> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut lines = Vec::new();
        let mut greeted = false;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            // "0001 BIRD 2.0.12 ready." comes first; then lines "1002-text" or " text", and a last one "0000 text".
            let last = line.as_bytes().get(4) == Some(&b' ') && line.bytes().take(4).all(|byte| byte.is_ascii_digit());
            if greeted {
                // A continued line keeps the code of the one before it and shows a blank instead.
                lines.push(if line.starts_with([' ', '+']) {
                    format!("     {}", line.get(1..).unwrap_or_default())
                } else {
                    line
                });
            }
            if last && std::mem::replace(&mut greeted, true) {
                return Ok(lines);
            }
        }
        Err(std::io::Error::other("it closed the connection"))
    }

    /// What the BGP protocol `name` has heard since its session began. Nothing while it is down.
    ///
    /// # Errors
    /// When there is no such protocol.
    pub fn heard(&self, name: &str) -> Result<Option<Heard>> {
        let text = self.command(&format!("show protocols all {name}"))?;
        if !text.lines().next().is_some_and(|_| text.contains("Established")) {
            return Ok(None);
        }
        let first = |label: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let heard = first("Import updates:").zip(first("Import withdraws:"));
        let heard = heard.map(|(updates, withdraws)| Heard { updates, withdraws });
        heard.map(Some).ok_or_else(|| Failure::new("read", "the counters of BIRD", &text, "see show protocols all"))
    }

    /// The protocol's state as `show protocols` prints it: `up`, `down`, `start` and so on.
    ///
    /// # Errors
    /// When there is no such protocol.
    pub fn state(&self, name: &str) -> Result<String> {
        let text = self.command(&format!("show protocols {name}"))?;
        let row = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words.first() == Some(&name));
        let state = row.and_then(|words| words.get(3).map(|state| (*state).to_owned()));
        state.ok_or_else(|| Failure::new("read", "the state of a protocol", &text, "see show protocols"))
    }

    /// Ends BIRD in order, as `systemctl stop` does: it says good-bye on its sessions.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(libc::SIGTERM)?;
        self.process.wait_exit(LIMIT).map(drop)
    }

    /// Starts BIRD anew on the same file, after [`Bird::stop`].
    ///
    /// # Errors
    /// As [`Bird::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.process = spawn(&self.namespace, &self.directory)?;
        self.wait_answering()
    }

    fn wait_answering(&self) -> Result<()> {
        let waited = wait::wait_until("BIRD's control socket", LIMIT, || self.exchange("show status").is_ok());
        waited.map(drop).map_err(|failure| failure.in_place(format_args!("{}; it wrote:\n{}", self.namespace.name(), self.log())))
    }
}

fn spawn(namespace: &Namespace, directory: &TempDir) -> Result<Process> {
    // Not delayed by other tests, as on a router whose control plane has a processor of its own. In the foreground and as the
    // same user: else the guards could not end it.
    let mut command = Command::new("nice");
    let path = |name: &str| directory.path().join(name);
    command.args(["-n", "-20", "bird", "-f", "-c"]).arg(path("bird.conf"));
    command.arg("-s").arg(path("bird.ctl")).arg("-P").arg(path("bird.pid"));
    namespace.spawn(command)
}

/// `config` with other values for some of its definitions.
fn substituted(config: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    let log = ("log syslog all;".to_owned(), "log stderr all;\ndebug protocols { states };".to_owned());
    let defines = values.iter().map(|(name, value)| (format!("define {name} "), format!("define {name} = {value};")));
    for (begin, whole) in std::iter::once(log).chain(defines) {
        let line = lines.iter_mut().find(|line| line.starts_with(&begin)).ok_or_else(|| {
            Failure::new("find", format_args!("{begin:?}"), "no line begins so", "keep deploy/bird and the lab in step")
        })?;
        *line = whole;
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_replaced_whole_and_must_exist() {
        let config = "define A  = 1;   # one\nlog syslog all;\nroute A;\n";
        let text = substituted(config, &[("A", "2")]).unwrap();
        assert_eq!(text, "define A = 2;\nlog stderr all;\ndebug protocols { states };\nroute A;\n");
        assert!(substituted(config, &[("B", "2")]).unwrap_err().to_string().contains("define B"));
        assert!(substituted("define A = 1;\n", &[("A", "2")]).is_err(), "no log line");
    }
}
