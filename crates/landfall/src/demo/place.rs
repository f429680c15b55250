//! A directory for the config and the control socket that goes when the demonstration goes.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use super::DemoError;

/// The longest path of a Unix socket, less the name of ours.
const LONGEST: usize = 107 - "/control.sock".len();
/// Names tried, should somebody have had the same idea.
const TRIES: usize = 100;

/// A temporary directory for this user alone. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// A new one, where temporary files go; in `/tmp` where that would be too long a path for a Unix socket.
    pub(super) fn new() -> Result<Self, DemoError> {
        let mut last = (PathBuf::new(), io::Error::from(io::ErrorKind::AlreadyExists));
        for _ in 0..TRIES {
            let name = format!("landfall-try-{:08x}", fastrand::u32(..));
            let mut path = std::env::temp_dir().join(&name);
            if path.as_os_str().len() > LONGEST || !path.is_absolute() {
                path = Path::new("/tmp").join(&name);
            }
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = (path, error),
                Err(source) => return Err(DemoError::Place { path, source }),
            }
        }
        let (path, source) = last;
        Err(DemoError::Place { path, source })
    }

    pub(super) fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.0.join("landfall.toml")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Err: somebody has removed it already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_with_its_content() {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new().unwrap();
        let path = place.0.clone();
        fs::write(place.config(), "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(place);
        assert!(!path.exists());
    }
}
