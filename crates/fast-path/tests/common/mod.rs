//! What the tests share.

#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "every test binary uses its own part, and panics where it fails")]

pub mod bed;
pub mod cases;
pub mod frame;
pub mod hosts;
pub mod tables;
pub mod world;
