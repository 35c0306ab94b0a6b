//! The pages and what belongs to them: embedded in the binary, or from a directory of the
//! operator that goes before it.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::Bytes;
use ring::digest;
use rust_embed::RustEmbed;
use tracing::warn;

/// The files of `static/`, in debug builds too: the binary works wherever it is put.
#[derive(RustEmbed)]
#[folder = "static/"]
#[allow_missing = true]
struct Embedded;

/// One file, ready to be sent.
#[derive(Debug)]
pub(super) struct Asset {
    pub(super) body: Bytes,
    /// With its quotes.
    pub(super) etag: String,
    pub(super) content_type: &'static str,
}

/// Where files come from.
pub(super) struct Assets {
    /// Canonical, so that what leads out of it can be told.
    directory: Option<PathBuf>,
}

impl Assets {
    /// The embedded files, with those of `directory` before them.
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        let directory = directory.and_then(|path| match path.canonicalize() {
            Ok(path) => Some(path),
            Err(err) => {
                warn!(%err, "web.static_dir cannot be read; the built-in pages are served");
                None
            }
        });
        Self { directory }
    }

    /// The file at `path`, which is relative and as the URL spells it.
    pub(super) fn find(&self, path: &str) -> Option<Asset> {
        if !is_plain(path) {
            return None;
        }
        let content_type = content_type(path);
        if let Some(body) = self.directory.as_deref().and_then(|root| from_directory(root, path)) {
            let hash = digest::digest(&digest::SHA256, &body);
            return Some(Asset { etag: etag(hash.as_ref()), body, content_type });
        }
        let file = Embedded::get(path)?;
        let etag = etag(&file.metadata.sha256_hash());
        let body = match file.data {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        Some(Asset { body, etag, content_type })
    }
}

/// Whether every step of the path is an ordinary file name. No step may begin with a dot, so
/// none leads upwards and nothing hidden is shown.
fn is_plain(path: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    path.len() <= PATH_BYTES_MAX
        && path
            .split('/')
            .all(|step| !step.is_empty() && !step.starts_with('.') && step.bytes().all(good))
}

/// Reads a file below `root`; a link that leads out of it, a device or a huge file is not there.
fn from_directory(root: &Path, path: &str) -> Option<Bytes> {
    let found = root.join(path).canonicalize().ok()?;
    if !found.starts_with(root) {
        return None;
    }
    let kind = fs::metadata(&found).ok()?;
    if !kind.is_file() || kind.len() > FILE_BYTES_MAX {
        return None;
    }
    fs::read(&found).ok().map(Bytes::from)
}

fn etag(hash: &[u8]) -> String {
    let short = hash.get(..16).unwrap_or(hash);
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(short))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

const PATH_BYTES_MAX: usize = 256;
/// A file of `web.static_dir` is read whole.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_not_plain_lead_nowhere() {
        for bad in [
            "",
            "/",
            "..",
            "../Cargo.toml",
            "a/../b",
            "a//b",
            "a/",
            "/etc/passwd",
            ".git",
            "a/.b",
            "a\\b",
            "a%2e",
            "a\0b",
            "a b",
            "é",
        ] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_plain("index.html") && is_plain("lib/a-b_c.min.js"));
        assert!(!is_plain(&"a".repeat(257)));
    }

    #[test]
    fn a_directory_goes_before_the_embedded_pages_but_not_out_of_itself() {
        let outside = tempfile::tempdir().expect("a directory");
        let inside = tempfile::tempdir().expect("a directory");
        fs::write(outside.path().join("secret.txt"), "secret").expect("a file");
        fs::write(inside.path().join("mine.css"), "body {}").expect("a file");
        let link = |to: &Path, name: &str| {
            std::os::unix::fs::symlink(to, inside.path().join(name)).expect("a link");
        };
        link(&outside.path().join("secret.txt"), "out.txt");
        link(outside.path(), "away");
        link(&inside.path().join("mine.css"), "alias.css");
        let assets = Assets::new(Some(inside.path().to_owned()));
        let mine = assets.find("mine.css").expect("the file");
        assert_eq!(
            (&mine.body[..], mine.content_type),
            (&b"body {}"[..], "text/css; charset=utf-8")
        );
        assert_eq!(assets.find("alias.css").expect("a link inside").etag, mine.etag);
        assert!(assets.find("out.txt").is_none());
        assert!(assets.find("away/secret.txt").is_none());
        fs::write(inside.path().join("mine.css"), "body { }").expect("a file");
        assert_ne!(assets.find("mine.css").expect("the file").etag, mine.etag);
    }

    #[test]
    fn a_pipe_or_a_huge_file_is_not_served() {
        let inside = tempfile::tempdir().expect("a directory");
        let huge = fs::File::create(inside.path().join("huge.bin")).expect("a file");
        huge.set_len(FILE_BYTES_MAX + 1).expect("a sparse file");
        fs::create_dir(inside.path().join("folder")).expect("a folder");
        let assets = Assets::new(Some(inside.path().to_owned()));
        assert!(assets.find("huge.bin").is_none());
        assert!(assets.find("folder").is_none());
    }
}
