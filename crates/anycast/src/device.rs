//! The network device that the routes hang on.
//!
//! A TUN device that is not persistent belongs to the descriptor that made it. When the process dies, however it dies, the kernel closes
//! the descriptor and removes the device, BIRD hears of it by netlink, and a static route that is bound to the device is gone: nobody
//! has to be alive in the dead process, or to watch it. See `docs/decisions/0006-routes-die-with-the-process.md`.
//!
//! No packet is meant to go through it. What the host sends to it all the same, such as multicast listener reports, is read and dropped.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    net::UdpSocket,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::Arc,
};

use tokio::{io::unix::AsyncFd, task::JoinHandle};

/// Where TUN devices come from.
const TUN: &str = "/dev/net/tun";
/// The longest name of a network device, in bytes.
pub const LONGEST_NAME: usize = libc::IFNAMSIZ - 1;

/// The device could not be made, or not be brought up or down.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the device {name}: {source}; {}", cure(source, operation))]
pub struct DeviceError {
    /// What was tried.
    pub operation: &'static str,
    /// Its name.
    pub name: String,
    /// What the system said.
    pub source: io::Error,
}

/// Of a device that is up.
#[allow(clippy::cast_possible_truncation, reason = "0x1")]
const UP: libc::c_short = libc::IFF_UP as libc::c_short;
/// Of a new device: packets without a header in front.
#[allow(clippy::cast_possible_truncation, reason = "0x1001")]
const NEW: libc::c_short = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
/// The first step.
const OPEN: &str = "open /dev/net/tun for";

fn cure(error: &io::Error, operation: &str) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) if operation == OPEN => {
            "load the kernel module: `modprobe tun`; in a container, give it /dev/net/tun"
        }
        Some(libc::EACCES | libc::EPERM) if operation == OPEN => {
            "let the service use /dev/net/tun (in the unit: PrivateDevices=no, DeviceAllow=/dev/net/tun rw)"
        }
        Some(libc::EPERM | libc::EACCES) => "it needs CAP_NET_ADMIN (in the unit: AmbientCapabilities=CAP_NET_ADMIN)",
        Some(libc::EBUSY) => "another edge on this host has it: end that one, or set anycast.device to another name",
        Some(libc::EINVAL) => "a device of another kind may have the name: see `ip link`, or set anycast.device to another name",
        _ => "check the name in anycast.device, and `ip link`",
    }
}

/// What the driver needs of a device.
pub trait Link: Send {
    /// Makes the device up or down, if it is not; makes it anew if somebody removed it.
    fn set(&mut self, up: bool) -> Result<(), DeviceError>;
}

/// A TUN device. It is gone when this is dropped.
#[derive(Debug)]
pub struct Tun {
    name: String,
    /// Any socket does for asking about devices.
    socket: UdpSocket,
    reader: JoinHandle<()>,
    _file: Arc<AsyncFd<File>>,
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Tun {
    /// Makes the device, down: routes over it do not count yet. Within a tokio runtime.
    pub fn create(name: &str) -> Result<Self, DeviceError> {
        let failed = |operation, source| DeviceError { operation, name: name.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN);
        let file = file.map_err(|source| failed(OPEN, source))?;
        attach(&file, name).map_err(|source| failed("create", source))?;
        // SAFETY: the file owns its descriptor, always names the same one, and is closed by nobody else.
        let file = unsafe { AsyncFd::register(file) }.map_err(|error| failed("watch", error.into()))?;
        let file = Arc::new(file);
        let socket = UdpSocket::from(control_socket().map_err(|source| failed("ask for", source))?);
        let reader = tokio::spawn(drop_packets(Arc::clone(&file)));
        Ok(Self { name: name.to_owned(), socket, reader, _file: file })
    }

    fn flags(&self) -> io::Result<libc::c_short> {
        let mut request = request(&self.name);
        // SAFETY: SIOCGIFFLAGS takes an ifreq with a name and writes the flags into it; both outlive the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just written this member.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    fn set_flags(&self, flags: libc::c_short) -> io::Result<()> {
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_flags = flags;
        // SAFETY: SIOCSIFFLAGS reads an ifreq with a name and flags, which outlives the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw mut request) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Link for Tun {
    fn set(&mut self, up: bool) -> Result<(), DeviceError> {
        let flags = match self.flags() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                tracing::warn!(device = self.name, "somebody has removed the device of the routes; making it anew");
                *self = Self::create(&self.name.clone())?;
                self.flags()
            }
            flags => flags,
        };
        let failed = |operation, source| DeviceError { operation, name: self.name.clone(), source };
        let flags = flags.map_err(|source| failed("ask for", source))?;
        match (up, flags & UP != 0) {
            (true, false) => self.set_flags(flags | UP).map_err(|source| failed("bring up", source)),
            (false, true) => self.set_flags(flags & !UP).map_err(|source| failed("take down", source)),
            _ => Ok(()),
        }
    }
}

/// A socket to ask the kernel about devices with. Not bound to anything.
fn control_socket() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: socket takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// A question about the device `name`, which is cut off where the kernel would cut it.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is numbers and unions of numbers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(LONGEST_NAME)) {
        *to = from as libc::c_char;
    }
    request
}

/// Makes `file` the owner of a new TUN device. Without `TUNSETPERSIST` the device goes with it.
fn attach(file: &File, name: &str) -> io::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = NEW;
    // SAFETY: TUNSETIFF reads an ifreq with a name and flags and writes the name into it; it outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads and drops until the device is gone.
async fn drop_packets(file: Arc<AsyncFd<File>>) {
    let mut packet = vec![0; 65_536];
    while let Ok(mut ready) = file.readable().await {
        match ready.try_io(|file| file.get_ref().read(&mut packet)) {
            // Down: the kernel has nothing to read from it, and says so as an error until it is up.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => ready.clear_ready(),
            Ok(Err(_)) => return,
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}
