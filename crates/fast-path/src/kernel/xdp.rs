//! Native XDP before TCX: on a NIC it carries the common packet at a fraction of the cost.

use std::{ffi::CString, io};

use aya::{
    maps::{MapData, xdp::DevMapHash},
    programs::{Xdp, XdpMode, links::FdLink},
};

use super::{
    FastPath, KernelArray, failed,
    layout::{DEVICE_SENDS, DEVICE_TAKEN, DEVICES, Device},
    netdev, with_causes,
};
use crate::Error;

/// Drivers of devices that are no hardware. Frames that a program of this host has sent arrive there, and their checksums may still have
/// to be completed, by a device that never comes: XDP cannot see that and would send them on broken. Only skbs come by them anyway, which
/// native XDP has to take apart and have put together again, so that it is the slower path there. Drivers are listed by what they
/// are not, because NICs are many and these are few; what neither is nor runs programs refuses by itself.
const NO_HARDWARE: &[&str] = &[
    "",
    "802.1Q VLAN Support",
    "bareudp",
    "bonding",
    "bridge",
    "dummy",
    "geneve",
    "ifb",
    "ip_gre",
    "ip6_gre",
    "ipvlan",
    "l2tp_eth",
    "macsec",
    "macvlan",
    "netkit",
    "nlmon",
    "openvswitch",
    "team",
    "tun",
    "veth",
    "vrf",
    "vxlan",
    "xfrmi",
];

/// A device that XDP leaves alone.
const NOBODY: Device = Device { mac: [0; 6], flags: 0 };

/// What there is of XDP on a device.
pub(super) struct Attached {
    /// Lets go when it is dropped.
    _link: FdLink,
    index: u32,
    /// What the kernel has of it.
    device: Device,
}

/// The maps that say which devices take part.
pub(super) struct XdpMaps {
    pub devices: KernelArray<Device>,
    pub ports: DevMapHash<MapData>,
}

impl FastPath {
    /// Puts native XDP before TCX on a device that is attached; both stay. Refused where its driver or its settings do not let it; then
    /// nothing has changed.
    pub fn attach_xdp(&mut self, name: &str) -> Result<(), Error> {
        if !self.links.contains_key(name) || self.xdp.contains_key(name) {
            return Ok(());
        }
        let cannot = |reason: String| Error::Device { device: name.into(), reason };
        let (index, device) = look(name, true).map_err(|error| cannot(error.to_string()))?;
        if index >= DEVICES {
            return Err(cannot(format!("the kernel counts it as number {index}, and XDP knows those below {DEVICES}")));
        }
        self.xdp_maps.devices.set(index, device, 0).map_err(failed("name a device to XDP"))?;
        let program: &mut Xdp = self.program("fast_path_xdp")?;
        let link = program.attach_to_if_index(index, XdpMode::Driver).and_then(|id| program.take_link(id));
        // Another kind of link would outlive this process.
        let link = link.map_err(|error| with_causes(&error)).and_then(|link| {
            FdLink::try_from(link).map_err(|_| "the kernel refuses a link that goes with this process".to_owned())
        });
        match link {
            Ok(link) => {
                self.xdp.insert(name.into(), Attached { _link: link, index, device });
                self.follow(name)
            }
            Err(reason) => {
                let _ = self.xdp_maps.devices.set(index, NOBODY, 0);
                Err(cannot(format!("its driver takes no native XDP program: {reason}")))
            }
        }
    }

    /// Leaves the packets of `name` to TCX alone.
    pub fn detach_xdp(&mut self, name: &str) {
        if let Some(attached) = self.xdp.remove(name) {
            // Err: nobody reads it without the link.
            let _ = self.xdp_maps.devices.set(attached.index, NOBODY, 0);
        }
    }

    /// Whether XDP takes packets from `name`.
    pub fn has_xdp(&self, name: &str) -> bool {
        self.xdp.contains_key(name)
    }

    /// Has XDP know an attached device as it is now: its address, and whether it takes frames from other devices. To be called now and then.
    pub fn follow(&mut self, name: &str) -> Result<(), Error> {
        let cannot = |error: io::Error| Error::Device { device: name.into(), reason: error.to_string() };
        let (index, device) = look(name, false).map_err(cannot)?;
        if let Some(attached) = self.xdp.get_mut(name).filter(|attached| attached.index == index && attached.device != device) {
            self.xdp_maps.devices.set(index, device, 0).map_err(failed("name a device to XDP"))?;
            attached.device = device;
        }
        let takes = netdev::xdp_features(index).map_err(cannot)?.takes_frames();
        if takes && !self.xdp_ports.contains_key(name) {
            let result = self.xdp_maps.ports.insert(index, index, None, 0);
            result.map_err(|error| cannot(io::Error::other(with_causes(&error))))?;
            self.xdp_ports.insert(name.into(), index);
        } else if !takes && self.xdp_ports.remove(name).is_some() {
            // Err: it went with the device.
            let _ = self.xdp_maps.ports.remove(index);
        }
        Ok(())
    }
}

/// Why native XDP is not worth while on `device`, or would get packets wrong; `None` where it is for a NIC to say.
pub fn unfit_for_xdp(device: &str) -> io::Result<Option<String>> {
    let driver = netdev::driver(device)?;
    if NO_HARDWARE.contains(&driver.as_str()) {
        let driver = if driver.is_empty() { "without a driver".to_owned() } else { format!("of the driver {driver}") };
        return Ok(Some(format!("it is a device {driver}, where TCX is faster and XDP may meet unfinished checksums")));
    }
    // Its hardware may have taken the tag off: XDP would take a frame of the VLAN for one of the device itself.
    if netdev::has_vlans(device) {
        return Ok(Some("it has VLAN devices, whose frames XDP cannot tell from its own".to_owned()));
    }
    Ok(None)
}

/// The device as XDP is to know it. `new`: a program is about to be put there.
fn look(name: &str, new: bool) -> io::Result<(u32, Device)> {
    let mac = netdev::ethernet(name)?.ok_or_else(|| io::Error::other("it carries no Ethernet frames"))?;
    let name = CString::new(name)?;
    // SAFETY: a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let features = netdev::xdp_features(index)?;
    if new && !features.runs_programs() {
        return Err(io::Error::other("its driver runs no XDP programs"));
    }
    // What a veth sends back is lost unless the other end takes frames. A NIC sends on a wire.
    let sends = features.takes_frames() || netdev::driver(&name.to_string_lossy())? != "veth";
    Ok((index, Device { mac, flags: DEVICE_TAKEN | if sends { DEVICE_SENDS } else { 0 } }))
}
