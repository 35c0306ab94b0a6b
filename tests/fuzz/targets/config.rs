//! The configuration file.

use turncast::config::{Environment, Error, Loaded};

/// A file with the input. What is refused is explained, and names the file.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("turncast.toml");
    std::fs::write(&path, text).expect("a file in it");
    match Loaded::read(Some(&path), &Environment::default()) {
        Ok(loaded) => assert_eq!(loaded.file.as_deref(), Some(path.as_path())),
        Err(Error::Invalid(explained)) => {
            assert!(explained.contains("turncast.toml:"), "no place in: {explained}");
        }
        Err(error) => panic!("a file that exists can be read: {error}"),
    }
}
