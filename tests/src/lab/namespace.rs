//! One host of the lab.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::process::{self, Process};
use crate::{Failure, Result};

/// How long a command that changes or shows the lab may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// A network namespace: an own set of interfaces, addresses, routes, sockets and packet filter rules.
///
/// A clone is another handle on the same namespace, which lives until the last handle and the last process in it are
/// gone.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    name: String,
    descriptor: File,
}

impl Namespace {
    /// A new namespace with its loopback interface up. The name is for messages only.
    ///
    /// # Errors
    /// Without root, or when `ip` is not installed.
    pub fn new(name: &str) -> Result<Self> {
        // A thread can leave its namespace without taking the process with it. It ends at once; the descriptor stays.
        let descriptor = std::thread::scope(|scope| scope.spawn(unshare).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(|error| {
                Failure::new("create", format_args!("the network namespace {name}"), error, "run the lab as root")
            })?;
        let namespace = Self(Arc::new(Inner { name: name.to_owned(), descriptor }));
        namespace.set("net/ipv6/conf/all/disable_ipv6", "0")?;
        // A new namespace takes these over from the host, which may be a router, and careful; here nobody is unless a test says so.
        namespace.set("net/ipv4/ip_forward", "0")?;
        namespace.set("net/ipv4/conf/all/rp_filter", "0")?;
        namespace.set("net/ipv4/conf/default/rp_filter", "0")?;
        namespace.set("net/ipv6/conf/all/forwarding", "0")?;
        // An IPv6 address is otherwise unusable for a second or two, until no neighbour has claimed it.
        namespace.set("net/ipv6/conf/default/accept_dad", "0")?;
        namespace.set("net/ipv6/conf/default/accept_ra", "0")?;
        namespace.run(["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The number by which the kernel knows the namespace, as in `net:[4026532008]`.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn inode(&self) -> Result<u64> {
        self.0.descriptor.metadata().map(|metadata| metadata.ino()).map_err(|error| self.cannot("identify", "itself", error))
    }

    /// A path to the namespace, valid while this handle lives.
    pub(crate) fn path(&self) -> String {
        process::path(&self.0.descriptor)
    }

    /// Runs a program in the namespace to its end and returns its standard output.
    ///
    /// # Errors
    /// When the program is missing or ends with a status other than 0; the message carries what it wrote.
    pub fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Result<String> {
        process::run(Some(self), command(words), None, COMMAND_LIMIT).map_err(|failure| self.inside(failure))
    }

    /// As [`Namespace::run`], with `input` on the program's standard input.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub fn run_with_input<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>, input: &str) -> Result<String> {
        process::run(Some(self), command(words), Some(input), COMMAND_LIMIT).map_err(|failure| self.inside(failure))
    }

    /// Starts a program in the namespace. The guard ends it.
    ///
    /// # Errors
    /// When the program is missing or may not be started.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        Process::spawn(Some(self), command).map_err(|failure| self.inside(failure))
    }

    /// Runs `body` on a thread in the namespace and returns what it returns.
    ///
    /// Sockets opened in it belong to the namespace for good and may be carried out and used anywhere. A panic in `body`
    /// goes on in the caller.
    ///
    /// # Panics
    /// When the kernel refuses entry, which a process that created the namespace never sees.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            // SAFETY: setns takes a descriptor, open while `self` lives, and changes this new thread only.
            let entered = unsafe { libc::setns(self.0.descriptor.as_raw_fd(), libc::CLONE_NEWNET) };
            assert!(entered == 0, "cannot enter the namespace {}: {}", self.name(), io::Error::last_os_error());
            body()
        };
        let ended = std::thread::scope(|scope| scope.spawn(inside).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets a kernel parameter of the namespace, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such parameter or it refuses the value.
    pub fn set(&self, parameter: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{parameter}");
        self.enter(|| std::fs::write(path, value)).map_err(|error| self.cannot("set", parameter, error))
    }

    fn cannot(&self, operation: &str, subject: &str, cause: impl Display) -> Failure {
        let subject = format!("{subject} in the namespace {}", self.name());
        Failure::new(operation, subject, cause, "check that the kernel has the feature and that the test runs as root")
    }

    fn inside(&self, failure: Failure) -> Failure {
        failure.in_place(format_args!("the namespace {}", self.name()))
    }
}

fn unshare() -> io::Result<File> {
    // SAFETY: unshare takes flags only and changes this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    File::open("/proc/thread-self/ns/net")
}

fn command<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Command {
    let mut words = words.into_iter();
    let mut command = match words.next() {
        Some(program) => Command::new(program),
        None => Command::new(""),
    };
    command.args(words);
    command
}
