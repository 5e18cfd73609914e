//! Ways to people: from `[notifications]` to a post office for each receiver, and from an alert to the receivers that get it.
//!
//! Each receiver has an office of its own, with its own certificates to trust and its own memory of what was told, so that one
//! that hangs disturbs no other. Routes decide here who gets what; the office decides when and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use keepwatch_config::sections::notifications::{
    ChatId, GroupKey, MailTls, Notifications, Receiver,
};
use keepwatch_config::{Config, Credentials, SecretSource};
use keepwatch_expose::facts::{At, Channel as Shown, Heartbeat};
use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::http::Net;
use keepwatch_notify::medium::{Medium, alertmanager, deadman, mail, ntfy, telegram, webhook};
use keepwatch_notify::plan::{Rules, State};
use keepwatch_notify::post::{self, Channel, Post, Running, Settings, World};
use keepwatch_notify::secret::SecretFile;
use tokio::sync::watch;

use super::world::{World as Host, share};

/// The name of the office of the dead-man switch. No receiver can have it: names hold no blanks.
const DEAD_MAN: &str = "dead man";
/// What still fires and is critical is told again at least this often.
const REPEAT_CRITICAL: Duration = Duration::from_secs(3600);
/// What an Alertmanager knows is told it again this often.
const RESEND: Duration = Duration::from_secs(60);

/// An office, before it is opened.
pub struct Plan {
    name: String,
    settings: Settings,
    ca_file: Option<PathBuf>,
    /// A file that must hold a text before: the URL of a topic.
    file: Option<(PathBuf, String)>,
}

/// What the configuration asks for. `files` is a directory of ours, for what the offices read from files.
///
/// # Errors
/// A sentence for each receiver that cannot be made.
pub fn plan(
    config: &Config,
    host: &str,
    credentials: &Credentials,
    files: &Path,
) -> Result<Vec<Plan>, Vec<String>> {
    let n = &config.notifications;
    let (mut out, mut faults) = (Vec::new(), Vec::new());
    for (name, receiver) in &n.receivers {
        match one(n, host, name, receiver, credentials, files) {
            Ok(plan) => match plan.settings.check() {
                Ok(()) => out.push(plan),
                Err(why) => faults.push(format!("the receiver {name}: {why}")),
            },
            Err(why) => faults.push(format!("the receiver {name}: {why}")),
        }
    }
    if let Some(switch) = &n.dead_man_switch {
        match secret(&switch.url_file, credentials) {
            Ok(url_file) => out.push(Plan {
                name: DEAD_MAN.to_owned(),
                settings: Settings {
                    host: host.to_owned(),
                    deadman: Some(deadman::Settings {
                        url_file,
                        interval: switch.interval,
                        plain_http: false,
                    }),
                    ..Settings::default()
                },
                ca_file: switch.ca_file.clone(),
                file: None,
            }),
            Err(why) => faults.push(format!("the dead-man switch: {why}")),
        }
    }
    if faults.is_empty() {
        Ok(out)
    } else {
        Err(faults)
    }
}

fn secret(source: &SecretSource, credentials: &Credentials) -> Result<SecretFile, String> {
    let path = source.path(credentials).map_err(|e| e.to_string())?;
    Ok(SecretFile(path))
}

fn maybe(
    source: Option<&SecretSource>,
    credentials: &Credentials,
) -> Result<Option<SecretFile>, String> {
    source.map(|s| secret(s, credentials)).transpose()
}

fn one(
    n: &Notifications,
    host: &str,
    name: &str,
    receiver: &Receiver,
    credentials: &Credentials,
    files: &Path,
) -> Result<Plan, String> {
    let mut file = None;
    let (medium, ca_file) = match receiver {
        Receiver::Telegram(t) => {
            let medium = Medium::Telegram(telegram::Settings {
                token_file: secret(&t.bot_token_file, credentials)?,
                chat_id: match &t.chat_id {
                    ChatId::Number(n) => n.to_string(),
                    ChatId::Name(name) => name.clone(),
                },
                thread_id: t.message_thread_id,
                api: Some(t.api_url.clone()),
                silent: t.silent,
            });
            (medium, None)
        }
        Receiver::Email(e) => {
            let (server, port) = server_and_port(&e.smarthost);
            let medium = Medium::Mail(mail::Settings {
                server,
                port,
                security: match e.tls {
                    MailTls::Implicit => mail::Security::Tls,
                    MailTls::Starttls => mail::Security::Starttls,
                    MailTls::Off => mail::Security::None,
                },
                from: e.from.clone(),
                to: e.to.clone(),
                username: e.username.clone(),
                password_file: maybe(e.password_file.as_ref(), credentials)?,
            });
            (medium, e.ca_file.clone())
        }
        Receiver::Webhook(w) => {
            let medium = Medium::Webhook(webhook::Settings {
                url_file: secret(&w.url_file, credentials)?,
                token_file: maybe(w.bearer_token_file.as_ref(), credentials)?,
                key_file: maybe(w.signing_key_file.as_ref(), credentials)?,
                plain_http: false,
            });
            (medium, w.ca_file.clone())
        }
        Receiver::Ntfy(t) => {
            // A topic is a password on a public server: it is read from a file as other secrets are, and stands in none of our logs.
            let path = files.join(format!("ntfy-{name}.url"));
            file = Some((
                path.clone(),
                format!("{}/{}\n", t.base_url.trim_end_matches('/'), t.topic),
            ));
            let medium = Medium::Ntfy(ntfy::Settings {
                url_file: SecretFile(path),
                token_file: maybe(t.token_file.as_ref(), credentials)?,
                tags: Vec::new(),
                plain_http: false,
            });
            (medium, t.ca_file.clone())
        }
        Receiver::Alertmanager(a) => {
            let basic = match (&a.basic_user, &a.password_file) {
                (Some(user), Some(file)) => Some((user.clone(), secret(file, credentials)?)),
                (None, None) => None,
                _ => {
                    return Err("basic_user and password_file go together".into());
                }
            };
            return Ok(Plan {
                name: name.to_owned(),
                settings: Settings {
                    host: host.to_owned(),
                    alertmanager: Some(alertmanager::Settings {
                        urls: a.urls.clone(),
                        token_file: maybe(a.bearer_token_file.as_ref(), credentials)?,
                        basic,
                        resend: RESEND,
                        min_severity: Severity::Info,
                    }),
                    ..Settings::default()
                },
                ca_file: a.ca_file.clone(),
                file: None,
            });
        }
    };
    Ok(Plan {
        name: name.to_owned(),
        settings: Settings {
            host: host.to_owned(),
            channels: vec![Channel {
                name: name.to_owned(),
                medium,
                rules: rules(n, name),
            }],
            ..Settings::default()
        },
        ca_file,
        file,
    })
}

fn rules(n: &Notifications, receiver: &str) -> Rules {
    let own = n
        .routes
        .iter()
        .filter(|r| r.receiver == receiver)
        .find_map(|r| r.repeat_interval);
    let repeat = own.unwrap_or(n.repeat_interval);
    Rules {
        // Routes have decided already.
        min_severity: Severity::Info,
        group_by: n.group_by.iter().map(|k| key(*k).to_owned()).collect(),
        wait: n.group_wait,
        interval: n.group_interval,
        repeat,
        repeat_critical: repeat.min(REPEAT_CRITICAL),
        cooldown: n.group_interval,
        resolved: n.send_resolved,
        per_hour: n.max_per_hour,
        ..Rules::default()
    }
}

const fn key(key: GroupKey) -> &'static str {
    match key {
        GroupKey::Alertname => "alertname",
        GroupKey::Instance => "instance",
        GroupKey::Severity => "severity",
        GroupKey::Check => "check",
        GroupKey::Backup => "backup",
        GroupKey::Repository => "repository",
        GroupKey::Unit => "unit",
    }
}

/// `host:port`, `[::1]:port`, or only a host.
fn server_and_port(text: &str) -> (String, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host.to_owned(), Some(port)),
            Err(_) => (text.to_owned(), None),
        },
        _ => (text.to_owned(), None),
    }
}

/// Who gets an alert: the first route that fits, further ones where it says so, else the default.
fn receivers<'a>(n: &'a Notifications, alert: &Alert) -> BTreeSet<&'a str> {
    let labels = alert.labels();
    let among = |names: &[String], label: &str| {
        names.is_empty() || labels.get(label).is_some_and(|value| names.contains(value))
    };
    let mut out = BTreeSet::new();
    let mut fitted = false;
    for route in &n.routes {
        let fits = (route.severity.is_empty() || route.severity.contains(&alert.severity()))
            && among(&route.checks, "check")
            && among(&route.backups, "backup");
        if fits {
            fitted = true;
            out.insert(route.receiver.as_str());
            if !route.continue_matching {
                return out;
            }
        }
    }
    if !fitted {
        out.extend(n.default_receiver.as_deref());
    }
    out
}

/// Offices that are open. Cheap to clone.
#[derive(Clone)]
pub struct Office {
    notifications: Arc<Notifications>,
    posts: Arc<BTreeMap<String, Post>>,
}

/// Tells when what the offices remember has changed.
pub struct Told(Vec<watch::Receiver<State>>);

impl Told {
    /// Until it has changed; false when an office is closed. Never, without offices.
    pub async fn changed(&mut self) -> bool {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        let changes = self.0.iter_mut().map(|one| Box::pin(one.changed()));
        select_all(changes).await.0.is_ok()
    }
}

/// Their tasks.
pub struct Staff(Vec<(String, Running)>);

/// Opens the offices with what they remember. `alive` says whether the agent is well. Must be called within a runtime.
///
/// # Errors
/// A sentence: a file of ours cannot be written, or settings make no sense.
pub fn open(
    plans: Vec<Plan>,
    notifications: &Notifications,
    mut states: BTreeMap<String, State>,
    alive: &Arc<dyn Fn() -> bool + Send + Sync>,
) -> Result<(Office, Staff), String> {
    let (mut posts, mut staff) = (BTreeMap::new(), Vec::new());
    for plan in plans {
        if let Some((path, text)) = &plan.file {
            crate::places::replace_private(path, text)
                .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        }
        let world = World {
            clock: Arc::new(Host),
            random: Arc::new(share),
            alive: Arc::clone(alive),
            net: Net::new(plan.ca_file),
        };
        let state = states.remove(&plan.name).unwrap_or_default();
        let (post, running) = post::open(plan.settings, state, world)?;
        posts.insert(plan.name.clone(), post);
        staff.push((plan.name, running));
    }
    let office = Office {
        notifications: Arc::new(notifications.clone()),
        posts: Arc::new(posts),
    };
    Ok((office, Staff(staff)))
}

impl Office {
    /// What fires now: all of it.
    pub fn observe(&self, firing: &[Alert]) {
        for (name, post) in &*self.posts {
            let theirs: Vec<Alert> = firing
                .iter()
                .filter(|a| receivers(&self.notifications, a).contains(name.as_str()))
                .cloned()
                .collect();
            post.observe(&theirs);
        }
    }

    /// Something to be told once.
    pub fn notice(&self, alert: &Alert) {
        for name in receivers(&self.notifications, alert) {
            if let Some(post) = self.posts.get(name) {
                post.notice(alert);
            }
        }
    }

    /// What the offices remember, by receiver.
    pub fn states(&self) -> BTreeMap<String, State> {
        self.posts
            .iter()
            .filter(|(name, _)| *name != DEAD_MAN)
            .map(|(name, post)| (name.clone(), post.state().borrow().clone()))
            .collect()
    }

    /// Tells of changes of [`Office::states`].
    pub fn told(&self) -> Told {
        let offices = self.posts.iter().filter(|(name, _)| *name != DEAD_MAN);
        Told(offices.map(|(_, post)| post.state()).collect())
    }

    /// How the channels do, for metrics.
    pub fn channels(&self) -> Vec<Shown> {
        let mut out = Vec::new();
        for (name, post) in self.posts.iter().filter(|(name, _)| *name != DEAD_MAN) {
            let reach = post.alertmanager();
            let mut row = Shown {
                name: name.clone(),
                delivered: reach.successes,
                failures: reach.failures,
                ..Shown::default()
            };
            for (tally, waiting) in post.tallies().into_values() {
                row.delivered += tally.delivered;
                row.failures += tally.failures;
                row.undeliverable += tally.undeliverable;
                row.queued += waiting as u64;
            }
            out.push(row);
        }
        out
    }

    /// How the dead-man switch does, when there is one.
    pub fn heartbeat(&self) -> Option<Heartbeat> {
        let switch = self.notifications.dead_man_switch.as_ref()?;
        let reach = self.posts.get(DEAD_MAN)?.deadman();
        Some(Heartbeat {
            last_success: reach.last_success.map(|at| At(at.0)),
            interval: switch.interval,
            failures: reach.failures,
        })
    }
}

impl Staff {
    /// Closes all offices at once, within this time. What they remember is returned.
    pub async fn stop(self, deadline: Duration) -> BTreeMap<String, State> {
        let mut closing = tokio::task::JoinSet::new();
        for (name, running) in self.0 {
            closing.spawn(async move { (name, running.stop(deadline).await) });
        }
        let mut states = BTreeMap::new();
        while let Some(done) = closing.join_next().await {
            if let Ok((name, state)) = done {
                states.insert(name, state);
            }
        }
        states.remove(DEAD_MAN);
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVERS: &str = "
[checks.web]
probe.tcp = { target = \"127.0.0.1:80\" }
[notifications]
default_receiver = \"quiet\"
[notifications.receivers.loud]
telegram = { bot_token_file = \"/run/token\", chat_id = 7 }
[notifications.receivers.quiet]
email = { to = [\"a@example.org\"], from = \"k@example.org\", smarthost = \"mail.example.org:587\" }
[notifications.receivers.topic]
ntfy = { topic = \"abc\" }
[[notifications.routes]]
receiver = \"topic\"
checks = [\"web\"]
continue_matching = true
repeat_interval = \"2h\"
[[notifications.routes]]
receiver = \"loud\"
severity = [\"critical\"]
";

    fn loaded(text: &str) -> keepwatch_config::Loaded {
        keepwatch_config::parse(text, "test").unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn routes_decide_who_is_told() {
        let loaded = loaded(RECEIVERS);
        let n = &loaded.config.notifications;
        use keepwatch_notify::time::At;
        let to = |severity, check: &str| {
            let alert = Alert::new("X", severity, At(0)).label("check", check);
            receivers(n, &alert)
                .into_iter()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(to(Severity::Critical, "web"), "loud topic");
        assert_eq!(to(Severity::Warning, "web"), "topic");
        assert_eq!(to(Severity::Critical, "db"), "loud");
        assert_eq!(to(Severity::Warning, "db"), "quiet");
    }

    #[test]
    fn receivers_become_offices_or_say_why_not() {
        let loaded = loaded(RECEIVERS);
        let dir = Path::new("/var/lib/keepwatch");
        let plans = plan(&loaded.config, "h", &Credentials::default(), dir)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["loud", "quiet", "topic"]);
        let rules = &plans[2].settings.channels[0].rules;
        assert_eq!(rules.repeat, Duration::from_secs(7200));
        assert_eq!(rules.repeat_critical, Duration::from_secs(3600));
        let (path, text) = plans[2].file.as_ref().expect("a file");
        assert_eq!(path, &dir.join("ntfy-topic.url"));
        assert_eq!(text, "https://ntfy.sh/abc\n");

        let text = RECEIVERS.replace("/run/token", "credential:bot");
        let loaded = self::loaded(&text);
        let faults = plan(&loaded.config, "h", &Credentials::default(), dir);
        let Err(faults) = faults else {
            panic!("a credential without a directory of credentials")
        };
        assert!(
            faults[0].contains("loud") && faults[0].contains("credential"),
            "{faults:?}"
        );
    }

    #[test]
    fn servers_and_ports() {
        for (text, host, port) in [
            ("mail.example.org:587", "mail.example.org", Some(587)),
            ("mail.example.org", "mail.example.org", None),
            ("[::1]:25", "[::1]", Some(25)),
            ("::1", "::1", None),
        ] {
            assert_eq!(server_and_port(text), (host.to_owned(), port), "{text}");
        }
    }
}
