//! What the kernel says of a device. It is asked, because `/sys` may show another network namespace.

use std::{
    ffi::{CStr, CString},
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::rtnetlink::attribute;

/// `SIOCETHTOOL`, and the commands of it that are used here.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;

/// The generic netlink family that knows what XDP can do on a device (`<linux/netdev.h>`).
const FAMILY: &[u8] = b"netdev\0";
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// Of a message of netlink, and of generic netlink behind it.
const HEADERS: usize = 20;

/// `struct ethtool_drvinfo`, as far as it is read.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// What XDP can do on a device now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct XdpFeatures(u64);

impl XdpFeatures {
    /// Its driver runs programs.
    pub fn runs_programs(self) -> bool {
        self.0 & 1 != 0
    }

    /// It takes frames that a program on another device redirects to it. One that does not loses them without a word.
    pub fn takes_frames(self) -> bool {
        self.0 & 4 != 0
    }
}

/// Whether frames begin with an Ethernet header, and the address of the device.
pub(super) fn ethernet(device: &str) -> io::Result<Option<[u8; 6]>> {
    let mut request = request(device)?;
    ask(libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the ioctl has filled in the hardware address.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    mac.iter_mut().zip(address.sa_data).for_each(|(to, from)| *to = from.cast_unsigned());
    Ok((address.sa_family == libc::ARPHRD_ETHER).then_some(mac))
}

/// The name of its driver; empty where it has none to tell.
pub(super) fn driver(device: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = request(device)?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    match ask(SIOCETHTOOL, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(String::new()),
        result => result?,
    }
    let name = CStr::from_bytes_until_nul(&info.driver).unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// Whether a VLAN device takes frames from this one.
pub(super) fn has_vlans(device: &str) -> bool {
    // Of this thread's namespace. Where no VLAN device was ever made, the file is not there.
    let list = std::fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
    list.lines().skip(2).any(|line| line.rsplit('|').next().is_some_and(|parent| parent.trim() == device))
}

/// What XDP can do on the device with this index now: on a veth it depends on how the other end is set up.
pub(super) fn xdp_features(index: u32) -> io::Result<XdpFeatures> {
    // SAFETY: a system call without arguments in memory.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was made just now and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let controller = u16::try_from(libc::GENL_ID_CTRL).unwrap_or_default();
    let answer = exchange(&socket, controller, CTRL_CMD_GETFAMILY, (CTRL_ATTR_FAMILY_NAME, FAMILY))?;
    let family = attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|id| Some(u16::from_ne_bytes(id.get(..2)?.try_into().ok()?)));
    let family = family.ok_or(io::ErrorKind::InvalidData)?;
    let answer = exchange(&socket, family, NETDEV_CMD_DEV_GET, (NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes()))?;
    let features =
        attribute(&answer, NETDEV_A_DEV_XDP_FEATURES).and_then(|bits| Some(u64::from_ne_bytes(bits.get(..8)?.try_into().ok()?)));
    Ok(XdpFeatures(features.ok_or(io::ErrorKind::InvalidData)?))
}

fn request(device: &str) -> io::Result<libc::ifreq> {
    let name = CString::new(device)?;
    // SAFETY: an all-zero request is one.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let bytes = name.as_bytes();
    if bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    request.ifr_name.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from.cast_signed());
    Ok(request)
}

/// The request is of the type that `operation` reads and writes, with all that it points to.
fn ask(operation: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    // SAFETY: as above; it outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends one request of generic netlink and gives the attributes of its answer.
fn exchange(socket: &OwnedFd, family: u16, command: u8, (kind, value): (u16, &[u8])) -> io::Result<Vec<u8>> {
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let mut message = vec![0; HEADERS];
    message.extend(short(4 + value.len()).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let length = u32::from(short(message.len()));
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&family.to_ne_bytes());
    message[6..8].copy_from_slice(&1u16.to_ne_bytes()); // NLM_F_REQUEST
    message[16..18].copy_from_slice(&[command, 1]);
    // SAFETY: bytes that outlive the call, to the kernel: the address of a socket without one.
    if unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = vec![0; 16_384];
    // SAFETY: as many bytes to write to as are told.
    let length = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    answer.truncate(length.cast_unsigned());
    let error = [2, 0]; // NLMSG_ERROR
    if answer.len() < HEADERS || answer[4..6] == error {
        let code = answer.get(16..20).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(answer.split_off(HEADERS))
}
