//! The state directory: what the daemon generates once and keeps. Directory 0700, files 0600.
//!
//! `version` says how to read the rest, `lock` is held while a daemon runs, `hub.key` signs the
//! hub's credentials, `broadcast.key` admits broadcasters, `acme-*.json` and `self-signed.pem` hold
//! certificates with their keys. Only `turncast run` creates it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{Environment, Loaded, SYSTEM_FILE};
use crate::credentials::Entropy;
use crate::telemetry::Secret;
use crate::turn::Transport;
use crate::web::TurnListener;

/// How the files of this version are to be read.
const VERSION: &str = "1";

/// Random bytes of a broadcast key: 32 characters.
const BROADCAST_KEY_BYTES: usize = 24;

/// What [`keep`] is used for, and that holds a private key.
const KEPT: [&str; 3] = ["acme-account.json", "acme-certificate.json", "self-signed.pem"];

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the configuration nor the environment says where it is.
    #[error("no directory for keys: set state_dir in the configuration, or $HOME")]
    Nowhere,
    /// It does not exist, and this command does not make it.
    #[error("no keys in {} yet: start the daemon once (turncast run), or set state_dir to the \
             directory that it uses", directory.display())]
    Missing {
        /// The directory.
        directory: PathBuf,
    },
    /// Another daemon has the lock.
    #[error("another turncast runs with the state directory {}{}: stop it, or set another \
             state_dir", directory.display(), process)]
    Running {
        /// The directory.
        directory: PathBuf,
        /// ` (process 17)`, when it says so.
        process: String,
    },
    /// It was written by a version that we do not know.
    #[error("{} was written by another version of turncast (layout {found}, this one knows \
             {VERSION}): update turncast, or set another state_dir", directory.display())]
    Version {
        /// The directory.
        directory: PathBuf,
        /// What stands in `version`.
        found: String,
    },
    /// A key file holds something else than a key.
    #[error("{} holds no key: put its backup in place, or remove it and start the daemon again \
             for a new one", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{doing} {}{}", path.display(), right_hint(doing, source))]
    Io {
        /// What we tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Who may read the state directory, for somebody who may not.
fn right_hint(doing: &str, source: &io::Error) -> &'static str {
    match (doing, source.kind()) {
        ("read", ErrorKind::PermissionDenied) => {
            " (run this as root, or as the user of the daemon)"
        }
        _ => "",
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

/// Where the state directory is for this configuration and environment, whether it exists or not.
///
/// # Errors
/// [`Error::Nowhere`].
pub(super) fn directory(loaded: &Loaded, environment: &Environment) -> Result<PathBuf, Error> {
    if let Some(configured) = &loaded.config.state_dir {
        return Ok(match loaded.file.as_deref().and_then(Path::parent) {
            Some(beside) => beside.join(configured),
            None => configured.clone(),
        });
    }
    if let Some(given) = environment.path("STATE_DIRECTORY") {
        // systemd separates several with colons; ours is the first.
        let first = given.to_string_lossy().split(':').next().map(PathBuf::from);
        return Ok(first.unwrap_or(given));
    }
    if loaded.file.as_deref() == Some(Path::new(SYSTEM_FILE)) {
        return Ok(PathBuf::from("/var/lib/turncast"));
    }
    let home = || environment.path("HOME").map(|home| home.join(".local/state"));
    let base = environment.path("XDG_STATE_HOME").or_else(home).ok_or(Error::Nowhere)?;
    Ok(base.join("turncast"))
}

/// The state directory of a running daemon; the lock is given up when it is dropped.
#[derive(Debug)]
pub(super) struct State {
    directory: PathBuf,
    lock: File,
}

impl State {
    /// Makes the directory and what is missing in it, and takes the lock.
    ///
    /// # Errors
    /// [`Error`]; of them [`Error::Running`] when another daemon has it.
    pub(super) fn open(directory: PathBuf, entropy: &mut Entropy) -> Result<Self, Error> {
        if !directory.exists() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&directory).map_err(io_error("create the directory", &directory))?;
        }
        let lock = Self::lock(&directory)?;
        let version = directory.join("version");
        match std::fs::read_to_string(&version) {
            Ok(found) if found.trim() == VERSION => {}
            Ok(found) => {
                return Err(Error::Version { directory, found: found.trim().to_owned() });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                write(&version, &format!("{VERSION}\n"))?;
            }
            Err(error) => return Err(io_error("read", &version)(error)),
        }
        for (name, bytes) in [("hub.key", 32), ("broadcast.key", BROADCAST_KEY_BYTES)] {
            let path = directory.join(name);
            if path.exists() {
                restrict(&path)?;
            } else {
                write(&path, &format!("{}\n", entropy.token(bytes)))?;
            }
        }
        for path in KEPT.map(|name| directory.join(name)) {
            if path.exists() {
                restrict(&path)?;
            }
        }
        Ok(Self { directory, lock })
    }

    fn lock(directory: &Path) -> Result<File, Error> {
        let path = directory.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let process = match lock.read_to_string(&mut text) {
                    Ok(_) => text.lines().next().unwrap_or_default().trim().to_owned(),
                    Err(_) => String::new(),
                };
                let is_number = process.bytes().all(|b| b.is_ascii_digit()) && !process.is_empty();
                let process =
                    if is_number { format!(" (process {process})") } else { String::new() };
                Err(Error::Running { directory: directory.to_owned(), process })
            }
        }
    }

    /// Writes who holds the lock, where its pages are, and where browsers reach its relay, so that
    /// `turncast invite` and `turncast doctor` lead to the daemon that runs.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn announce(&mut self, pages: &str, turn: &[TurnListener]) -> Result<(), Error> {
        use std::io::Seek as _;
        let path = self.directory.join("lock");
        let mut text = format!("{}\n{pages}\n", std::process::id());
        for TurnListener { transport, address } in turn {
            text += &format!("{transport}://{address}\n");
        }
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.rewind())
            .and_then(|()| self.lock.write_all(text.as_bytes()))
            .map_err(io_error("write", &path))
    }

    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The key that signs the hub's credentials.
    ///
    /// # Errors
    /// [`Error::Broken`] when the file holds something else.
    pub(super) fn hub_key(&self) -> Result<Secret<[u8; 32]>, Error> {
        hub_key(&self.directory)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Who reads a stale announcement sees that the process is gone.
        let _ = self.lock.set_len(0);
    }
}

/// The text of a file that [`keep`] wrote; `None` when there is none.
///
/// # Errors
/// What the operating system says.
pub(super) fn kept(directory: &Path, name: &str) -> Result<Option<String>, Error> {
    let path = directory.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path)(error)),
    }
}

/// Keeps a text in a file of the state directory, whole or not at all, with mode 0600.
///
/// # Errors
/// What the operating system says.
pub(super) fn keep(directory: &Path, name: &str, text: &str) -> Result<(), Error> {
    write(&directory.join(name), text)
}

/// Removes a file that [`keep`] wrote, if there is one.
///
/// # Errors
/// What the operating system says.
pub(super) fn forget(directory: &Path, name: &str) -> Result<(), Error> {
    let path = directory.join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// The key that signs the hub's credentials.
///
/// # Errors
/// [`Error::Broken`] when the file holds something else.
pub(super) fn hub_key(directory: &Path) -> Result<Secret<[u8; 32]>, Error> {
    let path = directory.join("hub.key");
    let text = std::fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok().and_then(|b| b.try_into().ok());
    bytes.map(Secret::new).ok_or(Error::Broken { path })
}

/// What a daemon says of itself with [`State::announce`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Running {
    /// Where its pages are; empty without pages.
    pub(super) pages: String,
    /// Where browsers reach its relay.
    pub(super) turn: Vec<TurnListener>,
}

/// What the daemon says of itself that runs with this directory; `None` when none does.
///
/// # Errors
/// What the operating system says when it does not let us look.
pub(super) fn running(directory: &Path) -> Result<Option<Running>, Error> {
    let path = directory.join("lock");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let mut lines = text.lines();
    let (Some(process), Some(pages)) = (lines.next(), lines.next()) else { return Ok(None) };
    let runs = process.bytes().all(|byte| byte.is_ascii_digit())
        && Path::new("/proc").join(process).exists();
    let turn = lines.filter_map(|line| {
        let (scheme, address) = line.split_once("://")?;
        let transport = Transport::ALL.into_iter().find(|known| known.scheme() == scheme)?;
        Some(TurnListener { transport, address: address.parse().ok()? })
    });
    Ok(runs.then(|| Running { pages: pages.to_owned(), turn: turn.collect() }))
}

/// The key that admits broadcasters.
///
/// # Errors
/// [`Error::Missing`] before the first start, [`Error::Broken`] when the file holds something
/// else.
pub(super) fn broadcast_key(directory: &Path) -> Result<Secret<String>, Error> {
    let path = directory.join("broadcast.key");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::Missing { directory: directory.to_owned() });
        }
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let key = text.trim();
    let in_key = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if key.len() < 16 || !key.bytes().all(in_key) {
        return Err(Error::Broken { path });
    }
    Ok(Secret::new(key.to_owned()))
}

/// Replaces the key that admits broadcasters; the old one is worthless when this returns, because
/// the daemon reads the file whenever somebody asks to broadcast.
///
/// # Errors
/// [`Error::Missing`] before the first start, or what the operating system says.
pub(super) fn rotate_broadcast_key(
    directory: &Path,
    entropy: &mut Entropy,
) -> Result<Secret<String>, Error> {
    broadcast_key(directory)?;
    let key = entropy.token(BROADCAST_KEY_BYTES);
    write(&directory.join("broadcast.key"), &format!("{key}\n"))?;
    Ok(Secret::new(key))
}

/// Writes a file whole or not at all, with mode 0600.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let written = || {
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        keep_owner(path, &file);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    written().map_err(io_error("write", path))
}

/// `sudo turncast invite --rotate` must leave a key that the daemon's own user can read.
fn keep_owner(path: &Path, fresh: &File) {
    use std::os::unix::fs::MetadataExt as _;
    let owner = path.metadata().or_else(|_| match path.parent() {
        Some(directory) => directory.metadata(),
        None => Err(ErrorKind::NotFound.into()),
    });
    if let Ok(owner) = owner {
        // Without the right to do so we own the file already, or the daemon will say what fails.
        let _ = std::os::unix::fs::fchown(fresh, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Takes a file that was restored from a backup back to 0600.
fn restrict(path: &Path) -> Result<(), Error> {
    let mode = path.metadata().map_err(io_error("read", path))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(io_error("restrict the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy() -> Entropy {
        Entropy::from_seed([3; 32])
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("it exists").permissions().mode() & 0o777
    }

    fn loaded(text: &str, file: &str) -> Loaded {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(file);
        std::fs::write(&path, text).expect("a file");
        Loaded::read(Some(&path), &Environment::default()).expect("a configuration")
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_directory_is_looked_for_in_the_documented_order() {
        let found = |loaded: &Loaded, variables: &[(&str, &str)]| {
            directory(loaded, &environment(variables)).map(|path| path.display().to_string())
        };
        let none = Loaded::read(None, &Environment::default()).expect("defaults");
        let all = [("STATE_DIRECTORY", "/a:/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(found(&none, &all).expect("systemd's"), "/a");
        assert_eq!(found(&none, &all[1..]).expect("XDG's"), "/x/turncast");
        assert_eq!(found(&none, &all[2..]).expect("home"), "/h/.local/state/turncast");
        assert!(matches!(found(&none, &[]), Err(Error::Nowhere)));
        let own = loaded("state_dir = \"/own\"\n", "t.toml");
        assert_eq!(found(&own, &all).expect("the configured one"), "/own");
        let mut system = none;
        system.file = Some(SYSTEM_FILE.into());
        assert_eq!(found(&system, &all[1..]).expect("the system's"), "/var/lib/turncast");
    }

    #[test]
    fn what_is_missing_is_generated_once_and_private() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("deep/state");
        let mut entropy = entropy();
        let state = State::open(directory.clone(), &mut entropy).expect("a new directory");
        let hub = state.hub_key().expect("a key");
        let key = broadcast_key(&directory).expect("a key");
        assert_eq!(mode(&directory), 0o700);
        for name in ["version", "lock", "hub.key", "broadcast.key"] {
            assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
        }
        drop(state);
        let path = directory.join("broadcast.key");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
        let state = State::open(directory.clone(), &mut entropy).expect("the same directory");
        assert!(state.hub_key().expect("a key") == hub);
        assert!(broadcast_key(&directory).expect("a key") == key);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_second_daemon_is_refused_in_one_sentence() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_owned();
        let mut first = State::open(path.clone(), &mut entropy()).expect("the first");
        let turn = TurnListener {
            transport: Transport::Tls,
            address: "[::1]:5349".parse().expect("an address"),
        };
        first.announce("http://localhost:1", &[turn]).expect("written");
        let error = State::open(path.clone(), &mut entropy()).expect_err("the second");
        let text = error.to_string();
        let process = format!("(process {})", std::process::id());
        assert!(text.starts_with("another turncast runs") && text.contains(&process), "{text}");
        let said = Running { pages: "http://localhost:1".to_owned(), turn: vec![turn] };
        assert_eq!(running(&path).expect("it can be read"), Some(said));
        drop(first);
        assert_eq!(running(&path).expect("it can be read"), None);
        State::open(path, &mut entropy()).expect("the lock is free again");
    }

    #[test]
    fn rotating_replaces_the_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert!(matches!(rotate_broadcast_key(path, &mut entropy()), Err(Error::Missing { .. })));
        let _state = State::open(path.to_owned(), &mut entropy()).expect("a directory");
        let old = broadcast_key(path).expect("a key");
        let new = rotate_broadcast_key(path, &mut Entropy::from_seed([4; 32])).expect("rotated");
        assert!(old != new && broadcast_key(path).expect("a key") == new);
        assert_eq!(mode(&path.join("broadcast.key")), 0o600);
    }

    #[test]
    fn broken_files_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let state = State::open(path.to_owned(), &mut entropy()).expect("a directory");
        std::fs::write(path.join("hub.key"), "short\n").expect("written");
        std::fs::write(path.join("broadcast.key"), "").expect("written");
        assert!(matches!(state.hub_key(), Err(Error::Broken { .. })));
        assert!(matches!(broadcast_key(path), Err(Error::Broken { .. })));
        drop(state);
        std::fs::write(path.join("version"), "7\n").expect("written");
        let error = State::open(path.to_owned(), &mut entropy()).expect_err("another version");
        assert!(error.to_string().contains("layout 7, this one knows 1"), "{error}");
    }
}
