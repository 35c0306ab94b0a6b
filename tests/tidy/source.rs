//! Source files as text, with what is not code blanked out.
//!
//! A blanked text has the same length and the same lines as the original, so that an offset in one
//! is an offset in the other. This is no parser: it knows comments, literals and brackets, which
//! is what the rules need.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file of the repository.
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The code alone: comments and the inside of literals are spaces.
    pub(crate) code: String,
}

impl Source {
    /// A file with this content; the name's ending says the language.
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let code = if path.ends_with(".rs") {
            Blanker::new(&text).rust()
        } else if is_script(&path) {
            Blanker::new(&text).script()
        } else {
            text.clone()
        };
        Self { path, text, code }
    }

    /// The line of an offset, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.code.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// `path:line` of an offset.
    pub(crate) fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path, self.line(offset))
    }

    /// The code without its `#[cfg(test)]` modules.
    pub(crate) fn production(&self) -> String {
        let mut code = self.code.clone().into_bytes();
        for block in test_blocks(&self.code) {
            blank(&mut code[block]);
        }
        String::from_utf8(code).expect("blanks stand for whole regions between ASCII marks")
    }

    /// How many lines the `#[cfg(test)]` modules take.
    pub(crate) fn test_lines(&self) -> usize {
        let lines = |block: Range<usize>| self.code[block].matches('\n').count() + 1;
        test_blocks(&self.code).into_iter().map(lines).sum()
    }
}

/// Whether the file is JavaScript.
pub(crate) fn is_script(path: &str) -> bool {
    path.ends_with(".js") || path.ends_with(".mjs")
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of ours below `folder`, in order of names. What is built or installed there is
/// not ours.
pub(crate) fn files_below(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The Rust files of `src/`.
pub(crate) fn crate_files() -> Vec<Source> {
    let files: Vec<_> =
        files_below("src").into_iter().filter(|file| file.path.ends_with(".rs")).collect();
    assert!(files.len() > 10, "src/ was not found");
    files
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    const NOT_OURS: [&str; 6] = [".git", "target", "node_modules", "out", "corpus", "artifacts"];
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !NOT_OURS.contains(&name.as_str()) {
                collect(&path, found);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(root()).expect("below the root");
            found.push(Source::new(relative.to_string_lossy(), text));
        }
    }
}

/// The path of a module below `src/`: `src/turn/method/mod.rs` is `["turn", "method"]`.
pub(crate) fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The modules that exist for tests only, because their parent declares them so.
pub(crate) fn test_only_modules(files: &[Source]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for file in files {
        for block in test_blocks(&file.code) {
            let declared = file.code[block].trim_end();
            if let Some(declaration) = declared.strip_suffix(';') {
                let name = declaration.rsplit(char::is_whitespace).next().unwrap_or_default();
                let mut module = module_path(&file.path);
                module.push(name.to_owned());
                found.push(module);
            }
        }
    }
    found
}

/// Each `#[cfg(test)]` module, from the attribute to its closing brace or semicolon.
fn test_blocks(code: &str) -> Vec<Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices(MARK) {
        let item = &code[start + MARK.len()..];
        let Some(end) = item.find([';', '{']) else { continue };
        let is_module = words(&item[..end]).any(|(_, word)| word == "mod");
        if !is_module || blocks.last().is_some_and(|last| start < last.end) {
            continue;
        }
        let opening = start + MARK.len() + end;
        let closing = if code.as_bytes()[opening] == b'{' {
            matching(code, opening).unwrap_or(code.len() - 1)
        } else {
            opening
        };
        blocks.push(start..closing + 1);
    }
    blocks
}

/// The identifiers of a code, with their offsets; numbers are none.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        loop {
            let start = rest + code[rest..].find(is_word)?;
            let len = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
            rest = start + len;
            if !code.as_bytes()[start].is_ascii_digit() {
                return Some((start, &code[start..rest]));
            }
        }
    })
}

/// Whether `c` can stand in an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The offset of the bracket that closes the one at `opening`.
pub(crate) fn matching(code: &str, opening: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(opening) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(offset);
                }
            }
            _ => {}
        }
    }
    None
}

/// The parts of `code` between commas that stand in no bracket, with their offsets.
pub(crate) fn split_commas(code: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (offset, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push((start, &code[start..offset]));
                start = offset + 1;
            }
            _ => {}
        }
    }
    parts.push((start, &code[start..]));
    parts.retain(|(_, part)| !part.trim().is_empty());
    parts
}

fn blank(region: &mut [u8]) {
    for byte in region {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Goes through a text once and blanks what is not code.
struct Blanker {
    bytes: Vec<u8>,
    next: usize,
}

impl Blanker {
    fn new(text: &str) -> Self {
        Self { bytes: text.as_bytes().to_vec(), next: 0 }
    }

    fn finish(self) -> String {
        String::from_utf8(self.bytes).expect("regions begin and end at ASCII characters")
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.next..]
    }

    /// Blanks the next `len` bytes, but for `front` and `back` bytes at their ends.
    fn take(&mut self, len: usize, (front, back): (usize, usize)) {
        let end = (self.next + len).min(self.bytes.len());
        let (from, to) = ((self.next + front).min(end), end.saturating_sub(back));
        if from < to {
            blank(&mut self.bytes[from..to]);
        }
        self.next = end;
    }

    /// Blanks a comment, if one starts here.
    fn comment(&mut self, nested: bool) -> bool {
        if self.rest().starts_with(b"//") {
            let len = self.rest().iter().position(|b| *b == b'\n').unwrap_or(self.rest().len());
            self.take(len, (0, 0));
            return true;
        }
        if !self.rest().starts_with(b"/*") {
            return false;
        }
        let (mut len, mut depth) = (2, 1);
        while depth > 0 && len < self.rest().len() {
            let rest = &self.rest()[len..];
            if rest.starts_with(b"*/") {
                (len, depth) = (len + 2, depth - 1);
            } else if nested && rest.starts_with(b"/*") {
                (len, depth) = (len + 2, depth + 1);
            } else {
                len += 1;
            }
        }
        self.take(len, (0, 0));
        true
    }

    /// Blanks a literal between two `quote`s, with backslashes as escapes.
    fn quoted(&mut self, quote: u8) {
        let mut len = 1;
        while len < self.rest().len() && self.rest()[len] != quote {
            len += if self.rest()[len] == b'\\' { 2 } else { 1 };
        }
        self.take(len + 1, (1, 1));
    }

    fn rust(mut self) -> String {
        while self.next < self.bytes.len() {
            if self.comment(true) || self.raw_string() {
                continue;
            }
            match self.bytes[self.next] {
                b'"' => self.quoted(b'"'),
                b'\'' => self.quote_or_lifetime(),
                _ => self.next += 1,
            }
        }
        self.finish()
    }

    fn raw_string(&mut self) -> bool {
        let within_word = self.next > 0 && is_word(char::from(self.bytes[self.next - 1]));
        let prefix = self.rest().iter().take_while(|b| matches!(b, b'b' | b'c' | b'r')).count();
        if within_word || prefix == 0 || self.rest()[prefix - 1] != b'r' {
            return false;
        }
        let after = &self.rest()[prefix..];
        let hashes = after.iter().take_while(|b| **b == b'#').count();
        if after.get(hashes) != Some(&b'"') {
            return false;
        }
        let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let inside = &after[hashes + 1..];
        let found = inside.windows(end.len()).position(|window| window == end);
        let len = prefix + hashes + 1 + found.map_or(inside.len(), |at| at + end.len());
        self.next += prefix + hashes;
        self.take(len - prefix - hashes, (1, end.len()));
        true
    }

    fn quote_or_lifetime(&mut self) {
        let rest = self.rest();
        if rest.get(1) == Some(&b'\\') {
            let end = rest.iter().skip(3).position(|b| *b == b'\'').map_or(1, |at| at + 4);
            self.take(end, (1, 1));
            return;
        }
        let closing = (2..=5).find(|at| rest.get(*at) == Some(&b'\''));
        let one_char = closing.filter(|at| {
            std::str::from_utf8(&rest[1..*at]).is_ok_and(|inside| inside.chars().count() == 1)
        });
        match one_char {
            Some(at) => self.take(at + 1, (1, 1)),
            None => self.next += 1,
        }
    }

    fn script(mut self) -> String {
        self.script_until(None);
        self.finish()
    }

    /// Code up to the brace that closes a `${`, or up to the end.
    fn script_until(&mut self, closing: Option<u8>) {
        let mut depth = 0usize;
        while self.next < self.bytes.len() {
            if self.comment(false) {
                continue;
            }
            match self.bytes[self.next] {
                quote @ (b'"' | b'\'') => self.quoted(quote),
                b'`' => self.template(),
                b'/' if self.expects_operand() => self.regular_expression(),
                b'}' if depth == 0 && closing.is_some() => return,
                byte => {
                    match byte {
                        b'{' => depth += 1,
                        b'}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    self.next += 1;
                }
            }
        }
    }

    fn template(&mut self) {
        let mut len = 1;
        while len < self.rest().len() {
            let rest = &self.rest()[len..];
            if rest[0] == b'`' {
                self.take(len + 1, (1, 1));
                return;
            } else if rest.starts_with(b"${") {
                // The braces go too: what is inside is code, but no block.
                self.take(len, (1, 1));
                blank(&mut self.bytes[self.next - 1..self.next + 2]);
                self.next += 2;
                self.script_until(Some(b'}'));
                len = 0;
                if let Some(brace) = self.bytes.get_mut(self.next) {
                    *brace = b' ';
                    len = 1;
                }
            } else {
                len += if rest[0] == b'\\' { 2 } else { 1 };
            }
        }
        self.take(len, (1, 1));
    }

    /// Whether a slash here begins a regular expression rather than divides.
    fn expects_operand(&self) -> bool {
        const BEFORE_OPERAND: [&str; 8] =
            ["return", "typeof", "case", "in", "of", "await", "yield", "throw"];
        let before = &self.bytes[..self.next];
        let Some(last) = before.iter().rposition(|byte| !byte.is_ascii_whitespace()) else {
            return true;
        };
        if !is_word(char::from(before[last])) {
            return b"(,=:[!&|?{};+-*%<>~^".contains(&before[last]);
        }
        let start = before[..=last].iter().rposition(|b| !is_word(char::from(*b)));
        let word = &before[start.map_or(0, |at| at + 1)..=last];
        BEFORE_OPERAND.iter().any(|known| known.as_bytes() == word)
    }

    fn regular_expression(&mut self) {
        let (mut len, mut in_class) = (1, false);
        while let Some(byte) = self.rest().get(len).copied() {
            match byte {
                b'\n' => break,
                b'/' if !in_class => break,
                b'[' => in_class = true,
                b']' => in_class = false,
                b'\\' => len += 1,
                _ => {}
            }
            len += 1;
        }
        self.take(len + 1, (1, 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_comments_and_literals_are_blank() {
        let code = |text: &str| Source::new("src/x.rs", text).code;
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), format!("a{}e", " ".repeat(19)));
        assert_eq!(code(r#"f("a \" b", c)"#), r#"f("      ", c)"#);
        assert_eq!(code("g(r#\"a \" b\"#, 'x', b'\\'', '\\u{41}')").matches('"').count(), 2);
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(code("'{' '}' 'ä'"), "' ' ' ' '  '");
    }

    #[test]
    fn script_comments_and_literals_are_blank() {
        let code = |text: &str| Source::new("static/x.js", text).code;
        assert_eq!(code("a(/[/}]/g, 'b{', \"}\")"), "a(/    /g, '  ', \" \")");
        assert_eq!(code("a / b // {"), "a / b     ");
        assert_eq!(
            code("`{ ${ f({}) } }` + g"),
            format!("`{}f({{}}){}` + g", " ".repeat(5), " ".repeat(4))
        );
        assert_eq!(code("x(`a${`b${c}`}d`); {").matches(['{', '}']).count(), 1);
    }

    #[test]
    fn test_modules_are_no_production_code() {
        let text = "mod a;\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nfn g() {}\n";
        let file = Source::new("src/x.rs", text);
        assert!(!file.production().contains("fn f"));
        assert!(file.production().contains("fn g"));
        assert_eq!(file.test_lines(), 4);
        let parent = Source::new("src/turn/mod.rs", "#[cfg(test)]\nmod pair;\nmod table;\n");
        assert_eq!(test_only_modules(&[parent]), [["turn", "pair"]]);
    }

    #[test]
    fn what_is_installed_or_built_is_not_ours() {
        let paths: Vec<_> = files_below("").into_iter().map(|file| file.path).collect();
        assert!(paths.contains(&"src/lib.rs".to_owned()), "{paths:?}");
        assert!(
            !paths.iter().any(|path| path.contains("node_modules") || path.contains("target/"))
        );
    }
}
