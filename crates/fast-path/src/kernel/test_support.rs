//! What the tests need besides the interface: another object, and packets run through the program without a device.

use std::{io, time::Duration};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};

use super::{
    FastPath, failed,
    layout::{FlowKey, FlowRef},
};
use crate::{Error, Settings, Unavailable};

/// A frame after the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `TC_ACT_*` as the kernel counts them.
    pub action: i32,
    /// The frame.
    pub frame: Vec<u8>,
    /// The mean of all repetitions.
    pub duration: Duration,
}

/// Loads another object than the one that is embedded.
pub fn load(object: &[u8], settings: Settings) -> Result<FastPath, Unavailable> {
    FastPath::load_object(object, settings)
}

/// Runs `frame` through the program as if device number `ifindex` had received it, `repeat` times.
pub fn run(fast_path: &FastPath, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Verdict, Error> {
    // The beginning of `struct __sk_buff`; the number of the device is its eleventh word.
    let mut context = [0; 44];
    context[40..].copy_from_slice(&ifindex.to_ne_bytes());
    let mut out = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    };
    let result = program(fast_path)?.test_run(options).map_err(failed("run a frame"))?;
    out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
    Ok(Verdict { action: result.return_value.cast_signed(), frame: out, duration: result.duration })
}

/// The epoch of ways out, after all that the kernel has changed up to now.
pub fn epoch(fast_path: &FastPath) -> Result<u32, Error> {
    fast_path.notices.take().map_err(failed("take in changes of routes"))
}

/// The epoch of ways out as it is: nothing is taken in for the sake of the question.
pub fn epoch_unasked(fast_path: &FastPath) -> u32 {
    fast_path.notices.epoch()
}

/// As [`run`], through the program that XDP runs; the action is an `XDP_*`. The device must have it attached.
pub fn run_xdp(fast_path: &FastPath, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Verdict, Error> {
    // `struct xdp_md`: where the frame begins and ends, and the device.
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let context: Vec<u8> = [0, length, 0, ifindex, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let mut out = vec![0; frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    };
    let program: Option<&Xdp> = fast_path.ebpf.program("fast_path_xdp").and_then(|program| program.try_into().ok());
    let program = program.ok_or_else(|| failed("find the program")(io::Error::from(io::ErrorKind::NotFound)))?;
    let result = program.test_run(options).map_err(failed("run a frame"))?;
    out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
    Ok(Verdict { action: result.return_value.cast_signed(), frame: out, duration: result.duration })
}

/// Has the kernel time every program until what is given is dropped.
pub fn time_programs() -> Result<std::os::fd::OwnedFd, Error> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .map_err(|error| failed("have programs timed")(io::Error::other(super::with_causes(&error))))
}

/// How many transparent flows replies would find.
pub fn claims(fast_path: &FastPath) -> Result<usize, Error> {
    let map = fast_path.ebpf.map("reply_refs").ok_or_else(|| failed("find a map")(io::Error::from(io::ErrorKind::NotFound)))?;
    let map: aya::maps::HashMap<_, FlowKey, FlowRef> = map.try_into().map_err(failed("read a map"))?;
    Ok(map.keys().count())
}

fn program(fast_path: &FastPath) -> Result<&SchedClassifier, Error> {
    let program = fast_path.ebpf.program("fast_path").and_then(|program| program.try_into().ok());
    program.ok_or_else(|| failed("find the program")(io::Error::from(io::ErrorKind::NotFound)))
}
