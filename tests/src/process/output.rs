//! What a child writes, kept in memory: it can be waited for without polling, and nothing is left on disk.

use std::io::{PipeReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::wait::Deadline;

/// What is kept of each stream. A child that writes more is read on, so that it never blocks, but not remembered.
const KEPT_BYTES: usize = 64 << 20;
/// How much of each stream a failure shows.
const TAIL_LINES: usize = 100;

/// The captured streams of one child.
pub(super) struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    streams: Mutex<Streams>,
    changed: Condvar,
}

#[derive(Default)]
struct Streams {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    open: usize,
}

impl Output {
    /// Reads both streams to their end, each on a thread of its own.
    pub(super) fn capture(stdout: PipeReader, stderr: PipeReader) -> Self {
        let shared = Arc::new(Shared::default());
        read_to_end(&shared, stdout, |streams| &mut streams.stdout);
        read_to_end(&shared, stderr, |streams| &mut streams.stderr);
        Self(shared)
    }

    pub(super) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().stdout).into_owned()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().stderr).into_owned()
    }

    /// The last lines of both streams, for a person to read.
    pub(super) fn tail(&self) -> String {
        let mut text = String::new();
        for stream in [self.stdout(), self.stderr()] {
            let lines: Vec<&str> = stream.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        if text.is_empty() { "(nothing)\n".into() } else { text }
    }

    /// The first whole line that contains `text`, or why there is none.
    pub(super) fn wait_for_line(&self, text: &str, deadline: &Deadline) -> Result<String, String> {
        let mut streams = self.0.lock();
        loop {
            if let Some(line) = whole_line(&streams.stdout, text).or_else(|| whole_line(&streams.stderr, text)) {
                return Ok(line);
            }
            if streams.open == 0 {
                return Err("it closed its output".into());
            }
            let Some(left) = deadline.left() else { return Err("it wrote no such line in time".into()) };
            streams = self.0.changed.wait_timeout(streams, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until both streams have ended. A grandchild may hold them open, so this gives up at the deadline.
    pub(super) fn wait_closed(&self, deadline: &Deadline) {
        let mut streams = self.0.lock();
        while streams.open > 0 {
            let Some(left) = deadline.left() else { return };
            streams = self.0.changed.wait_timeout(streams, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_to_end(shared: &Arc<Shared>, mut stream: PipeReader, kept: fn(&mut Streams) -> &mut Vec<u8>) {
    shared.lock().open += 1;
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let mut streams = shared.lock();
            let kept = kept(&mut streams);
            let room = KEPT_BYTES.saturating_sub(kept.len()).min(read);
            kept.extend_from_slice(&buffer[..room]);
            shared.changed.notify_all();
        }
        shared.lock().open -= 1;
        shared.changed.notify_all();
    });
}

fn whole_line(stream: &[u8], text: &str) -> Option<String> {
    let (whole, _unfinished) = stream.split_at(stream.iter().rposition(|byte| *byte == b'\n')?);
    String::from_utf8_lossy(whole).lines().find(|line| line.contains(text)).map(str::to_owned)
}
