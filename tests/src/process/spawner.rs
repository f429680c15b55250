//! The one thread that starts every child.
//!
//! A child asks the kernel for SIGKILL at its parent's death (`PR_SET_PDEATHSIG`), which covers what no guard can: the
//! test process killed, aborted or out of memory. The kernel's "parent" is the *thread* that forked. Test threads end
//! with their test, and a helper thread inside a namespace sooner still, so a child of theirs would be killed in the
//! middle of its work. Hence one thread that lives as long as the process forks for all.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender, SyncSender};

use crate::lab::Namespace;

struct Request {
    command: Command,
    reply: SyncSender<io::Result<Child>>,
}

/// Starts `command` in `namespace` from the spawner thread.
pub(super) fn spawn(mut command: Command, namespace: Option<&Namespace>) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    bind_to_life_of_harness(&mut command);
    if let Some(namespace) = namespace {
        enter_namespace(&mut command, namespace.clone());
    }
    let (reply, answer) = mpsc::sync_channel(1);
    let spawner = SPAWNER.get_or_init(start);
    let gone = |_| io::Error::other("the spawner thread is gone");
    spawner.send(Request { command, reply }).map_err(|_| io::Error::other("the spawner thread is gone"))?;
    answer.recv().map_err(gone)?
}

fn start() -> Sender<Request> {
    // Children inherit the limit; thousands of flows need more than the customary soft limit of 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("cannot raise the descriptor limit: {error}; tests with thousands of flows may run out of descriptors");
    }
    let (sender, requests) = mpsc::channel::<Request>();
    std::thread::spawn(move || {
        // The sender is a static, so this ends with the process and not before.
        for Request { mut command, reply } in requests {
            if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                // Whoever asked has gone meanwhile; an unguarded child must not stay.
                let _ = orphan.kill();
                let _ = orphan.wait();
            }
        }
    });
    sender
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

fn enter_namespace(command: &mut Command, namespace: Namespace) {
    // SAFETY: between fork and exec only setns is called; the captured namespace keeps its descriptor open until then.
    unsafe {
        command.pre_exec(move || match libc::setns(namespace.descriptor().as_raw_fd(), libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}
