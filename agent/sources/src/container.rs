//! A path, or what a command prints, inside of a container of podman or docker: for services whose data are not on the host.
//!
//! A path arrives as the archive that `cp` writes; what changes while it is read is not of one moment, so a command that makes a
//! consistent copy is the better way where the service has one.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::about::About;
use crate::check::{Checked, NotEmpty, TarEnd};
use crate::child::{Program, find};
use crate::dump::{Body, Explained, Part, Parts};
use crate::fault::{Fault, Reason};
use crate::restore::{Report, Stored};
use crate::setting::Setting;
use crate::text::component;

/// The kind, in words.
pub const KIND: &str = "container";

/// Which program runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// podman
    Podman,
    /// docker
    Docker,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Podman => "podman",
            Engine::Docker => "docker",
        }
    }
}

/// What of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file or directory: an absolute path in the container.
    Path(String),
    /// A command in the container, and the name of what it prints.
    Command(Vec<String>, String),
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name or id.
    pub name: String,
    /// Of which program.
    pub engine: Engine,
    /// The installation whose `bin` holds the program.
    pub package: Option<PathBuf>,
    /// What of it.
    pub what: What,
}

impl Container {
    fn program(&self) -> Result<Program, Fault> {
        let path = find(&[self.engine.name()], self.package.as_deref())?;
        let mut program = Program::new(&path).env(
            "HOME",
            std::env::var_os("HOME").unwrap_or_else(|| "/root".into()),
        );
        // Where a rootless podman, or a docker elsewhere, keeps its socket. No secrets.
        for name in ["XDG_RUNTIME_DIR", "DOCKER_HOST", "CONTAINER_HOST"] {
            if let Some(value) = std::env::var_os(name) {
                program = program.env(name, value);
            }
        }
        Ok(program)
    }

    fn explain(&self, fault: Fault) -> Fault {
        let has = |words: &[&str]| words.iter().any(|w| fault.text.contains(w));
        let reason = if fault.reason != Reason::Failed {
            return fault;
        } else if has(&[
            "No such container",
            "no such container",
            "no container with name",
            "Could not find the file",
            "no such file or directory",
            "could not be found in",
        ]) {
            Reason::NotThere
        } else if has(&[
            "Cannot connect to the Docker daemon",
            "Cannot connect to Podman",
            "connection refused",
        ]) {
            Reason::NoConnection
        } else if has(&["permission denied"]) {
            Reason::Denied
        } else {
            return fault;
        };
        Fault::new(reason, fault.text)
    }

    /// Whether it runs, and its image.
    fn state(&self, setting: &Setting) -> Result<(bool, String), Fault> {
        if self.name.starts_with('-') {
            return Err(Fault::new(
                Reason::Parameter,
                format!("'{}' is no name of a container", self.name),
            ));
        }
        let out = self
            .program()?
            .args([
                "container",
                "inspect",
                "--format",
                "{{.State.Running}} {{.Config.Image}}",
                &self.name,
            ])
            .output(setting, 64 << 10)
            .map_err(|e| {
                self.explain(e)
                    .during(format!("look at the container '{}'", self.name))
            })?;
        let text = String::from_utf8_lossy(&out).trim().to_owned();
        let (runs, image) = text.split_once(' ').unwrap_or((&text, ""));
        Ok((runs == "true", image.to_owned()))
    }
}

/// Begins a dump.
///
/// # Errors
/// There is no such container, or it does not run and a command was to run in it.
pub fn dump(source: &Container, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    let (runs, image) = source.state(setting)?;
    match &source.what {
        What::Command(..) if !runs => {
            return Err(Fault::new(
                Reason::NoConnection,
                format!(
                    "the container '{}' does not run, so no command can run in it",
                    source.name
                ),
            ));
        }
        What::Command(argv, _) if argv.is_empty() => {
            return Err(Fault::new(
                Reason::Parameter,
                "no command for the container was given",
            ));
        }
        What::Path(path) if !path.starts_with('/') => {
            return Err(Fault::new(
                Reason::Parameter,
                format!("'{path}' is no absolute path in the container"),
            ));
        }
        _ => {}
    }
    let mut about = About::new(KIND);
    about.server_version = Some(image);
    Ok(Box::new(Dump {
        left: Some(source.clone()),
        setting: setting.clone(),
        about,
    }))
}

struct Dump {
    left: Option<Container>,
    setting: Setting,
    about: About,
}

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        let Some(source) = self.left.take() else {
            return Ok(None);
        };
        let of = component(&source.name);
        let (name, what, details, body): (_, _, _, Box<dyn Body>) = match &source.what {
            What::Path(path) => {
                let running = source
                    .program()?
                    .arg("cp")
                    .arg(format!("{}:{path}", source.name))
                    .arg("-")
                    .read(&self.setting)?;
                let body = Checked::over(
                    Box::new(running),
                    TarEnd::default(),
                    format!("the archive of {path} in the container '{}'", source.name),
                );
                let parts: Vec<String> = path
                    .split('/')
                    .filter(|p| !p.is_empty())
                    .map(component)
                    .collect();
                let file = if parts.is_empty() {
                    "root".to_owned()
                } else {
                    parts.join("/")
                };
                (
                    format!("{of}/{file}.tar"),
                    "path",
                    json!({"path": path}),
                    body,
                )
            }
            What::Command(argv, file) => {
                let running = source
                    .program()?
                    .arg("exec")
                    .arg(&source.name)
                    .args(argv)
                    .read(&self.setting)?;
                let body = Checked::over(
                    Box::new(running),
                    NotEmpty::default(),
                    format!("what the command prints in the container '{}'", source.name),
                );
                (
                    format!("{of}/{}", component(file)),
                    "output",
                    Value::Null,
                    body,
                )
            }
        };
        Ok(Some(Part {
            name,
            what,
            of: Some(source.name.clone()),
            details,
            body: Explained::boxed(body, move |fault| source.explain(fault)),
        }))
    }

    fn about(&mut self) -> About {
        self.about.clone()
    }
}

/// Restores paths. They go over what is there, which nobody can look at beforehand: so it must be said with `replace`.
///
/// # Errors
/// What stands in the way, or what failed.
pub fn restore(
    stored: &dyn Stored,
    about: &About,
    container: &Container,
    replace: bool,
    setting: &Setting,
) -> Result<Report, Fault> {
    let items: Vec<_> = about.all("path").collect();
    if items.is_empty() {
        return Err(Fault::new(
            Reason::NotThere,
            "the snapshot holds no paths of a container; what a command printed is written out by 'keepwatch dump'",
        ));
    }
    for item in &items {
        stored.there(item)?;
    }
    container.state(setting)?;
    if !replace {
        return Err(Fault::new(
            Reason::InTheWay,
            format!(
                "what is restored into the container '{}' goes over what is there; say so with --replace; nothing was touched",
                container.name
            ),
        ));
    }
    let mut report = Report::default();
    for item in items {
        let path = item.details["path"]
            .as_str()
            .filter(|p| p.starts_with('/'))
            .ok_or_else(|| {
                Fault::new(
                    Reason::NotWhole,
                    "the snapshot does not say which path it is of",
                )
            })?;
        let into = match path.trim_end_matches('/').rfind('/') {
            Some(0) | None => "/",
            Some(at) => &path[..at],
        };
        let mut running = container
            .program()?
            .args(["cp", "-"])
            .arg(format!("{}:{into}", container.name))
            .write(setting)?;
        stored
            .write(&item.name, &mut running)
            .map_err(|e| container.explain(e))?;
        running.end().map_err(|e| container.explain(e))?;
        report
            .restored
            .push(format!("{path} in the container {}", container.name));
        report.bytes += item.bytes;
    }
    Ok(report)
}
