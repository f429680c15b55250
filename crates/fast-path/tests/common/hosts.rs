//! Hosts: threads in network namespaces of their own, wired to this thread's.

use std::{
    process::Command,
    sync::mpsc::{self, Sender},
};

type Task = Box<dyn FnOnce() + Send>;

/// A thread in its own namespace that runs what it is given, in order.
pub struct Host {
    thread: i32,
    tasks: Sender<Task>,
}

/// Moves the calling thread into a namespace of its own.
pub fn unshare() {
    // SAFETY: a system call without arguments in memory; only this thread changes its namespace.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "cannot make a network namespace: {}; run this as root", std::io::Error::last_os_error());
    ip("link set lo up");
}

/// Runs the program `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the program ip (package iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Host {
    /// A host behind this thread's device `device`, which is made, with the other end, `eth0`, on the host.
    pub fn behind(device: &str) -> Self {
        let (tasks, queue) = mpsc::channel::<Task>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            unshare();
            // SAFETY: a system call without arguments.
            tell.send(unsafe { libc::gettid() }).unwrap();
            queue.into_iter().for_each(|task| task());
        });
        let host = Self { thread: told.recv().unwrap(), tasks };
        ip(&format!("link add {device} type veth peer name eth0 netns {}", host.thread));
        ip(&format!("link set {device} up"));
        host.run(|| ip("link set eth0 up"));
        host
    }

    /// Runs `work` on the host and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work).recv().unwrap()
    }

    /// Runs `work` on a thread of its own on the host; its result can be waited for.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (give, result) = mpsc::channel();
        // A thread begins in the namespace of the one that starts it.
        self.run(move || drop(std::thread::spawn(move || drop(give.send(work())))));
        result
    }

    fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (give, result) = mpsc::channel();
        self.tasks.send(Box::new(move || drop(give.send(work())))).unwrap();
        result
    }
}
