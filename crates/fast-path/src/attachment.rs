//! A program where packets come to it.

/// A program of Landfall's that is attached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The process that holds it.
    pub process: u32,
    /// Its number in the kernel.
    pub link: u32,
    /// How: `tcx`, `xdp`, or `netns` for the choice of sockets.
    pub kind: String,
    /// The program's name in the kernel.
    pub program: String,
    /// The device whose packets it takes; `None` if it is not about devices.
    pub device: Option<String>,
}
