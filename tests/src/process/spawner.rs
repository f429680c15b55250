//! The one thread that starts every child.
//!
//! A child asks the kernel for SIGKILL at its parent's death (`PR_SET_PDEATHSIG`), which covers what no guard can: the
//! test process killed, aborted or out of memory. The kernel's "parent" is the *thread* that forked. Test threads end
//! with their test, and a helper thread inside a namespace sooner still, so a child of theirs would be killed in the
//! middle of its work. Hence one thread that lives as long as the process forks for all.
//!
//! That thread has descriptors of its own, and none of the tests'. Until its program begins, a child has a copy of all that
//! its parent has open: a socket that a test closes in that moment would live on in the child of another test, with its
//! port taken, its connections accepted and its peer not told.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use crate::lab::Namespace;

/// A child that runs, and the test's ends of its streams.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) stdin: PipeWriter,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
}

/// Everything that is a descriptor of the tests is told by its path.
struct Request {
    command: Command,
    streams: [String; 3],
    namespace: Option<String>,
    reply: SyncSender<io::Result<Child>>,
}

/// Starts `command` in `namespace` from the spawner thread, with pipes for its streams.
pub(super) fn spawn(mut command: Command, namespace: Option<&Namespace>) -> io::Result<Spawned> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    bind_to_life_of_harness(&mut command);
    let ((its_stdin, stdin), (stdout, its_stdout), (stderr, its_stderr)) = (io::pipe()?, io::pipe()?, io::pipe()?);
    let streams = [path(&its_stdin), path(&its_stdout), path(&its_stderr)];
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the spawner thread is gone");
    let request = Request { command, streams, namespace: namespace.map(Namespace::path), reply };
    SPAWNER.get_or_init(start).send(request).map_err(|_| gone())?;
    let child = answer.recv().map_err(|_| gone())??;
    Ok(Spawned { child, stdin, stdout, stderr })
}

/// A path to a descriptor of the tests, good for as long as it is open.
pub(crate) fn path(descriptor: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd())
}

fn start() -> Sender<Request> {
    // Children inherit the limit; thousands of flows need more than the customary soft limit of 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("cannot raise the descriptor limit: {error}; tests with thousands of flows may run out of descriptors");
    }
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || serve(&requests));
    sender
}

/// The sender is a static, so this ends with the process and not before.
fn serve(requests: &Receiver<Request>) {
    let parted = part_from_descriptors();
    for Request { command, streams, namespace, reply } in requests {
        let started = match &parted {
            Ok(()) => start_child(command, &streams, namespace.as_deref()),
            Err(error) => Err(io::Error::new(error.kind(), format!("the spawner shares its descriptors: {error}"))),
        };
        if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(started) {
            // Whoever asked has gone meanwhile; an unguarded child must not stay.
            let _ = orphan.kill();
            let _ = orphan.wait();
        }
    }
}

/// From now on what this thread opens is its own, and of all else it has the three standard streams.
fn part_from_descriptors() -> io::Result<()> {
    // SAFETY: with this flag the call first gives the thread a table of its own, of which nothing is in use yet.
    let parted = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if parted == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn start_child(mut command: Command, streams: &[String; 3], namespace: Option<&str>) -> io::Result<Child> {
    let [stdin, stdout, stderr] = streams;
    let writing = |path: &String| File::options().write(true).open(path).map(Stdio::from);
    command.stdin(File::open(stdin)?).stdout(writing(stdout)?).stderr(writing(stderr)?);
    if let Some(namespace) = namespace {
        enter_namespace(&mut command, File::open(namespace)?);
    }
    command.spawn()
}

fn bind_to_life_of_harness(command: &mut Command) {
    let harness = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
    // SAFETY: between fork and exec only prctl and getppid are called, both safe there; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // Had the harness died before the call above, no signal would ever come.
            if libc::getppid() != harness { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
        });
    }
}

fn enter_namespace(command: &mut Command, namespace: File) {
    // SAFETY: between fork and exec only setns is called; the captured descriptor stays open until then.
    unsafe {
        command.pre_exec(move || match libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_has_no_descriptor_of_the_tests_before_its_program_begins() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // A number that the spawner itself does not come to use.
        // SAFETY: the call makes a descriptor and touches no memory.
        let number = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500) };
        assert!(number >= 500, "{}", io::Error::last_os_error());
        let mut command = Command::new("true");
        // SAFETY: only fcntl is called between fork and exec, and it changes nothing.
        unsafe {
            command.pre_exec(move || match libc::fcntl(number, libc::F_GETFD) {
                -1 => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::EEXIST)),
            });
        }
        assert!(spawn(command, None).unwrap().child.wait().unwrap().success());
    }
}
