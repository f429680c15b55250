//! Devices: where packets are taken from.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    io,
};

use aya::programs::{
    LinkOrder,
    tc::{TcAttachOptions, TcAttachType},
};

use super::{FastPath, failed, with_causes};
use crate::Error;

impl FastPath {
    /// Takes packets from `device` (TCX, at ingress) until it is detached or this process ends, however it ends.
    pub fn attach(&mut self, device: &str) -> Result<(), Error> {
        if self.links.contains_key(device) {
            return Ok(());
        }
        let cannot = |reason: String| Error::Device { device: device.into(), reason };
        if !is_ethernet(device).map_err(|error| cannot(format!("{error}; name a device of this host")))? {
            return Err(cannot("it carries no Ethernet frames, so its packets stay in user space".into()));
        }
        for family in self.families() {
            let file = format!("/proc/sys/net/{family}/conf/{device}/forwarding");
            if std::fs::read_to_string(&file).is_ok_and(|value| value.trim() == "0") {
                return Err(cannot(format!(
                    "the host does not forward there: sysctl -w net.{family}.conf.{device}.forwarding=1"
                )));
            }
        }
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let program = self.program("fast_path")?;
        let link = program.attach_with_options(device, TcAttachType::Ingress, first).map_err(|e| cannot(with_causes(&e)))?;
        self.links.insert(device.into(), link);
        Ok(())
    }

    /// Lets the packets of `device` be. A child process that is just being started may hold on to them until it runs its program.
    pub fn detach(&mut self, device: &str) -> Result<(), Error> {
        let Some(link) = self.links.remove(device) else { return Ok(()) };
        self.program("fast_path")?.detach(link).map_err(failed("detach a device"))
    }

    /// The devices that packets are taken from, in order of name.
    pub fn devices(&self) -> Vec<String> {
        let mut devices: Vec<_> = self.links.keys().cloned().collect();
        devices.sort_unstable();
        devices
    }

    fn families(&self) -> impl Iterator<Item = &'static str> + use<> {
        let has = |v6: bool| self.settings.static_ips.iter().any(|ip| ip.is_ipv6() == v6);
        [(has(false), "ipv4"), (has(true), "ipv6")].into_iter().filter_map(|(has, family)| has.then_some(family))
    }
}

/// The devices of this network namespace that are up, without loopback, and their indices: a device that is made anew has another.
pub fn devices() -> io::Result<BTreeMap<String, u32>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: writes the head of a list, which is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = BTreeMap::new();
    let mut next = first;
    // SAFETY: the entries are the kernel's until the list is freed, and so are their names.
    while let Some(entry) = unsafe { next.as_ref() } {
        let has = |flag: libc::c_int| entry.ifa_flags & flag.unsigned_abs() != 0;
        if has(libc::IFF_UP) && !has(libc::IFF_LOOPBACK) {
            // SAFETY: as above.
            let (name, index) = unsafe { (CStr::from_ptr(entry.ifa_name), libc::if_nametoindex(entry.ifa_name)) };
            // A label of an address, such as eth0:1, has no index of its own.
            if index > 0 && !name.to_bytes().contains(&b':') {
                found.insert(name.to_string_lossy().into_owned(), index);
            }
        }
        next = entry.ifa_next;
    }
    // SAFETY: the list that getifaddrs made; nothing refers into it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// Whether the frames of `device` begin with an Ethernet header. Asked of the kernel, because `/sys` may show another network namespace.
fn is_ethernet(device: &str) -> io::Result<bool> {
    let name = CString::new(device)?;
    // SAFETY: an all-zero request is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.as_bytes();
    if bytes.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, &from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    // SAFETY: the request is of the type that this ioctl reads and writes, and outlives the call.
    let result = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCGIFHWADDR, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the ioctl has filled in the hardware address.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr }.sa_family == libc::ARPHRD_ETHER)
}
