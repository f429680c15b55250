//! Where programs of Landfall's are attached in this network namespace, whoever attached them. Each attachment is a link that a process
//! has open, and nothing else holds one: the descriptors of processes show them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use aya::programs::loaded_programs;

use super::{attach, failed};
use crate::{Attachment, Error};

/// Programs that are attached, by their names in the kernel.
const PROGRAMS: [&str; 3] = ["fast_path", "fast_path_xdp", "choose_socket"];

/// `BPF_LINK_GET_FD_BY_ID`, `BPF_LINK_DETACH` of `<linux/bpf.h>`.
const GET_LINK: libc::c_long = 30;
const DETACH_LINK: libc::c_long = 34;

/// All that are attached now, by process. Needs the privilege to look at programs and at other processes' descriptors.
pub fn attachments() -> Result<Vec<Attachment>, Error> {
    let look = failed::<io::Error>("look for attachments");
    let programs = programs()?;
    let devices: BTreeMap<u32, String> =
        attach::devices().map_err(&look)?.into_iter().map(|(name, index)| (index, name)).collect();
    let here = fs::read_link("/proc/self/ns/net").map_err(&look)?;
    let mut found = BTreeSet::new();
    for process in fs::read_dir("/proc").map_err(&look)?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ends meanwhile has no link any more.
        if fs::read_link(process.path().join("ns/net")).ok().as_ref() != Some(&here) {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else { continue };
        let texts = descriptors.flatten().filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
        found.extend(texts.filter_map(|text| link(&text, pid, &programs, &devices)));
    }
    Ok(found.into_iter().collect())
}

/// The attachment that a descriptor is, by what the kernel says of the descriptor.
fn link(text: &str, process: u32, programs: &BTreeMap<u32, String>, devices: &BTreeMap<u32, String>) -> Option<Attachment> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |name: &str| field(name)?.parse::<u32>().ok();
    let kind = field("link_type")?.to_owned();
    let program = programs.get(&number("prog_id")?)?.clone();
    let device = match number("ifindex").or_else(|| number("netns_ino").filter(|&namespace| namespace == 0)) {
        // Its device or namespace is gone, or it was detached.
        Some(0) => return None,
        Some(index) => Some(devices.get(&index).cloned().unwrap_or_else(|| format!("number {index}"))),
        None => None,
    };
    Some(Attachment { process, link: number("link_id")?, kind, program, device })
}

/// The names of Landfall's programs by their numbers.
fn programs() -> Result<BTreeMap<u32, String>, Error> {
    let mut programs = BTreeMap::new();
    for program in loaded_programs() {
        let program = program.map_err(failed("look at a program"))?;
        if let Some(name) = program.name_as_str().filter(|name| PROGRAMS.contains(name)) {
            programs.insert(program.id(), name.to_owned());
        }
    }
    Ok(programs)
}

impl Attachment {
    /// Takes the packets away from the program, whatever its process does. A process that runs attaches it again.
    pub fn detach(&self) -> Result<(), Error> {
        let Some(link) = open(self.link).map_err(failed("find an attachment"))? else { return Ok(()) };
        let mut request = [0u32; 4];
        request[0] = link.as_raw_fd().cast_unsigned();
        bpf(DETACH_LINK, &request).map(drop).map_err(failed("detach a program"))
    }
}

/// The link, unless it is gone by now.
fn open(link: u32) -> io::Result<Option<OwnedFd>> {
    match bpf(GET_LINK, &[link, 0, 0, 0]) {
        // SAFETY: a descriptor that the kernel has made just now, and that is nobody else's.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bpf(command: libc::c_long, request: &[u32; 4]) -> io::Result<i32> {
    // SAFETY: reads the request, of the length that is given; neither command writes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, request.as_ptr(), size_of_val(request)) };
    i32::try_from(result).ok().filter(|&result| result >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_detached_is_attached_nowhere() {
        let programs = BTreeMap::from([(7, "fast_path".to_owned()), (8, "choose_socket".to_owned())]);
        let devices = BTreeMap::from([(2, "eth0".to_owned())]);
        let place = |kind: &str, program: u32, place: &str| {
            let text = format!("pos:\t0\nlink_type:\t{kind}\nlink_id:\t3\nprog_id:\t{program}\n{place}\n");
            link(&text, 1, &programs, &devices).map(|attachment| (attachment.program, attachment.device))
        };
        let (packets, sockets) = ("fast_path".to_owned(), "choose_socket".to_owned());
        assert_eq!(place("tcx", 7, "ifindex:\t2"), Some((packets.clone(), Some("eth0".to_owned()))));
        assert_eq!(place("tcx", 7, "ifindex:\t4"), Some((packets, Some("number 4".to_owned()))));
        assert_eq!(place("tcx", 7, "ifindex:\t0"), None);
        assert_eq!(place("netns", 8, "netns_ino:\t4026531840"), Some((sockets, None)));
        assert_eq!(place("netns", 8, "netns_ino:\t0"), None);
        assert_eq!(place("netns", 9, "netns_ino:\t4026531840"), None, "another's program");
    }
}
