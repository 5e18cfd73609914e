//! The description of the file: which keys there are, what each may hold, what it is when it is left out, what it is for.
//!
//! One description serves four readers: [`crate::read`] checks a file against it, [`crate::schema`] writes it as JSON Schema,
//! [`crate::document`] as a page for people, and the typed structs in [`crate::sections`] come out of the same macro. So a key
//! cannot be documented and not read, or be read and not be in the schema.

use crate::text::Text;

/// Words that a title lists; of more it gives some.
const LISTED: usize = 12;

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number between these.
    Int(i64, i64),
    /// A number between these.
    Number(f64, f64),
    /// A text of a format.
    Text(Text),
    /// One of these words; each with what it means.
    Words(&'static [Word]),
    /// A program and its arguments: the first is an absolute path.
    Argv,
    /// A list: of what, at least and at most how many.
    List(&'static Shape, usize, usize),
    /// A table whose keys the user chooses: their format, what each holds, at most how many.
    Map(Text, &'static Shape, usize),
    /// A table with these keys.
    Table(&'static Table),
    /// Exactly one of several.
    One(&'static One),
    /// What fits of these, told apart by their type in TOML.
    Either(&'static [Shape]),
}

/// A word and what it means.
pub type Word = (&'static str, &'static str);

/// A table with known keys.
#[derive(Debug)]
pub struct Table {
    /// What it is, in Markdown.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in Markdown.
    pub doc: &'static str,
    /// What it may hold.
    pub shape: Shape,
    /// What it is when it is left out.
    pub default: Default,
    /// Names that people know from elsewhere, for the nearest key. They are not read.
    pub also: &'static [&'static str],
}

/// What a key is when it is left out.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// It must not be left out.
    Required,
    /// Nothing.
    Absent,
    /// This value, as it would be written in the file.
    Value(&'static str),
    /// A table with the defaults of its own keys.
    Empty,
    /// It follows from other keys, as described here.
    Derived(&'static str),
}

/// Exactly one of several: a word, or a table with one key.
#[derive(Debug)]
pub struct One {
    /// What it is, in Markdown.
    pub doc: &'static str,
    /// Those that are a word alone.
    pub words: &'static [Word],
    /// Those that are a key with a value.
    pub tags: &'static [Tag],
}

/// One choice.
#[derive(Debug)]
pub struct Tag {
    /// Its name.
    pub name: &'static str,
    /// What it is, in Markdown.
    pub doc: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Names that people know from elsewhere.
    pub also: &'static [&'static str],
}

impl Shape {
    /// What it is, for people: `a whole number from 1 to 64`.
    pub fn title(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int(i64::MIN, i64::MAX) => "a whole number".into(),
            Self::Int(min, i64::MAX) => format!("a whole number from {min}"),
            Self::Int(min, max) => format!("a whole number from {min} to {max}"),
            Self::Number(min, max) if min.is_infinite() && max.is_infinite() => "a number".into(),
            Self::Number(min, max) => format!("a number from {min} to {max}"),
            Self::Text(text) => text.title(),
            Self::Words(words) if words.len() > LISTED => {
                let first: Vec<&str> = words.iter().take(3).map(|w| w.0).collect();
                format!("one of {} words, such as {}", words.len(), first.join(", "))
            }
            Self::Words(words) => {
                let words: Vec<&str> = words.iter().map(|w| w.0).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Argv => "a list of texts: an absolute path of a program and its arguments".into(),
            Self::List(of, 0, _) => format!("a list, each {}", of.title()),
            Self::List(of, min, _) => format!("a list of at least {min}, each {}", of.title()),
            Self::Map(_, of, _) => format!("a table of names, each {}", of.title()),
            Self::Table(_) => "a table".into(),
            Self::One(one) => one.title(),
            Self::Either([one, Self::List(of, ..)]) if one.title() == of.title() => {
                format!("{}, or a list of such", one.title())
            }
            Self::Either(shapes) => {
                let titles: Vec<String> = shapes.iter().map(Self::title).collect();
                titles.join(", or ")
            }
        }
    }
}

impl One {
    /// What it is, for people.
    pub fn title(&self) -> String {
        let words = self.words.iter().map(|w| w.0);
        let all: Vec<&str> = words.chain(self.tags.iter().map(|t| t.name)).collect();
        match self.words {
            [] => format!("a table with exactly one of {}", all.join(", ")),
            _ => format!("one of {}", all.join(", ")),
        }
    }
}

/// Takes the space and the line ends off that a doc comment brings along.
pub(crate) fn tidy(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    lines.join("\n").trim().to_owned()
}

/// A table as a typed struct and as its description, from one text:
///
/// ```text
/// table! {
///     /// What it is.
///     pub struct Retry: RETRY {
///         /// What it is for.
///         attempts: u32 = Shape::Int(0, 10), Value("3");
///         /// A key that serde reads with a function, and that has other names elsewhere.
///         delay: Duration ["crate::typed::duration"] = DURATION, Value("\"5m\""), also ["wait"];
///         /// One that may be absent.
///         limit: Option<Duration> as ["crate::typed::maybe_duration"] = DURATION, Absent;
///     }
/// }
/// ```
macro_rules! table {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident: $table:ident {
            $( $(#[doc = $key_doc:literal])+ $key:ident: $ty:ty $([$with:literal])? $(as [$maybe:literal])? = $shape:expr, $default:expr $(, also $also:expr)?; )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, ::serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $key_doc])+ $(#[serde(deserialize_with = $with)])? $(#[serde(default, deserialize_with = $maybe)])? pub $key: $ty, )*
        }
        $crate::shape::keys! {
            $(#[doc = $doc])+
            $table { $( $(#[doc = $key_doc])+ $key = $shape, $default $(, also $also)?; )* }
        }
    };
}

/// The description of a table alone, for what a struct of another crate holds.
macro_rules! keys {
    (
        $(#[doc = $doc:literal])+
        $table:ident {
            $( $(#[doc = $key_doc:literal])+ $key:ident = $shape:expr, $default:expr $(, also $also:expr)?; )*
        }
    ) => {
        $(#[doc = $doc])+
        pub(crate) static $table: $crate::shape::Table = $crate::shape::Table {
            doc: concat!($($doc, "\n"),+),
            keys: &[ $( $crate::shape::Key {
                name: stringify!($key),
                doc: concat!($($key_doc, "\n"),+),
                shape: $shape,
                default: { #[allow(unused_imports)] use $crate::shape::Default::*; $default },
                also: $crate::shape::also!($($also)?),
            }, )* ],
        };
    };
}

macro_rules! also {
    () => {
        &[]
    };
    ($also:expr) => {
        &$also
    };
}

/// A closed set of words as an enum and as its description.
macro_rules! words {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident: $words:ident { $( $(#[doc = $word_doc:literal])+ $variant:ident = $word:literal, )+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ::serde::Deserialize)]
        pub enum $name { $( $(#[doc = $word_doc])+ #[serde(rename = $word)] $variant, )+ }
        $(#[doc = $doc])+
        pub(crate) static $words: &[$crate::shape::Word] = &[ $( ($word, concat!($($word_doc, "\n"),+)), )+ ];
    };
}

/// Exactly one of several, as an enum and as its description.
macro_rules! one {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident: $one:ident { $( $(#[doc = $tag_doc:literal])+ $variant:ident($ty:ty) = $tag:literal, $shape:expr $(, also $also:expr)?; )+ }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, ::serde::Deserialize)]
        #[allow(clippy::large_enum_variant)] // a file has a handful of each
        pub enum $name { $( $(#[doc = $tag_doc])+ #[serde(rename = $tag)] $variant($ty), )+ }
        $(#[doc = $doc])+
        pub(crate) static $one: $crate::shape::One = $crate::shape::One {
            doc: concat!($($doc, "\n"),+),
            words: &[],
            tags: &[ $( $crate::shape::Tag {
                name: $tag,
                doc: concat!($($tag_doc, "\n"),+),
                shape: $shape,
                also: $crate::shape::also!($($also)?),
            }, )+ ],
        };
    };
}

pub(crate) use {also, keys, one, table, words};
