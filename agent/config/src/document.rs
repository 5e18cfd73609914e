//! The description as a page for people: every section with an example, every key with what it may hold and its default.

use crate::schema::about;
use crate::shape::{Default, One, Shape, Table, tidy};

/// The page. The examples are cut out of the example file, which a test reads.
pub(crate) fn markdown(root: &Table, example: &str) -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n## The whole file\n\n");
    keys(&mut out, root);
    for key in root.keys {
        let (name, inner): (String, Inner) = match &key.shape {
            Shape::Table(table) => (key.name.to_owned(), Inner::Table(table)),
            Shape::Map(_, Shape::Table(table), _) => (
                format!("{}.{}", key.name, name_of_one(key.name)),
                Inner::Table(table),
            ),
            _ => continue,
        };
        out.push_str(&format!("\n## `[{name}]`\n\n{}\n", tidy(key.doc)));
        let cut = cut(example, key.name);
        if !cut.is_empty() {
            out.push_str(&format!("\n```toml\n{cut}```\n"));
        }
        out.push('\n');
        section(&mut out, &name, &inner, 3);
    }
    out
}

const HEAD: &str = "\
# The configuration file

One TOML file says all: what is backed up and where to, what is watched, what is restarted, who is told. The agent reads
`/etc/keepwatch/config.toml`, or the file that `--config` names. The NixOS module writes it from its options: a key here is the option's
name with `_` before each capital (`failureThreshold` is `failure_threshold`).

- **Strict.** A key that is not known, a value of the wrong type, a name that does not exist are errors. All of them are listed at once,
  each with file, line, key and the nearest valid key. Nothing starts with a file that has errors.
- `keepwatch config check` says what is wrong, `keepwatch config show` what is in effect with every default, `keepwatch config schema`
  writes a JSON Schema for editors.
- **Reload.** On SIGHUP the agent reads the file again. A good one takes the place of the old one; with a bad one the old one stays.
- **No secrets.** They never stand in this file. A key that ends in `_file` names the file that holds one, by an absolute path or as
  `credential:NAME`: the systemd credential of that name. Such a file must not be readable by everybody.
- **Durations** are written `90s`, `2h30m`, `7d` (`m` is minutes), **sizes** `10M` or `1.5GiB`, **spans** of retention `1y6m7d` (`m` is months),
  **calendars** as systemd does: `daily`, `Mon..Fri 22:30`, `*-*-01 04:00`.
- **Names** of repositories, backups, checks and so on are 1 to 64 letters, digits, `.`, `_` and `-`.
- The file has at most 1 MiB.

This page is made from the same description that the agent reads the file by. A type or default that stands here is the one in effect.
";

enum Inner {
    Table(&'static Table),
    One(&'static One),
}

/// What stands for the name of one of a section.
fn name_of_one(section: &str) -> &'static str {
    if section == "restarts" {
        "UNIT"
    } else {
        "NAME"
    }
}

/// The keys of a section, then the tables inside of it.
fn section(out: &mut String, path: &str, inner: &Inner, level: usize) {
    let table = match inner {
        Inner::Table(table) => {
            if table.keys.is_empty() {
                out.push_str("It has no keys.\n");
                return;
            }
            keys(out, table);
            table
        }
        Inner::One(one) => {
            choices(out, path, one, level);
            return;
        }
    };
    for key in table.keys {
        let (name, inner) = match &key.shape {
            Shape::Table(table) => (format!("{path}.{}", key.name), Inner::Table(table)),
            Shape::One(one) if !one.tags.is_empty() => {
                (format!("{path}.{}", key.name), Inner::One(one))
            }
            Shape::Map(_, Shape::One(one), _) => {
                (format!("{path}.{}.NAME", key.name), Inner::One(one))
            }
            Shape::Map(_, Shape::Table(table), _) => {
                (format!("{path}.{}.NAME", key.name), Inner::Table(table))
            }
            Shape::List(Shape::Table(table), ..) => {
                (format!("{path}.{}[]", key.name), Inner::Table(table))
            }
            Shape::List(Shape::One(one), ..) => (format!("{path}.{}[]", key.name), Inner::One(one)),
            Shape::Words(words) if words.len() > 9 => {
                list(out, &format!("{path}.{}", key.name), words, level);
                continue;
            }
            _ => continue,
        };
        let doc = match &inner {
            Inner::Table(table) => tidy(table.doc),
            Inner::One(one) => tidy(one.doc),
        };
        heading(out, &name, level);
        out.push_str(&format!("{doc}\n\n"));
        section(out, &name, &inner, level + 1);
    }
}

fn heading(out: &mut String, name: &str, level: usize) {
    out.push_str(&format!("\n{} `{name}`\n\n", "#".repeat(level.min(6))));
}

fn list(out: &mut String, name: &str, words: &[crate::shape::Word], level: usize) {
    heading(out, name, level);
    out.push_str("| value | means |\n|---|---|\n");
    for (word, means) in words {
        out.push_str(&format!("| `{word}` | {} |\n", cell(&tidy(means))));
    }
}

fn choices(out: &mut String, path: &str, one: &One, level: usize) {
    out.push_str("| choice | holds | means |\n|---|---|---|\n");
    for (word, means) in one.words {
        out.push_str(&format!(
            "| `\"{word}\"` | nothing | {} |\n",
            cell(&tidy(means))
        ));
    }
    for tag in one.tags {
        out.push_str(&format!(
            "| `{}` | {} | {} |\n",
            tag.name,
            cell(&tag.shape.title()),
            cell(&about(tag.doc, &tag.shape))
        ));
    }
    for tag in one.tags {
        if let Shape::Table(table) = &tag.shape {
            let name = format!("{path}.{}", tag.name);
            heading(out, &name, level);
            out.push_str(&format!("{}\n\n", about(tag.doc, &tag.shape)));
            let limits = if path.ends_with(".probe") {
                crate::sections::probes::default_limits(tag.name)
            } else {
                "[]"
            };
            section(out, &name, &Inner::Table(table), level + 1);
            if limits != "[]" {
                out.push_str(&format!(
                    "\nWithout `limits` of its own: `limits = {limits}`\n"
                ));
            }
        }
    }
}

fn keys(out: &mut String, table: &Table) {
    out.push_str("| key | may hold | default | what it is for |\n|---|---|---|---|\n");
    for key in table.keys {
        let default = match key.default {
            Default::Required => "**required**".to_owned(),
            Default::Absent => "–".to_owned(),
            Default::Value(text) => format!("`{text}`"),
            Default::Empty => "see below".to_owned(),
            Default::Derived(text) => text.to_owned(),
        };
        out.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            key.name,
            cell(&key.shape.title()),
            cell(&default),
            cell(&explained(key.doc, &key.shape))
        ));
    }
}

/// What a key is for, and what its words mean when they are few.
fn explained(doc: &str, shape: &Shape) -> String {
    let mut out = tidy(doc);
    if let Shape::Words(words) = shape {
        let told: Vec<String> = words
            .iter()
            .filter(|w| !w.1.is_empty())
            .map(|(word, means)| format!("`{word}`: {}", lower(&tidy(means))))
            .collect();
        if !told.is_empty() && words.len() <= 9 {
            out.push_str(&format!(" {}.", told.join("; ")));
        }
    }
    out
}

fn lower(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // An abbreviation stays as it is.
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// What the example file says of a section, its comments included.
fn cut(example: &str, section: &str) -> String {
    let mut out = String::new();
    for paragraph in example.split("\n\n") {
        let header = paragraph
            .lines()
            .map(str::trim)
            .find(|l| l.starts_with('['));
        let name = header.map(|h| h.trim_matches(|c| c == '[' || c == ']'));
        if name.is_some_and(|n| n == section || n.starts_with(&format!("{section}."))) {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(paragraph.trim_matches('\n'));
            out.push('\n');
        }
    }
    out
}
