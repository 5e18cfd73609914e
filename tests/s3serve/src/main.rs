//! The command `keepwatch-s3serve`: the server, or the proxy, for tests in other languages. It prints one line of JSON when it answers, and ends on
//! SIGINT, SIGTERM, or when its standard input is closed (`--until-eof`), so that no server outlives its test.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;

use clap::{Args, Parser, Subcommand};
use keepwatch_s3serve::{Config, LockMode, Proxy, ProxyConfig, Retention, Rule, Server, Switches};

/// An S3 server in memory that misbehaves on command.
#[derive(Parser)]
#[command(
    name = "keepwatch-s3serve",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// The S3 server (also without a subcommand).
    Serve(Serve),
    /// A TCP proxy that breaks connections on command.
    Proxy(Link),
}

#[derive(Args)]
struct Serve {
    /// Where S3 is served
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where it is controlled (JSON over HTTP)
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// The bucket that is there from the start
    #[arg(long, default_value = "keepwatch")]
    bucket: String,
    /// The region
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// The bucket keeps versions
    #[arg(long)]
    versioned: bool,
    /// The bucket has Object Lock; with MODE:DAYS, that is its default retention
    #[arg(long, value_name = "MODE:DAYS", num_args = 0..=1, default_missing_value = "none", value_parser = lock)]
    object_lock: Option<ObjectLock>,
    /// Bodies lie in this directory instead of in memory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Least bytes of a part of a multipart upload
    #[arg(long, default_value_t = 5 << 20)]
    min_part: u64,
    /// Where chance comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Switches that are not as usual, as JSON
    #[arg(long, value_name = "JSON", value_parser = switches)]
    switches: Option<Switches>,
    /// A rule, as JSON; may be repeated
    #[arg(long, value_name = "JSON", value_parser = rule)]
    rule: Vec<Rule>,
    /// End when standard input is closed
    #[arg(long)]
    until_eof: bool,
}

#[derive(Args)]
struct Link {
    /// Where it takes connections
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where they go
    #[arg(long)]
    upstream: SocketAddr,
    /// Where it is controlled (JSON over HTTP)
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Latency each way, in milliseconds
    #[arg(long, default_value_t = 0)]
    latency: u64,
    /// Bytes in each second each way; 0: no limit
    #[arg(long, default_value_t = 0)]
    bandwidth: u64,
    /// Where chance comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End when standard input is closed
    #[arg(long)]
    until_eof: bool,
}

#[derive(Clone, Copy)]
struct ObjectLock(Option<Retention>);

fn lock(text: &str) -> Result<ObjectLock, String> {
    if text == "none" {
        return Ok(ObjectLock(None));
    }
    let wrong = || format!("'{text}' is not compliance:DAYS or governance:DAYS");
    let (mode, days) = text.split_once(':').ok_or_else(wrong)?;
    let mode = match mode {
        "compliance" => LockMode::Compliance,
        "governance" => LockMode::Governance,
        _ => return Err(wrong()),
    };
    let days = days.parse().map_err(|_| wrong())?;
    Ok(ObjectLock(Some(Retention { mode, days })))
}

fn switches(text: &str) -> Result<Switches, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

fn rule(text: &str) -> Result<Rule, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(options) => serve(options),
        Command::Proxy(options) => proxy(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("keepwatch-s3serve: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Serve) -> io::Result<()> {
    if let Some(dir) = &options.dir {
        std::fs::create_dir_all(dir)?;
    }
    let server = Server::start(Config {
        listen: options.listen,
        control: Some(options.control),
        region: options.region,
        bucket: options.bucket,
        versioned: options.versioned,
        object_lock: options.object_lock.is_some(),
        retention: options.object_lock.and_then(|l| l.0),
        dir: options.dir,
        min_part: options.min_part,
        seed: options.seed,
        switches: options.switches.unwrap_or_default(),
        rules: options.rule,
        ..Config::default()
    })?;
    say(&server.description())?;
    wait(options.until_eof)
}

fn proxy(options: Link) -> io::Result<()> {
    let proxy = Proxy::start(ProxyConfig {
        listen: options.listen,
        upstream: options.upstream,
        control: Some(options.control),
        seed: options.seed,
        link: keepwatch_s3serve::Link {
            latency_ms: options.latency,
            up_bytes_per_second: options.bandwidth,
            down_bytes_per_second: options.bandwidth,
        },
    })?;
    say(&serde_json::json!({
        "endpoint": proxy.endpoint(),
        "control": proxy.control(),
        "pid": std::process::id(),
    }))?;
    wait(options.until_eof)
}

fn say(what: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()
}

/// Returns when the program shall end.
fn wait(until_eof: bool) -> io::Result<()> {
    let (tell, told) = mpsc::channel();
    let by_signal = tell.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut int), Ok(mut term)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return;
        };
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        // nobody listens any more: the program ends already
        let _ = by_signal.send(());
    });
    if until_eof {
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let mut stdin = io::stdin().lock();
            while matches!(stdin.read(&mut buffer), Ok(n) if n > 0) {}
            let _ = tell.send(());
        });
        told.recv().map_err(io::Error::other)
    } else {
        let waited = told.recv().map_err(io::Error::other);
        drop(tell);
        waited
    }
}
