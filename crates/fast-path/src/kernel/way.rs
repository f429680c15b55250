//! By which device packets to an endpoint leave, asked of the kernel as the program asks for each packet.

use std::{ffi::CString, net::IpAddr};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use super::{FastPath, failed, layout};
use crate::Error;

/// An Ethernet header, without which no frame is run.
const HEADER: usize = 14;

impl FastPath {
    /// The index of the device by which datagrams leave for `endpoint`; `None` where there is no way, or nothing is attached.
    pub fn way_to(&mut self, endpoint: IpAddr) -> Result<Option<u32>, Error> {
        let Some(device) = self.devices().first().and_then(|device| index(device)) else { return Ok(None) };
        let source = self.nat_addresses.iter().chain(&self.settings.static_ips).find(|ip| ip.is_ipv6() == endpoint.is_ipv6());
        let Some(&source) = source else { return Ok(None) };
        // `struct way_question`.
        let mut frame = vec![0; HEADER];
        frame.extend_from_slice(&layout::address(source));
        frame.extend_from_slice(&layout::address(endpoint));
        frame.extend_from_slice(&device.to_ne_bytes());
        frame.extend_from_slice(&u32::from(endpoint.is_ipv6()).to_ne_bytes());
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let program: &mut SchedClassifier = self.program("way_to")?;
        let result = program.test_run(options).map_err(failed("ask for the way to an endpoint"))?;
        Ok((result.return_value > 0).then_some(result.return_value))
    }
}

fn index(device: &str) -> Option<u32> {
    let name = CString::new(device).ok()?;
    // SAFETY: reads a string that ends with a zero byte.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|&index| index > 0)
}
