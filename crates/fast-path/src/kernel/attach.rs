//! Devices: where packets are taken from.

use std::{collections::BTreeMap, ffi::CStr, io};

use aya::programs::{
    LinkOrder, SchedClassifier,
    tc::{TcAttachOptions, TcAttachType},
};

use super::{FastPath, failed, netdev, with_causes};
use crate::Error;

impl FastPath {
    /// Takes packets from `device` (TCX, at ingress) until it is detached or this process ends, however it ends.
    pub fn attach(&mut self, device: &str) -> Result<(), Error> {
        if self.links.contains_key(device) {
            return Ok(());
        }
        let cannot = |reason: String| Error::Device { device: device.into(), reason };
        if netdev::ethernet(device).map_err(|error| cannot(format!("{error}; name a device of this host")))?.is_none() {
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
        let program: &mut SchedClassifier = self.program("fast_path")?;
        let link = program.attach_with_options(device, TcAttachType::Ingress, first).map_err(|e| cannot(with_causes(&e)))?;
        self.links.insert(device.into(), link);
        // Err: XDP on another device leaves to TCX what goes out here.
        let _ = self.follow(device);
        Ok(())
    }

    /// Lets the packets of `device` be. A child process that is just being started may hold on to them until it runs its program.
    pub fn detach(&mut self, device: &str) -> Result<(), Error> {
        let Some(link) = self.links.remove(device) else { return Ok(()) };
        self.detach_xdp(device);
        if let Some(index) = self.xdp_ports.remove(device) {
            // Err: it went with the device.
            let _ = self.xdp_maps.ports.remove(index);
        }
        let program: &mut SchedClassifier = self.program("fast_path")?;
        program.detach(link).map_err(failed("detach a device"))
    }

    /// Whether packets of `device` still come to the program: someone may have detached it, or the device was made anew.
    pub fn is_attached(&self, device: &str) -> bool {
        let Some(Ok(program)) = self.ebpf.program("fast_path").map(<&SchedClassifier>::try_from) else {
            return false;
        };
        let (Ok(info), Ok((_, there))) = (program.info(), SchedClassifier::query_tcx(device, TcAttachType::Ingress)) else {
            return false;
        };
        self.links.contains_key(device) && there.iter().any(|other| other.id() == info.id())
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
