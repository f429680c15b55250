//! Lists the devices of this host on a thread of its own: a host whose netlink stalls must not delay the publication of a death.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
    time::Duration,
};

/// How long a list is waited for; one that comes later serves the next look.
const PATIENCE: Duration = Duration::from_millis(5);

/// Names and indices of devices that are up.
pub type Up = BTreeMap<String, u32>;

/// A handle to the thread, which ends with it.
#[derive(Debug)]
pub struct Lister {
    ask: SyncSender<()>,
    /// Whether the answer to a question is still to come.
    asked: bool,
    lists: Receiver<io::Result<Up>>,
}

impl Lister {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let (send, lists) = mpsc::sync_channel(1);
        let list = move || while asked.recv().is_ok() && send.send(fast_path::devices()).is_ok() {};
        thread::Builder::new().name("devices".into()).spawn(list)?;
        Ok(Self { ask, asked: false, lists })
    }

    /// The devices that are up, unless the host takes its time to say.
    pub fn list(&mut self) -> Option<Up> {
        self.asked = self.asked || self.ask.try_send(()).is_ok();
        let list = self.lists.recv_timeout(PATIENCE).ok()?;
        self.asked = false;
        list.map_err(|error| tracing::warn!("cannot list the devices of this host: {error}")).ok()
    }
}
