//! The one place where a key gets its name, documentation, default and bounds.
//!
//! The `section!` macro turns a list of keys into a plain struct and a [`Schema`]; the struct is
//! what `daemon` reads, the schema is what the example, the errors and the environment go by.

use serde::Deserialize;
use serde::de::value::UnitDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use toml::Spanned;
use toml::de::{DeValue, Error, ValueDeserializer};

/// A section of the file: its own keys, and the sections inside it.
#[derive(Debug)]
pub(super) struct Schema {
    /// The documentation of the section.
    pub(super) docs: &'static [&'static str],
    /// The keys, in the order of the example.
    pub(super) keys: &'static [Key],
    /// The sections inside, by name.
    pub(super) sections: &'static [(&'static str, &'static Schema)],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// The name, without its section.
    pub(super) name: &'static str,
    /// The documentation, line by line.
    pub(super) docs: &'static [&'static str],
    /// What the key is when nobody sets it.
    pub(super) preset: Preset,
    /// What may stand there.
    pub(super) allowed: Allowed,
}

/// What a key is when nobody sets it, as TOML.
#[derive(Debug, Clone, Copy)]
pub(super) enum Preset {
    /// This value.
    Is(&'static str),
    /// An empty list; the example shows this one.
    Empty(&'static str),
    /// Nothing; the example shows this value.
    Unset(&'static str),
}

impl Preset {
    /// The value that the example shows.
    pub(super) const fn shown(self) -> &'static str {
        match self {
            Self::Is(text) | Self::Empty(text) | Self::Unset(text) => text,
        }
    }

    /// The value itself.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        match self {
            Self::Is(text) => T::deserialize(ValueDeserializer::parse(text)?),
            Self::Empty(_) => T::deserialize(ValueDeserializer::parse("[]")?),
            Self::Unset(_) => T::deserialize(UnitDeserializer::<Error>::new()),
        }
    }
}

/// What may stand behind a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allowed {
    /// A whole number within bounds, both included.
    Whole(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// What this text says.
    Text(&'static str),
    /// What this text says; the value is never shown.
    Secret(&'static str),
}

impl Allowed {
    /// Whether the value must never be shown.
    pub(super) const fn is_secret(self) -> bool {
        matches!(self, Self::Secret(_))
    }
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Word(words) => {
                for (index, word) in words.iter().enumerate() {
                    let separator = match index {
                        0 => "",
                        _ if index + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, "{separator}\"{word}\"")?;
                }
                Ok(())
            }
            Self::Text(text) | Self::Secret(text) => f.write_str(text),
        }
    }
}

impl Schema {
    /// The key or section at `path`.
    pub(super) fn find(&'static self, path: &[&str]) -> Option<Found> {
        match path {
            [] => Some(Found::Section(self)),
            [name] if self.keys.iter().any(|key| key.name == *name) => {
                self.keys.iter().find(|key| key.name == *name).map(Found::Key)
            }
            [name, rest @ ..] => {
                let (_, inner) = self.sections.iter().find(|(found, _)| found == name)?;
                inner.find(rest)
            }
        }
    }

    /// Calls `visit` with the dotted path of every key, in the order of the example.
    pub(super) fn each(&'static self, prefix: &str, visit: &mut dyn FnMut(&str, &'static Key)) {
        for key in self.keys {
            visit(&dotted(prefix, key.name), key);
        }
        for (name, inner) in self.sections {
            inner.each(&dotted(prefix, name), visit);
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    /// A key.
    Key(&'static Key),
    /// A section.
    Section(&'static Schema),
}

/// `prefix.name`, or `name` at the top.
pub(super) fn dotted(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Reads the value of `key`, with its bounds.
pub(super) fn read<'de, T: Deserialize<'de>>(
    key: &Key,
    value: Spanned<DeValue<'de>>,
) -> Result<T, Error> {
    if let (Allowed::Whole(low, high), DeValue::Integer(number)) = (key.allowed, value.get_ref()) {
        let digits = number.as_str().replace('_', "");
        let inside = u64::from_str_radix(&digits, number.radix())
            .is_ok_and(|number| (low..=high).contains(&number));
        if !inside {
            return Err(serde::de::Error::custom(format!("{number} is out of bounds")));
        }
    }
    T::deserialize(value.into_deserializer())
}

/// Declares a section: a struct with public fields, its defaults, its schema and its setter.
macro_rules! section {
    (
        $(#[doc = $docs:literal])*
        $name:ident {
            $( $(#[doc = $doc:literal])* $key:ident: $ty:ty = $preset:expr, $allowed:expr; )*
            $( [$sub:ident: $inner:ident] )*
        }
    ) => {
        $(#[doc = $docs])*
        #[derive(Debug, Clone)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $key: $ty, )*
            $(
                #[doc = concat!("`[", stringify!($sub), "]` and what is below.")]
                pub $sub: $inner,
            )*
        }

        impl $name {
            /// Names, documentation, defaults and bounds.
            pub(super) const SCHEMA: Schema = Schema {
                docs: &[$($docs,)*],
                keys: &[$(Key {
                    name: stringify!($key),
                    docs: &[$($doc,)*],
                    preset: $preset,
                    allowed: $allowed,
                },)*],
                sections: &[$((stringify!($sub), &$inner::SCHEMA),)*],
            };

            /// Every key as it is when nobody sets it.
            pub(super) fn defaults() -> Result<Self, toml::de::Error> {
                Ok(Self {
                    $( $key: $preset.read()?, )*
                    $( $sub: $inner::defaults()?, )*
                })
            }

            /// Sets the key at `path`, which [`Schema::find`] has found.
            pub(super) fn set(
                &mut self,
                path: &[&str],
                key: &Key,
                value: toml::Spanned<toml::de::DeValue<'_>>,
            ) -> Result<(), toml::de::Error> {
                match path {
                    $( [name] if *name == stringify!($key) => self.$key = read(key, value)?, )*
                    $( [name, rest @ ..] if *name == stringify!($sub) => {
                        self.$sub.set(rest, key, value)?;
                    } )*
                    _ => return Err(serde::de::Error::custom("unknown key")),
                }
                Ok(())
            }
        }
    };
}
pub(super) use section;
