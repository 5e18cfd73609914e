//! What a command prints.

use std::path::Path;

use serde_json::Value;

use crate::about::About;
use crate::check::{Checked, NotEmpty};
use crate::child::Program;
use crate::dump::{Body, Part, Parts};
use crate::fault::{Fault, Reason};
use crate::setting::Setting;
use crate::text::component;

/// The kind, in words.
pub const KIND: &str = "command";

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program, an absolute path, and its arguments.
    pub argv: Vec<String>,
    /// The name of what it prints.
    pub name: String,
    /// Whether it may print nothing.
    pub may_be_empty: bool,
}

/// Begins a dump.
///
/// # Errors
/// There is no such program.
pub fn dump(source: &Command, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    let Some(program) = source.argv.first().filter(|p| p.starts_with('/')) else {
        return Err(Fault::new(
            Reason::Parameter,
            "the command must be an absolute path, with its arguments",
        ));
    };
    let program = Path::new(program);
    if !program.exists() {
        return Err(Fault::new(
            Reason::NoProgram,
            format!("there is no program {}", program.display()),
        ));
    }
    Ok(Box::new(Dump(Some((source.clone(), setting.clone())))))
}

struct Dump(Option<(Command, Setting)>);

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        let Some((source, setting)) = self.0.take() else {
            return Ok(None);
        };
        let mut body: Box<dyn Body> = Box::new(
            Program::new(Path::new(&source.argv[0]))
                .args(&source.argv[1..])
                .read(&setting)?,
        );
        if !source.may_be_empty {
            body = Checked::over(body, NotEmpty::default(), "what the command prints");
        }
        Ok(Some(Part {
            name: component(&source.name),
            what: "output",
            of: None,
            details: Value::Null,
            body,
        }))
    }

    fn about(&mut self) -> About {
        About::new(KIND)
    }
}
