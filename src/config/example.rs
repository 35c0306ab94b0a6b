//! The text of `config.example.toml` and `turncast config example`: made from the schema.

use super::keys::Config;
use super::schema::{Preset, Schema, dotted};

/// Every key with its documentation and default, each behind a `#`.
pub fn example() -> String {
    let mut text = String::new();
    section(&mut text, "", &Config::SCHEMA);
    text
}

fn section(text: &mut String, path: &str, schema: &'static Schema) {
    for line in schema.docs {
        comment(text, line);
    }
    if !path.is_empty() {
        text.push_str(&format!("[{path}]\n"));
    }
    for key in schema.keys {
        text.push('\n');
        for line in key.docs {
            comment(text, line);
        }
        comment(text, &format!("Allowed: {}.", key.allowed));
        let note = match key.preset {
            Preset::Is(_) => "",
            Preset::Empty(_) => "   # an example; the default is []",
            Preset::Unset(_) => "   # an example; not set by default",
        };
        text.push_str(&format!("#{} = {}{note}\n", key.name, key.preset.shown()));
    }
    for (name, inner) in schema.sections {
        text.push('\n');
        section(text, &dotted(path, name), inner);
    }
}

/// A line of documentation, wrapped; a key's own line has no space behind its `#`.
fn comment(text: &mut String, line: &str) {
    let mut column = 0;
    for word in line.split_whitespace() {
        if column == 0 || column + 1 + word.chars().count() > COLUMNS {
            text.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + word.chars().count();
    }
    text.push('\n');
}

const COLUMNS: usize = 100;
