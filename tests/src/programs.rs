//! Where the programs under test are.

use std::path::PathBuf;

use crate::{Failure, Result};

/// The `landfall` binary: `LANDFALL_BIN` if set, else the one built beside this test.
///
/// # Errors
/// When there is none.
pub fn landfall() -> Result<PathBuf> {
    find("landfall", "LANDFALL_BIN")
}

/// The `test-endpoint` binary: `LANDFALL_TEST_ENDPOINT` if set, else the one built beside this test.
///
/// # Errors
/// When there is none.
pub fn test_endpoint() -> Result<PathBuf> {
    find("test-endpoint", "LANDFALL_TEST_ENDPOINT")
}

fn find(program: &str, variable: &str) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => beside_this_test(program)?,
    };
    if path.is_file() {
        return Ok(path);
    }
    let cure = format!("run tests/run, which builds it, or set {variable} to a built one");
    Err(Failure::new("find the program", program, format_args!("{} is no file", path.display()), cure))
}

/// Test executables lie in `target/PROFILE/deps`, programs one directory up.
fn beside_this_test(program: &str) -> Result<PathBuf> {
    let test =
        std::env::current_exe().map_err(|error| Failure::new("find", "the running test executable", error, "mount /proc"))?;
    let directory = test.parent().map(|directory| match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().unwrap_or(directory),
        _ => directory,
    });
    Ok(directory.map(|directory| directory.join(program)).unwrap_or_default())
}
