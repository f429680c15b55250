//! Child processes that cannot outlive the test: a guard for the ordinary end, the kernel for every other.

mod output;
mod spawner;

use std::fmt::Display;
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use crate::lab::Namespace;
use crate::wait::Deadline;
use crate::{Failure, Result};
use output::Output;
use spawner::Spawned;
pub(crate) use spawner::path;

/// How long a process may take to vanish after SIGKILL, and its pipes to close after that.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A running child process. Dropping it kills and reaps it; dropped by a panic, it also shows what the child wrote.
///
/// The child must stay in the foreground and keep its user: a double fork leaves the guard's reach, and a change of user
/// clears the death signal that ends the child when the test process is killed.
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    output: Output,
    stdin: Option<PipeWriter>,
}

impl Process {
    /// Starts `command` in `namespace`, or where the test runs when there is none. Standard input is empty; standard
    /// output and error are captured.
    ///
    /// # Errors
    /// When the program is missing or may not be started.
    pub fn spawn(namespace: Option<&Namespace>, command: Command) -> Result<Self> {
        let mut process = Self::spawn_with_stdin(namespace, command)?;
        process.stdin = None;
        Ok(process)
    }

    /// As [`Process::spawn`], with a pipe to the child's standard input: see [`Process::take_stdin`].
    ///
    /// # Errors
    /// When the program is missing or may not be started.
    pub fn spawn_with_stdin(namespace: Option<&Namespace>, command: Command) -> Result<Self> {
        let name = describe(&command);
        let Spawned { mut child, stdin, stdout, stderr } =
            spawner::spawn(command, namespace).map_err(|error| cannot("start", &name, error))?;
        let output = Output::capture(stdout, stderr);
        let pidfd = match open_pidfd(child.id()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Without the descriptor there is no guard, so the child is ended here; it is ours and not yet reaped.
                let _ = child.kill();
                let _ = child.wait();
                return Err(cannot("open the pidfd of", &name, error));
            }
        };
        Ok(Self { name, child, pidfd, output, stdin: Some(stdin) })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The program and its arguments, as shown in failures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The write end of the child's standard input, once. Dropping it is the child's end of file.
    pub fn take_stdin(&mut self) -> Option<PipeWriter> {
        self.stdin.take()
    }

    /// All that the child has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.output.stdout()
    }

    /// All that the child has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.output.stderr()
    }

    /// Waits for the first whole line on standard output or error that contains `text`, from the start of the output.
    ///
    /// # Errors
    /// When `limit` passes, or the child closes its output without having written such a line.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Deadline::after(limit);
        self.output.wait_for_line(text, &deadline).map_err(|cause| {
            Failure::new(
                "wait for",
                format_args!("a line with {text:?} from `{}`", self.name),
                cause,
                format_args!("it wrote:\n{}", self.output.tail()),
            )
        })
    }

    /// Whether the child still runs. One that has been killed counts as running until it is really gone.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal such as `libc::SIGTERM`, through the pidfd, so that it can reach no other process.
    ///
    /// # Errors
    /// When the process is gone already.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        // SAFETY: the descriptor is open for as long as `self` lives; a null siginfo is allowed.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        if sent == 0 { Ok(()) } else { Err(cannot("signal", &self.name, io::Error::last_os_error())) }
    }

    /// Whether every thread of the process has been stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let mut states = threads.map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name of the thread is in parentheses and may hold anything; the state follows.
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        });
        states.all(|stopped| stopped)
    }

    /// Kills the process with SIGKILL and reaps it: the refused death of an endpoint.
    ///
    /// # Errors
    /// When it does not end, which only a process stuck in the kernel does.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if self.is_running() {
            self.signal(libc::SIGKILL)?;
        }
        self.wait_exit(END_LIMIT)
    }

    /// Waits until the process ends by itself, then for the last of its output, and returns its exit status.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Deadline::after(limit);
        if !wait_readable(&self.pidfd, &deadline) {
            return Err(deadline.missed(&format!("the end of `{}`; it wrote:\n{}", self.name, self.output.tail())));
        }
        let status = self.child.wait().map_err(|error| cannot("reap", &self.name, error))?;
        self.output.wait_closed(&Deadline::after(END_LIMIT));
        Ok(status)
    }

    /// Waits until the process ends by itself and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When `limit` passes first or the exit status is not 0; the message carries what the process wrote.
    pub fn wait_success(&mut self, limit: Duration) -> Result<String> {
        let status = self.wait_exit(limit)?;
        if status.success() {
            return Ok(self.stdout());
        }
        let wrote = format!("it ended with {status} and wrote:\n{}", self.output.tail());
        Err(Failure::new("run", format_args!("`{}`", self.name), wrote, "see its own message for the cure"))
    }

    /// How many descriptors the process has open.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn descriptors(&self) -> Result<usize> {
        let directory = format!("/proc/{}/fd", self.pid());
        let entries = std::fs::read_dir(directory).map_err(|error| cannot("count the descriptors of", &self.name, error))?;
        Ok(entries.count())
    }

    /// Lets the process open `spare` more descriptors and no further one, or sets its soft limit back to the hard one.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn limit_descriptors(&self, spare: Option<u64>) -> Result<()> {
        self.set_descriptor_limit(spare).map_err(|error| cannot("limit the descriptors of", &self.name, error))
    }

    fn set_descriptor_limit(&self, spare: Option<u64>) -> io::Result<()> {
        let pid = libc::pid_t::try_from(self.pid()).map_err(io::Error::other)?;
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: nothing is set, and `limit` is writable during the call.
        if unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = match spare {
            None => limit.rlim_max,
            // The limit is on the number of a descriptor, and a new one takes the lowest number that is free.
            Some(spare) => {
                let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
                let used: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
                (0..).filter(|number| !used.contains(number)).nth(usize::try_from(spare).map_err(io::Error::other)?).unwrap_or(0)
            }
        };
        // SAFETY: `limit` is readable during the call, and nothing is asked back.
        match unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `kill` asks nothing of a process that has been reaped, so a second end is harmless.
        let ended = self.kill();
        if std::thread::panicking() {
            eprintln!("--- `{}` (pid {}) wrote:\n{}---", self.name, self.child.id(), self.output.tail());
        }
        if let Err(failure) = ended {
            eprintln!("{failure}");
        }
    }
}

/// Runs `command` to its end and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started, does not end within `limit`, or ends with a status other than 0.
pub fn run(namespace: Option<&Namespace>, command: Command, input: Option<&str>, limit: Duration) -> Result<String> {
    let Some(input) = input else {
        return Process::spawn(namespace, command)?.wait_success(limit);
    };
    let mut process = Process::spawn_with_stdin(namespace, command)?;
    if let Some(mut stdin) = process.take_stdin() {
        // A program that ends before it has read everything says so by its exit status, which is checked next.
        let _ = io::Write::write_all(&mut stdin, input.as_bytes());
    }
    process.wait_success(limit)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn cannot(operation: &str, name: &str, error: impl Display) -> Failure {
    Failure::new(operation, format_args!("`{name}`"), error, "run tests/run, which installs and builds what the tests need")
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor, which is owned here.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a descriptor that is not negative was just opened and belongs to nobody else.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

/// Waits until `fd` is readable, which for a pidfd means that the process has ended.
fn wait_readable(fd: &OwnedFd, deadline: &Deadline) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        let left = deadline.left().unwrap_or_default();
        // Rounded up, so that the last millisecond is not spent in a busy loop.
        let milliseconds = libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: `poll` is one valid pollfd for the length of the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, if left.is_zero() { 0 } else { milliseconds }) };
        if ready > 0 || left.is_zero() {
            return ready > 0;
        }
    }
}
