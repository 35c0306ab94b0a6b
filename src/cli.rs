//! The command line: arguments, subcommands, errors printed once, exit codes.
//!
//! 0 is success, 1 a failure, 2 bad usage or a bad configuration. No argument takes a secret:
//! everybody on a host can read the arguments of a process.

use std::borrow::Cow;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Environment, Loaded};
use crate::credentials::opaque_string;
use crate::daemon;

/// Broadcast from a browser to browsers: pages, signaling and TURN in one daemon.
#[derive(Debug, Parser)]
#[command(name = "turncast", version, max_term_width = 100)]
struct Arguments {
    /// Configuration; else /etc/turncast/turncast.toml, if there.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon, as without a command.
    Run,
    /// Says what is wrong with the configuration, or what it leads to.
    ///
    /// Prints what would be bound, what browsers would be told, the certificate, the
    /// ports to open, and warnings. Binds nothing. Ends with 2 when the daemon would
    /// refuse the configuration. Run it as root, or as the user of the daemon, so that
    /// it can read the state directory, where the certificate of an authority is.
    #[command(verbatim_doc_comment)]
    Check,
    /// Relays a packet, and says what to do when it does not arrive.
    ///
    /// Asks the running daemon by every URL that browsers are told, and ends with 1
    /// unless all of them work. Has to read the state directory: run it as root, or as
    /// the user of the daemon.
    #[command(verbatim_doc_comment)]
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the link with which somebody may broadcast.
    ///
    /// Whoever has the link may. Has to read the state directory: run it as root, or as
    /// the user of the daemon.
    #[command(verbatim_doc_comment)]
    Invite {
        /// Make a new key first; the old link is worthless at once.
        #[arg(long)]
        rotate: bool,
    },
    /// Prints a TURN credential for another application, as JSON.
    ///
    /// It is signed with turn.shared_secret and has the form of RTCIceServer.
    Credentials {
        /// Whom it is for; the log and the quota go by it.
        #[arg(long, value_parser = credential_name)]
        name: String,
        /// Seconds until it ends; else turn.credential_ttl_secs.
        #[arg(long, value_name = "SECS",
              value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
        ttl: Option<u32>,
    },
    /// Shows what a configuration looks like.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints every key with its documentation and default.
    Example,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    #[error("{bad} of {of} ways to the relay do not work for browsers")]
    Unwell { bad: usize, of: usize },
    #[error("print the answer")]
    Print(#[from] std::io::Error),
}

impl Failure {
    fn code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(2),
            Self::Daemon(error) if error.is_configuration() => ExitCode::from(2),
            Self::Daemon(_) | Self::Unwell { .. } | Self::Print(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // clap prints help and version with 0, what it does not understand with 2.
    let arguments = Arguments::parse();
    match execute(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nothing is left to be done when the error itself cannot be printed.
            let _ = writeln!(std::io::stderr(), "{}", told(&failure));
            failure.code()
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(Command::Config { command: ConfigCommand::Example }) = &arguments.command {
        return print(&config::example());
    }
    let environment = Environment::read();
    let loaded = Loaded::read(arguments.config.as_deref(), &environment)?;
    match &arguments.command {
        None | Some(Command::Run) => Ok(daemon::run(&loaded, &environment)?),
        Some(Command::Check) => {
            let daemon::Checked { text, refusal } = daemon::check(&loaded, &environment)?;
            print(&text)?;
            refusal.map_or(Ok(()), |error| Err(error.into()))
        }
        Some(Command::Doctor { json }) => {
            let report = daemon::doctor(&loaded, &environment)?;
            match json {
                true => print(&format!("{:#}\n", report.json()))?,
                false => print(&report.text())?,
            }
            let (bad, of) = (report.bad(), report.findings.len());
            if report.is_well() { Ok(()) } else { Err(Failure::Unwell { bad, of }) }
        }
        Some(Command::Invite { rotate }) => {
            let link = daemon::invite(&loaded, &environment, *rotate)?;
            print(&format!("{link}\n"))
        }
        Some(Command::Credentials { name, ttl }) => {
            let (credential, note) = daemon::credential(&loaded, &environment, name, *ttl)?;
            if let Some(note) = note {
                // The answer is for a program, and goes on without it.
                let _ = writeln!(std::io::stderr(), "note: {note}");
            }
            print(&format!("{credential}\n"))
        }
        Some(Command::Config { command: ConfigCommand::Example }) => Ok(()),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `turncast config example | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// The whole chain of causes in one line, each told once.
fn told(failure: &Failure) -> String {
    if let Failure::Config(config::Error::Invalid(text)) = failure {
        return text.clone();
    }
    let mut text = format!("error: {failure}");
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors tell their cause themselves.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn credential_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err("a name must not be empty, nor hold control characters".to_owned());
    }
    if text.len() > 256 {
        return Err("a name has at most 256 bytes".to_owned());
    }
    // Clients prepare the name before they send it, and the signature covers what they send.
    let prepared = opaque_string(text);
    prepared
        .map(Cow::into_owned)
        .ok_or_else(|| "a character is in it that names must not have (RFC 8265)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_chain_of_causes_is_told_once() {
        let source = std::io::Error::other("no disk");
        let failure = Failure::Config(config::Error::Read { path: "a.toml".into(), source });
        assert_eq!(told(&failure), "error: cannot read the configuration a.toml: no disk");
        assert_eq!(failure.code(), ExitCode::from(2));
    }

    #[test]
    fn no_command_means_run_and_the_file_may_stand_anywhere() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).expect("it parses");
        assert!(parse("turncast").command.is_none());
        for line in ["turncast --config a.toml check", "turncast check --config a.toml"] {
            assert_eq!(parse(line).config, Some("a.toml".into()));
        }
        assert!(Arguments::try_parse_from(["turncast", "credentials"]).is_err());
        assert_eq!(credential_name("Ame\u{301}lie").as_deref(), Ok("Am\u{e9}lie"));
        assert!(credential_name("in\u{ad}visible").is_err());
        let zero = ["turncast", "credentials", "--name", "a", "--ttl", "0"];
        assert!(Arguments::try_parse_from(zero).is_err());
    }
}
