//! From files and environment to a [`Loaded`] configuration: parse, override, check, and collect
//! everything that is wrong on the way, so that one run names all mistakes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use annotate_snippets::Level;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Config;
use super::problem::{Place, Problem, Source, may_be_secret, nearest};
use super::schema::{Found, Key, Schema, dotted};
use super::secrets::{self, Secrets};
use super::{Error, reach, rules};

/// Where the configuration is when nobody says so.
pub const SYSTEM_FILE: &str = "/etc/turncast/turncast.toml";

/// The credentials directory of the service; it exists while the service runs, for root.
const SERVICE_CREDENTIALS: &str = "/run/credentials/turncast.service";

/// What begins the name of a variable that overrides a key.
const PREFIX: &str = "TURNCAST__";

/// What the environment says; an argument, so that tests need not change their own.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The environment of this process.
    pub fn read() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The variable `name`, unless it is missing or empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(&OsString::from(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Names and values of the overrides, in the order of their names.
    fn overrides(&self) -> impl Iterator<Item = (String, String)> {
        self.0
            .iter()
            .map(|(name, value)| (name.to_string_lossy(), value.to_string_lossy()))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Something that is allowed and likely a mistake.
#[derive(Debug, Clone)]
pub struct Warning {
    /// In one line, for the log.
    pub line: String,
    /// With the place in the file, for a terminal.
    pub text: String,
}

/// A configuration that passed every check.
#[derive(Debug)]
pub struct Loaded {
    /// The keys.
    pub config: Config,
    /// The secrets, from wherever they were to be read.
    pub secrets: Secrets,
    /// The file, when there is one.
    pub file: Option<PathBuf>,
    /// What is allowed and likely a mistake.
    pub warnings: Vec<Warning>,
    files: Files,
}

impl Loaded {
    /// Reads the file `asked` for, else [`SYSTEM_FILE`] when it exists, else nothing; then the
    /// overrides of `environment`.
    ///
    /// # Errors
    /// A file that cannot be read, or everything that is wrong with what stands there.
    pub fn read(asked: Option<&Path>, environment: &Environment) -> Result<Self, Error> {
        let file = match asked {
            Some(path) => Some(path),
            None => Some(Path::new(SYSTEM_FILE)).filter(|path| may_be_there(path)),
        };
        let text = match file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::Read { path: path.to_owned(), source })?;
                Some((path, text))
            }
        };
        Self::parse(text, environment)
    }

    /// As [`Loaded::read`], from a text.
    pub(super) fn parse(
        file: Option<(&Path, String)>,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let path = file.as_ref().map(|(path, _)| path.to_path_buf());
        let files = Files::new(path.as_deref(), environment);
        let mut reader = Reader::new()?;
        if let Some((path, text)) = file {
            reader.read_file(path, text);
        }
        for (name, value) in environment.overrides() {
            reader.read_variable(name, value);
        }
        reader.give_up_on_problems()?;
        reach::follow_public_host(&mut reader.config, &reader.findings);
        let secrets = secrets::collect(&reader.config, &files, &mut reader.findings);
        rules::check(&reader.config, &secrets, &mut reader.findings);
        reader.give_up_on_problems()?;
        let Findings { sources, warnings, .. } = &reader.findings;
        let warning = |problem: &Problem| Warning {
            line: problem.line(sources),
            text: problem.render(Level::WARNING, sources),
        };
        let warnings = warnings.iter().map(warning).collect();
        Ok(Self { config: reader.config, secrets, file: path, warnings, files })
    }

    /// Where a file is that the configuration names.
    pub fn locate(&self, path: &Path) -> PathBuf {
        self.files.locate(path)
    }
}

/// Whether there may be such a file. One that cannot be looked for is tried all the same: running
/// with the defaults beside a configuration would surprise everybody.
fn may_be_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Where relative paths of the configuration lead.
#[derive(Debug)]
pub(super) struct Files {
    /// systemd's credentials directory.
    pub(super) credentials: Option<PathBuf>,
    /// The configuration file.
    pub(super) file: Option<PathBuf>,
}

impl Files {
    fn new(file: Option<&Path>, environment: &Environment) -> Self {
        // Somebody who runs `turncast check` beside the service means the service's files.
        let of_service = || {
            let system = file.is_some_and(|path| path == Path::new(SYSTEM_FILE));
            system.then(|| PathBuf::from(SERVICE_CREDENTIALS))
        };
        Self {
            credentials: environment.path("CREDENTIALS_DIRECTORY").or_else(of_service),
            file: file.map(Path::to_path_buf),
        }
    }

    /// An absolute path stays; a relative one is looked for among systemd's credentials, then
    /// stands beside the configuration file.
    pub(super) fn locate(&self, path: &Path) -> PathBuf {
        let credential = self.credentials.as_ref().map(|directory| directory.join(path));
        match credential.filter(|found| path.is_relative() && found.exists()) {
            Some(found) => found,
            None => match self.file.as_deref().and_then(Path::parent) {
                Some(beside) => beside.join(path),
                None => path.to_owned(),
            },
        }
    }
}

/// What was found so far, and where every key was set.
#[derive(Debug, Default)]
pub(super) struct Findings {
    sources: Vec<Source>,
    places: BTreeMap<String, Place>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings {
    /// Whether somebody set `key`, given with its section.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Something is wrong with the value of `key`.
    pub(super) fn refuse(&mut self, key: &str, problem: Problem) {
        let problem = self.at(key, problem);
        self.problems.push(problem);
    }

    /// Something about the value of `key` is likely a mistake.
    pub(super) fn warn(&mut self, key: &str, problem: Problem) {
        let problem = self.at(key, problem);
        self.warnings.push(problem);
    }

    fn at(&self, key: &str, mut problem: Problem) -> Problem {
        problem.title = format!("{key}: {}", problem.title);
        problem.place = self.places.get(key).cloned();
        let path: Vec<&str> = key.split('.').collect();
        if let Some(Found::Key(key)) = Config::SCHEMA.find(&path) {
            problem.is_secret = key.allowed.is_secret();
        }
        problem
    }
}

struct Reader {
    config: Config,
    findings: Findings,
}

impl Reader {
    fn new() -> Result<Self, Error> {
        let config = Config::defaults().map_err(|why| Error::Invalid(why.to_string()))?;
        Ok(Self { config, findings: Findings::default() })
    }

    fn give_up_on_problems(&mut self) -> Result<(), Error> {
        let Findings { sources, problems, .. } = &mut self.findings;
        if problems.is_empty() {
            return Ok(());
        }
        let order = |place: &Place| (place.source, place.span.start);
        problems.sort_by_key(|problem| problem.place.as_ref().map(order));
        let texts: Vec<_> = problems.iter().map(|p| p.render(Level::ERROR, sources)).collect();
        Err(Error::Invalid(texts.join("\n\n")))
    }

    fn read_file(&mut self, path: &Path, text: String) {
        let source = self.source(path.display().to_string(), text.clone());
        match DeTable::parse(&text) {
            Ok(table) => self.table(source, &[], table.into_inner()),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let mut problem = Problem::new(format!("this is not TOML: {}", error.message()));
                problem.is_secret = may_be_secret(&text, span.start);
                if problem.is_secret {
                    // The parser's words may quote what it met.
                    problem.title = "this is not TOML".to_owned();
                    problem = problem.help("look for a missing quote, bracket or comma");
                }
                problem.place = Some(Place { source, span });
                self.findings.problems.push(problem);
            }
        }
    }

    fn read_variable(&mut self, name: String, value: String) {
        let lower = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
        let path: Vec<&str> = lower.split("__").collect();
        let source = self.source(name.clone(), value.clone());
        let Some(Found::Key(key)) = Config::SCHEMA.find(&path) else {
            let mut problem = Problem::new(format!("the environment variable {name} names no key"));
            problem.help = variable_like(&lower).map(|near| format!("did you mean {near}?"));
            self.findings.problems.push(problem);
            return;
        };
        // TOML, else a text; a text that happens to be TOML of another type is still a text.
        let text = || Spanned::new(0..value.len(), DeValue::String(value.as_str().into()));
        let parsed = DeValue::parse(&value).unwrap_or_else(|_| text());
        let is_text = matches!(parsed.get_ref(), DeValue::String(_));
        let dotted = path.join(".");
        match self.config.set(&path, key, parsed) {
            Err(_) if !is_text && self.config.set(&path, key, text()).is_ok() => {}
            Err(error) => self.wrong_value(source, &dotted, key, 0..value.len(), &error),
            Ok(()) => {}
        }
        self.findings.places.insert(dotted, Place { source, span: 0..value.len() });
    }

    fn table(&mut self, source: usize, path: &[&str], table: DeTable<'_>) {
        for (name, value) in table {
            let mut inner = path.to_vec();
            inner.push(name.get_ref());
            match Config::SCHEMA.find(&inner) {
                Some(Found::Key(key)) => self.key(source, &inner, key, value),
                Some(Found::Section(_)) => match (value.span(), value.into_inner()) {
                    (_, DeValue::Table(table)) => self.table(source, &inner, table),
                    (span, _) => {
                        let section = inner.join(".");
                        let mut problem = Problem::new(format!("{section} is a section"));
                        problem.label = format!("allowed: [{section}] and keys below it");
                        problem.place = Some(Place { source, span });
                        self.findings.problems.push(problem);
                    }
                },
                None => self.unknown(source, path, &name),
            }
        }
    }

    fn key(&mut self, source: usize, path: &[&str], key: &Key, value: Spanned<DeValue<'_>>) {
        let dotted = path.join(".");
        let span = value.span();
        if let Err(error) = self.config.set(path, key, value) {
            self.wrong_value(source, &dotted, key, span.clone(), &error);
        }
        self.findings.places.insert(dotted, Place { source, span });
    }

    fn wrong_value(
        &mut self,
        source: usize,
        dotted: &str,
        key: &Key,
        whole: std::ops::Range<usize>,
        error: &toml::de::Error,
    ) {
        let message = error.message();
        let is_type = message.starts_with("invalid type") || message.starts_with("invalid value");
        let message = if is_type { "this does not fit here" } else { message };
        let mut problem = Problem::new(format!("{dotted}: {message}"));
        problem.label = format!("allowed: {}", key.allowed);
        problem.is_secret = key.allowed.is_secret();
        let span = error.span().filter(|span| span.end <= whole.end).unwrap_or(whole);
        problem.place = Some(Place { source, span });
        self.findings.problems.push(problem);
    }

    fn unknown(&mut self, source: usize, path: &[&str], name: &Spanned<std::borrow::Cow<'_, str>>) {
        let text: &str = name.get_ref();
        let prefix = path.join(".");
        let mut problem = Problem::new(format!("unknown key {}", dotted(&prefix, text)));
        problem.place = Some(Place { source, span: name.span() });
        problem.is_unknown = true;
        problem.label = match suggestion(path, text) {
            Some(near) => format!("did you mean {near}?"),
            None => "no such key".to_owned(),
        };
        if let Some(Found::Section(section)) = Config::SCHEMA.find(path) {
            let names = section.keys.iter().map(|key| key.name.to_owned());
            let sections = section.sections.iter().map(|(name, _)| format!("[{name}]"));
            let names: Vec<_> = names.chain(sections).collect();
            let of = if prefix.is_empty() { "at the top".into() } else { format!("in [{prefix}]") };
            problem = problem.help(format!("allowed {of}: {}", names.join(", ")));
        }
        self.findings.problems.push(problem);
    }

    fn source(&mut self, name: String, text: String) -> usize {
        self.findings.sources.push(Source { name, text });
        self.findings.sources.len() - 1
    }
}

/// What an unknown `name` in the section `path` was meant to be: a neighbour, or the same name in
/// another section.
fn suggestion(path: &[&str], name: &str) -> Option<String> {
    let Some(Found::Section(section)) = Config::SCHEMA.find(path) else { return None };
    if let Some(near) = nearest(name, names(section)) {
        return Some(near.to_owned());
    }
    let mut elsewhere = None;
    Config::SCHEMA.each("", &mut |dotted, key| {
        if elsewhere.is_none() && key.name == name {
            elsewhere = Some(dotted.to_owned());
        }
    });
    elsewhere
}

fn names(section: &'static Schema) -> impl Iterator<Item = &'static str> {
    let sections = section.sections.iter().map(|(name, _)| *name);
    section.keys.iter().map(|key| key.name).chain(sections)
}

/// The variable that `lower`, without prefix and in lower case, was meant to be.
fn variable_like(lower: &str) -> Option<String> {
    let mut all = Vec::new();
    Config::SCHEMA.each("", &mut |dotted, _| all.push(dotted.replace('.', "__")));
    nearest(lower, all.iter().map(String::as_str))
        .map(|near| format!("{PREFIX}{}", near.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_looked_for_is_not_passed_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        assert!(!may_be_there(&file));
        std::fs::write(&file, "").expect("a file");
        assert!(may_be_there(&file));
        // As without the right to search the directory, which root always has.
        assert!(may_be_there(&file.join("below")));
    }
}
