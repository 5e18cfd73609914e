//! Reads the source: no statement is put together at run time, and sqlx is named where it may be.

use std::fs;
use std::path::Path;

const WORDS: &[&str] = &[
    "SELECT ", "INSERT ", "UPDATE ", "DELETE ", "PRAGMA ", "CREATE ", "ALTER ", "DROP ", "WHERE ",
    "VALUES ",
];

/// What is wrong with a source text.
fn findings(name: &str, text: &str) -> Vec<String> {
    let code = text
        .split("\n#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or("");
    let code: String = code
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut out = Vec::new();
    // Every way into the driver takes a literal, a constant, or the field of a constant.
    for call in [
        "sqlx::query(",
        "sqlx::query_scalar(",
        "sqlx::query_as(",
        "sqlx::raw_sql(",
        "begin_with(",
        "QueryBuilder",
        ".execute(&*",
        "AssertSqlSafe",
    ] {
        for (at, _) in code.match_indices(call) {
            let rest = code[at + call.len()..].trim_start();
            let constant = rest
                .split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
                .next()
                .unwrap_or("")
                .len()
                > 2;
            let field = ["$text", "sql.sqlite", "sql.postgres"]
                .iter()
                .any(|f| rest.starts_with(f));
            if !(rest.starts_with('"') || constant || field) || call == "QueryBuilder" {
                out.push(format!(
                    "{name}: a statement that is no constant: {call}{}",
                    rest.chars().take(40).collect::<String>()
                ));
            }
        }
    }
    for call in ["Sql::both(", "Sql::split("] {
        for (at, _) in code.match_indices(call) {
            let rest = code[at + call.len()..].trim_start();
            if !(rest.starts_with('"') || rest.starts_with("concat!(")) {
                out.push(format!(
                    "{name}: a statement that is no literal: {}",
                    rest.chars().take(40).collect::<String>()
                ));
            }
        }
    }
    // No SQL in anything that formats or joins.
    for call in [
        "format!(",
        "format_args!(",
        "write!(",
        "push_str(",
        "concat(",
        "join(",
        "leak(",
    ] {
        for (at, _) in code.match_indices(call) {
            let rest: String = code[at + call.len()..].chars().take(200).collect();
            let argument = rest.split(';').next().unwrap_or("");
            if WORDS.iter().any(|w| argument.contains(w)) || call == "leak(" {
                out.push(format!("{name}: text is put together near SQL: {argument}"));
            }
        }
    }
    out
}

#[test]
fn statements_are_constants() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    let mut found = Vec::new();
    for entry in fs::read_dir(src).expect("the source") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("read");
        files += 1;
        found.extend(findings(&path.display().to_string(), &text));
    }
    assert!(files > 15, "{files}");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_rule_can_fail() {
    for bad in [
        "sqlx::query(&format!(\"x {name}\"))",
        "sqlx::query(text)",
        "sqlx::raw_sql(&sql)",
        "Sql::both(text)",
        "Sql { sqlite: Box::leak(x), postgres: \"\" }",
        "let q = format!(\"SELECT * FROM {table}\");",
        "q.push_str(\" WHERE host = \");",
        "pool.begin_with(statement)",
    ] {
        assert!(!findings("made up", bad).is_empty(), "{bad}");
    }
    for good in [
        "sqlx::query(\"SELECT 1\")",
        "sqlx::query(VACUUM)",
        "sqlx::raw_sql(sql.sqlite)",
        "Sql::both(\n  \"SELECT 1\")",
        "format!(\"{n} rows\")",
    ] {
        assert!(findings("made up", good).is_empty(), "{good}");
    }
}

#[test]
fn secrets_have_no_way_into_errors_or_logs() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/place.rs");
    let text = fs::read_to_string(src).expect("read");
    // The password lives in one function and one call; neither prints.
    assert_eq!(text.matches("options.password(").count(), 1);
    assert!(!text.contains("{password"), "a password is formatted");
}
