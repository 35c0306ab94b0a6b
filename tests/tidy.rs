//! Keeps the house in order: what a tool can check of the architecture and of the style is checked
//! here, and every rule has a test of its own that shows it can fail.
//!
//! It reads the sources as text. [`source`] turns comments and literals into blanks, so that a rule
//! sees code only; the other modules hold one family of rules each.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/labels.rs"]
mod labels;
#[path = "tidy/logs.rs"]
mod logs;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/purity.rs"]
mod purity;
#[path = "tidy/repository.rs"]
mod repository;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/source.rs"]
mod source;

/// What a rule found: empty when all is well.
type Faults = Vec<String>;

/// Fails with one line for each fault.
#[track_caller]
fn assert_tidy(rule: &str, faults: &Faults) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}
