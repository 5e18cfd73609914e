//! `completions` and `man`: written from the definition of the command line.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::cli::definition;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::Out;

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "Examples:
  keepwatch completions bash > /etc/bash_completion.d/keepwatch
  keepwatch completions zsh > ~/.zfunc/_keepwatch")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Print the manual page, or write all of them
#[derive(Args)]
#[command(after_help = "Examples:
  keepwatch man | man -l -
  keepwatch man --dir /usr/share/man/man1")]
pub struct ManArgs {
    /// Write a page for every verb into this directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `completions`
pub fn completions(args: &CompletionsArgs) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "keepwatch", &mut text);
    print(&text)
}

/// `man`
pub fn man(args: &ManArgs) -> Outcome {
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .map_err(|e| Failure::file("create the directory", dir, &e))?;
            clap_mangen::generate_to(definition(), dir)
                .map_err(|e| Failure::file("write manual pages to", dir, &e))?;
            Ok(Exit::Done)
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(definition())
                .render(&mut text)
                .map_err(|e| Failure::failed(format!("cannot make the manual page: {e}")))?;
            print(&text)
        }
    }
}

fn print(text: &[u8]) -> Outcome {
    let mut out = Out::new();
    out.text(String::from_utf8_lossy(text))?;
    out.flush()?;
    Ok(Exit::Done)
}
