//! A cable between two hosts of the lab.

use std::fmt::Write;

use super::Namespace;
use crate::Result;

/// One end of a link: the interface's name and its addresses with prefix length, IPv4 or IPv6.
pub struct End<'a> {
    /// The interface's name, at most 15 characters.
    pub interface: &'a str,
    /// Its addresses, such as `198.18.1.2/24`.
    pub addresses: &'a [&'a str],
}

impl Namespace {
    /// Joins this namespace and `other` by a veth pair that is up and carries its addresses on return.
    ///
    /// # Errors
    /// When an interface of that name exists or an address is not valid.
    pub fn connect(&self, here: &End<'_>, other: &Namespace, there: &End<'_>) -> Result<()> {
        let (inside, outside, path) = (here.interface, there.interface, other.path());
        let queues = "numtxqueues 2 numrxqueues 2";
        self.ip(&format!("link add {inside} {queues} type veth peer name {outside} {queues} netns {path}\n"))?;
        // The address comes before "up", so that the connected routes exist from the first moment.
        self.ip(&settings(here))?;
        other.ip(&settings(there))?;
        // The kernel may take note of a carrier a second late, and until then IPv6 hears no multicast: neighbours ask in vain.
        // Asked about one interface, it first takes note (linkwatch_sync_dev).
        self.ip(&format!("link show dev {inside}\n"))?;
        other.ip(&format!("link show dev {outside}\n"))
    }

    /// Runs a batch of `ip` commands, one a line, in the namespace. One process for many lines: the lab is built often.
    ///
    /// # Errors
    /// At the first line that `ip` refuses; the message carries its number.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.run_with_input(["ip", "-batch", "-"], lines).map(drop)
    }
}

fn settings(end: &End<'_>) -> String {
    let mut lines = String::new();
    for address in end.addresses {
        // IPv6 addresses are usable at once with nodad; IPv4 knows no such word.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        let _ = writeln!(lines, "address add {address} dev {}{nodad}", end.interface);
    }
    let _ = writeln!(lines, "link set {} up", end.interface);
    lines
}
