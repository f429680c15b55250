//! Ethernet frames sent as they are, past the sender's own IP stack.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use crate::lab::Namespace;
use crate::{Failure, Result};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A device of a namespace that frames leave from.
pub struct Device {
    socket: Socket,
    address: libc::sockaddr_ll,
    /// Its Ethernet address.
    pub mac: Mac,
}

impl Device {
    /// Opens `device` of `namespace`. Frames leave past its queue, so none waits there or is dropped by it.
    ///
    /// # Errors
    /// Without root, or when there is no such device.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        let text = namespace.run(["ip", "-json", "link", "show", device])?;
        let wrong = |cause: String| Failure::new("open", format_args!("the device {device}"), cause, "run the lab as root");
        let shown: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let index = shown[0]["ifindex"].as_i64().and_then(|index| libc::c_int::try_from(index).ok());
        let digits = shown[0]["address"].as_str().unwrap_or_default();
        let bytes: Vec<u8> = digits.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let (Some(index), Ok(mac)) = (index, Mac::try_from(bytes)) else { return Err(wrong(format!("ip says: {text}"))) };
        // No protocol: it hears nothing.
        let socket = namespace.enter(|| -> io::Result<Socket> {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            crate::sockets::set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
            Ok(socket)
        });
        let socket = socket.map_err(|error| wrong(error.to_string()))?;
        // SAFETY: all zeroes is a valid address of this plain type.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_ifindex = index;
        Ok(Self { socket, address, mac })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the device does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.send_all(&[frame])
    }

    /// Sends frames in one call, all of them.
    ///
    /// # Errors
    /// When the device does not take one; those before it have left.
    pub fn send_all(&self, frames: &[&[u8]]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(mem::size_of_val(&self.address)).map_err(io::Error::other)?;
        let mut address = self.address;
        let part = |frame: &&[u8]| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        let mut parts: Vec<_> = frames.iter().map(part).collect();
        let mut messages: Vec<_> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all zeroes is a valid message of this plain type.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_name = (&raw mut address).cast();
                message.msg_hdr.msg_namelen = length;
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut sent = 0;
        while sent < messages.len() {
            let left = &mut messages[sent..];
            let count = libc::c_uint::try_from(left.len()).map_err(io::Error::other)?;
            // SAFETY: everything that the messages point to outlives the call, and sending only reads it.
            let taken = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), left.as_mut_ptr(), count, 0) };
            sent += usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(())
    }
}
