//! `landfall try`, the real program, without a terminal.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

const LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// One at a time: two would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn command(temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    // Inherited by the endpoints, so that they can be told from those of others; and an empty one shows what was left behind.
    command.arg("try").env("TMPDIR", temporary).env_remove("LANDFALL_LOG").stdin(Stdio::null());
    command
}

/// The endpoints that were started with this directory for temporary files.
fn endpoints(temporary: &Path) -> Vec<i32> {
    let mark = format!("TMPDIR={}", temporary.display());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let words = |pid: &i32, file: &str| {
        // Err: it has ended since it was listed.
        let words = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&words).split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    processes.filter(|pid| words(pid, "environ").contains(&mark) && words(pid, "cmdline").contains(&"echo".to_owned())).collect()
}

fn nothing_is_left(temporary: &Path) {
    assert_eq!(endpoints(temporary), Vec::<i32>::new());
    assert_eq!(fs::read_dir(temporary).unwrap().count(), 0, "files are left in {}", temporary.display());
}

#[test]
fn it_shows_what_it_promises_and_leaves_nothing() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let output = command(temporary.path()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stderr, "");
    assert!(!stdout.contains('\x1b'), "no terminal, no colours");
    for text in [
        "\nSummary\n",
        "eu-1 killed",
        "eu-2 killed",
        " opened, 0 failed\n",
        "64, 0 lost\n",
        " 0 held TCP connections cut\n",
        "No connection failed, no flow was lost, every failover was within its bound.",
    ] {
        assert!(stdout.contains(text), "{text:?} is not in\n{stdout}");
    }
    nothing_is_left(temporary.path());
}

#[test]
fn an_interrupt_stops_everything() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let mut child = begin(&mut command(temporary.path()));
    assert_eq!(endpoints(temporary.path()).len(), 4);
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    nothing_is_left(temporary.path());
}

#[test]
fn it_can_be_held_and_poked_at() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = command(temporary.path());
    let mut child = begin(command.arg("--hold"));
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let mut printed = |text: &str| lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text:?} was not printed"));
    let kill = printed("# eu-1");
    let check = printed(" check --config ");
    let reload = printed(" reload --control ");
    for line in [&check, &reload, &kill] {
        assert!(Command::new("sh").args(["-c", line]).stdout(Stdio::null()).status().unwrap().success(), "{line}");
    }
    printed("the process of eu-1 has ended");
    printed("eu-1 is unhealthy");
    printed("eu-1 is started again");
    printed("eu-1 is healthy");
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    nothing_is_left(temporary.path());
}

#[test]
fn endpoints_do_not_outlive_a_demonstration_that_is_killed() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let mut child = begin(&mut command(temporary.path()));
    // They will be nobody's children, whom nobody can wait for but by such a descriptor.
    let open = |pid| pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let watched: Vec<_> = endpoints(temporary.path()).into_iter().map(open).collect();
    assert!(!watched.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    for endpoint in &watched {
        let ended = poll(&mut [PollFd::new(endpoint, PollFlags::IN)], Some(&LIMIT)).unwrap();
        assert_eq!(ended, 1, "an endpoint outlives the program that started it");
    }
    assert_eq!(endpoints(temporary.path()), Vec::<i32>::new());
}

/// Starts one and waits until it is under way.
fn begin(command: &mut Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("Everything goes to the near region")));
    child
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}
