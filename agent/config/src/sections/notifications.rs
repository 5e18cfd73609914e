//! `[notifications]`: telling people. The main way is Prometheus and its Alertmanager; this is for hosts without them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::Deserialize;

use super::OTHERS_MAX;
use super::checks::SEVERITY;
use crate::secret::SecretSource;
use crate::shape::{Shape, one, table, words};
use crate::text::Text;

table! {
    /// Telling people what happened.
    pub struct Notifications: NOTIFICATIONS {
        /// Who can be told, by name.
        receivers: BTreeMap<String, Receiver> = Shape::Map(Text::Name, &Shape::One(&RECEIVER), OTHERS_MAX), Value("{}"), also ["receiver", "channels"];
        /// Who is told what no route takes; nobody when it is left out.
        default_receiver: Option<String> = Shape::Text(Text::Ref("notifications.receivers")), Absent, also ["receiver"];
        /// Who is told what. The first that fits is taken.
        routes: Vec<Route> = Shape::List(&Shape::Table(&ROUTE), 0, 64), Value("[]"), also ["route"];
        /// Alerts that are alike in these are told together.
        group_by: Vec<GroupKey> = Shape::List(&Shape::Words(GROUP_KEY), 0, 8), Value("[\"alertname\", \"instance\"]");
        /// How long more of a group is waited for before the first message.
        group_wait: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(0, 3_600_000)), Value("\"30s\"");
        /// At least so long between two messages about a group.
        group_interval: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 86_400_000)), Value("\"5m\""), also ["cooldown"];
        /// After how long a person is told again of what goes on.
        repeat_interval: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(60_000, 31 * 86_400_000)), Value("\"4h\""), also ["repeat", "reminder"];
        /// Also tell when it is over.
        send_resolved: bool = Shape::Bool, Value("true"), also ["resolve", "resolved"];
        /// At most so many messages an hour to each receiver, and half as many again about what is critical. One then says that further ones are held back, and one how many were left out, when half of the hour is free again. Critical alerts that begin meanwhile are told even so, together, every five minutes at most.
        max_per_hour: u32 = Shape::Int(1, 1000), Value("60");
        /// Somebody elsewhere who notices when this host falls silent.
        dead_man_switch: Option<DeadManSwitch> = Shape::Table(&DEAD_MAN_SWITCH), Absent, also ["dead_man", "heartbeat", "watchdog"];
    }
}

table! {
    /// Who is told what.
    pub struct Route: ROUTE {
        /// Who.
        receiver: String = Shape::Text(Text::Ref("notifications.receivers")), Required, also ["to"];
        /// Of these severities; of any when it is empty.
        severity: Vec<Severity> = Shape::List(&Shape::Words(SEVERITY), 0, 3), Value("[]"), also ["severities"];
        /// Of these checks; of any when it is empty.
        checks: Vec<String> = Shape::List(&Shape::Text(Text::Ref("checks")), 0, 1000), Value("[]");
        /// Of these backups; of any when it is empty.
        backups: Vec<String> = Shape::List(&Shape::Text(Text::Ref("backups")), 0, 256), Value("[]");
        /// Go on: who fits later is told too.
        continue_matching: bool = Shape::Bool, Value("false"), also ["continue"];
        /// After how long this receiver is told again; as for all when it is left out.
        repeat_interval: Option<Duration> as ["crate::typed::maybe_duration"] = Shape::Text(Text::Duration(60_000, 31 * 86_400_000)), Absent;
    }
}

words! {
    /// What alerts have in common.
    pub enum GroupKey: GROUP_KEY {
        /// The name of the alert.
        Alertname = "alertname",
        /// The host.
        Instance = "instance",
        /// The severity.
        Severity = "severity",
        /// The check.
        Check = "check",
        /// The backup.
        Backup = "backup",
        /// The repository.
        Repository = "repository",
        /// The unit.
        Unit = "unit",
    }
}

one! {
    /// Somebody who can be told: exactly one of these.
    pub enum Receiver: RECEIVER {
        /// A chat of Telegram.
        Telegram(Telegram) = "telegram", Shape::Table(&TELEGRAM);
        /// Mail.
        Email(Email) = "email", Shape::Table(&EMAIL), also ["mail", "smtp"];
        /// A POST request with JSON.
        Webhook(Webhook) = "webhook", Shape::Table(&WEBHOOK), also ["http", "slack"];
        /// A topic of ntfy.
        Ntfy(Ntfy) = "ntfy", Shape::Table(&NTFY);
        /// The API of an Alertmanager (version 2), which then groups and routes by itself.
        Alertmanager(Alertmanager) = "alertmanager", Shape::Table(&ALERTMANAGER), also ["prometheus"];
    }
}

table! {
    /// A chat of Telegram.
    pub struct Telegram: TELEGRAM {
        /// The bot's token.
        bot_token_file: SecretSource = Shape::Text(Text::Secret), Required, also ["token_file"];
        /// The chat: a number, or the name of a channel with `@`.
        chat_id: ChatId = Shape::Either(&[Shape::Int(i64::MIN, i64::MAX), Shape::Text(Text::Line)]), Required, also ["chat"];
        /// The topic within the chat.
        message_thread_id: Option<i64> = Shape::Int(1, i64::MAX), Absent, also ["topic"];
        /// Without a sound.
        silent: bool = Shape::Bool, Value("false");
        /// The server of the API.
        api_url: String = Shape::Text(Text::Url), Value("\"https://api.telegram.org\"");
    }
}

/// A chat of Telegram.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ChatId {
    /// By number.
    Number(i64),
    /// By the name of a channel, `@name`.
    Name(String),
}

table! {
    /// Mail.
    pub struct Email: EMAIL {
        /// To whom.
        to: Vec<String> = Shape::List(&Shape::Text(Text::Mail), 1, 32), Required;
        /// From whom.
        from: String = Shape::Text(Text::Mail), Required, also ["sender"];
        /// The server that takes mail.
        smarthost: String = Shape::Text(Text::Server), Required, also ["host", "server", "smtp_server"];
        /// The user there.
        username: Option<String> = Shape::Text(Text::Line), Absent, also ["user"];
        /// The password there.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// How the connection is made secret.
        tls: MailTls = Shape::Words(MAIL_TLS), Value("\"starttls\""), also ["require_tls", "ssl"];
        /// Trust only the certificates of this PEM file.
        ca_file: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

words! {
    /// How a connection to a mail server is made secret.
    pub enum MailTls: MAIL_TLS {
        /// From the first byte (port 465).
        Implicit = "implicit",
        /// By STARTTLS, and not at all without it.
        Starttls = "starttls",
        /// Not at all: for a server on this host. No password is sent.
        Off = "off",
    }
}

table! {
    /// A POST request with JSON.
    pub struct Webhook: WEBHOOK {
        /// Where to. The URL is a secret, because it often lets anybody write.
        url_file: SecretSource = Shape::Text(Text::Secret), Required, also ["url"];
        /// A bearer token.
        bearer_token_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent, also ["token_file"];
        /// A key with which each body is signed (HMAC-SHA-256, header `Keepwatch-Signature`).
        signing_key_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// Trust only the certificates of this PEM file.
        ca_file: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// A topic of ntfy.
    pub struct Ntfy: NTFY {
        /// The server.
        base_url: String = Shape::Text(Text::Url), Value("\"https://ntfy.sh\""), also ["url", "server"];
        /// The topic. On a public server whoever knows it can read it.
        topic: String = Shape::Text(Text::Name), Required;
        /// An access token.
        token_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// Trust only the certificates of this PEM file.
        ca_file: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// The API of an Alertmanager.
    pub struct Alertmanager: ALERTMANAGER {
        /// The servers; each gets every alert.
        urls: Vec<String> = Shape::List(&Shape::Text(Text::Url), 1, 8), Required, also ["url"];
        /// A bearer token.
        bearer_token_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent, also ["token_file"];
        /// User for basic authentication, with `password_file`.
        basic_user: Option<String> = Shape::Text(Text::Line), Absent, also ["user", "username"];
        /// Its password.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// Trust only the certificates of this PEM file.
        ca_file: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// Somebody elsewhere who notices when this host falls silent: a request in each interval.
    pub struct DeadManSwitch: DEAD_MAN_SWITCH {
        /// Where to. The URL is a secret, because whoever knows it can pretend that all is well.
        url_file: SecretSource = Shape::Text(Text::Secret), Required, also ["url"];
        /// How often.
        interval: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(10_000, 86_400_000)), Value("\"5m\"");
        /// Trust only the certificates of this PEM file.
        ca_file: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}
