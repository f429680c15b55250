//! Hosts: threads in network namespaces of their own, wired to this thread's.

use std::{
    process::{Command, Output},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Sender},
    },
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
    let output = run(Command::new("ip").args(arguments.split(' ')));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program has a copy of all that this process has open until it runs.
static PROGRAMS: Mutex<()> = Mutex::new(());

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Output {
    let _alone = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; install its package, which tests/run lists"))
}

/// Closes what is `open` for good: no program that another test is starting has a copy.
pub fn close<T>(open: T) {
    let _alone = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    drop(open);
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
        // The kernel may take note of a carrier a second late, and until then IPv6 hears no multicast: neighbours ask in vain.
        // Asked about one device, it first takes note (linkwatch_sync_dev).
        ip(&format!("link show dev {device}"));
        host.run(|| ip("link show dev eth0"));
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
