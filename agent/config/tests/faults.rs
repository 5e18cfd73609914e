//! Files that are wrong in one way each, and in many at once: the line, the key, the words, the nearest key. And files that are hostile.

use keepwatch_config::{EXAMPLE, Faults, parse};
use proptest::prelude::*;

fn faults(text: &str) -> Faults {
    match parse(text, "c.toml") {
        Ok(_) => panic!("it was taken:\n{text}"),
        Err(faults) => faults,
    }
}

const REPO: &str = "[repositories.r]\nbackend.local.path = '/r'\nrecipients = ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p']\n";
const BUCKET: &str = "[repositories.s]\nrecipients = ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p']\n[repositories.s.backend.s3]\nbucket = 'bkt'\n";
const BACKUP: &str = "[backups.b]\nsource.paths.include = ['/etc']\n";
const CHECK: &str = "[checks.c]\nprobe.memory = {}\n";

/// What a file says, where its fault stands, its key, a part of what is said, and the nearest key.
type Row<'a> = (&'a str, &'a str, usize, &'a str, &'a str, Option<&'a str>);

/// Each text is put after one of the beginnings; the line counts from its own first.
fn table() -> Vec<Row<'static>> {
    vec![
        // Keys that are not known.
        ("", "hots = 'x'", 1, "hots", "no such key", Some("host")),
        ("", "[check.web]", 1, "check", "no such key", Some("checks")),
        (
            "",
            "[catalogue]",
            1,
            "catalogue",
            "no such key",
            Some("catalog"),
        ),
        ("", "[jobs.x]", 1, "jobs", "no such key", Some("backups")),
        ("", "[zzz]", 1, "zzz", "no such key", None),
        (
            "",
            "[metrics]\nlisten = '127.0.0.1'",
            2,
            "metrics.listen",
            "no such key",
            Some("listen_address"),
        ),
        (
            "",
            "[metrics]\nlegacyNames = true",
            2,
            "metrics.legacyNames",
            "no such key",
            Some("legacy_names"),
        ),
        (
            CHECK,
            "intervall = '1m'",
            1,
            "checks.c.intervall",
            "no such key",
            Some("interval"),
        ),
        (
            CHECK,
            "every = '1m'",
            1,
            "checks.c.every",
            "no such key",
            Some("interval"),
        ),
        (
            CHECK,
            "recovery_threshold = 1",
            1,
            "checks.c.recovery_threshold",
            "no such key",
            Some("success_threshold"),
        ),
        (
            CHECK,
            "restart_unit = 'x.service'",
            1,
            "checks.c.restart_unit",
            "no such key",
            Some("on_failure.restart_unit"),
        ),
        (
            CHECK,
            "labels = { job = 'x' }",
            1,
            "checks.c.labels.job",
            "is taken",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.htpp.url = 'http://h/'",
            2,
            "checks.c.probe.htpp",
            "no such choice",
            Some("http"),
        ),
        (
            "",
            "[checks.c]\nprobe.tls_certificate.target = 'h:1'",
            2,
            "checks.c.probe.tls_certificate",
            "no such choice",
            Some("tls"),
        ),
        (
            "",
            "[checks.c]\nprobe.http = { url = 'http://h/', urll = 'x' }",
            2,
            "checks.c.probe.http.urll",
            "no such key",
            Some("url"),
        ),
        (
            BACKUP,
            "shedule = 'daily'",
            1,
            "backups.b.shedule",
            "no such key",
            Some("start_at"),
        ),
        // Types.
        (
            "",
            "host = 5",
            1,
            "host",
            "it is a whole number, but must be",
            None,
        ),
        (
            "",
            "checks = []",
            1,
            "checks",
            "it is a list, but must be",
            None,
        ),
        (
            "",
            "[[checks]]\nx = 1",
            1,
            "checks",
            "it is a list, but must be",
            None,
        ),
        (
            "",
            "[checks]\nweb = 'x'",
            2,
            "checks.web",
            "it is a text, but must be a table",
            None,
        ),
        (
            "",
            "[metrics]\nport = '9847'",
            2,
            "metrics.port",
            "it is a text, but must be a whole number",
            None,
        ),
        (
            "",
            "[metrics]\nport = 1.5",
            2,
            "metrics.port",
            "it is a number, but must be a whole number",
            None,
        ),
        (
            "",
            "[metrics]\nenable = 'yes'",
            2,
            "metrics.enable",
            "it is a text, but must be true or false",
            None,
        ),
        (
            "",
            "[metrics]\nenable = 2020-01-01",
            2,
            "metrics.enable",
            "it is a date or time",
            None,
        ),
        (
            CHECK,
            "depends_on = 'x'",
            1,
            "checks.c.depends_on",
            "it is a text, but must be a list",
            None,
        ),
        (
            CHECK,
            "depends_on = [1]",
            1,
            "checks.c.depends_on[0]",
            "it is a whole number",
            None,
        ),
        (
            CHECK,
            "interval = 30",
            1,
            "checks.c.interval",
            "it is a whole number, but must be a duration",
            None,
        ),
        (
            CHECK,
            "limits = { quantity = 'memory_available_ratio' }",
            1,
            "checks.c.limits",
            "it is a table, but must be a list",
            None,
        ),
        (
            BACKUP,
            "start_at = true",
            1,
            "backups.b.start_at",
            "it is true or false",
            None,
        ),
        // Ranges, units, words.
        (
            "",
            "[metrics]\nport = 0",
            2,
            "metrics.port",
            "'0' is not a whole number from 1 to 65535",
            None,
        ),
        (
            "",
            "[metrics]\nport = 99999999999999999999",
            2,
            "metrics.port",
            "not a whole number",
            None,
        ),
        (
            "",
            "[metrics]\nlisten_address = 'localhost'",
            2,
            "metrics.listen_address",
            "not an IP address",
            None,
        ),
        (
            CHECK,
            "failure_threshold = 0",
            1,
            "checks.c.failure_threshold",
            "from 1 to 64",
            None,
        ),
        (
            CHECK,
            "failure_threshold = -3",
            1,
            "checks.c.failure_threshold",
            "from 1 to 64",
            None,
        ),
        (
            CHECK,
            "interval = '30'",
            1,
            "checks.c.interval",
            "no unit",
            None,
        ),
        (
            CHECK,
            "interval = '5y'",
            1,
            "checks.c.interval",
            "unknown unit",
            None,
        ),
        (
            CHECK,
            "interval = ''",
            1,
            "checks.c.interval",
            "it is empty",
            None,
        ),
        (
            CHECK,
            "interval = '-5s'",
            1,
            "checks.c.interval",
            "negative",
            None,
        ),
        (
            CHECK,
            "interval = '100ms'",
            1,
            "checks.c.interval",
            "not between 1s and 7d",
            None,
        ),
        (
            CHECK,
            "interval = '8d'",
            1,
            "checks.c.interval",
            "not between 1s and 7d",
            None,
        ),
        (
            CHECK,
            "severity = 'critcal'",
            1,
            "checks.c.severity",
            "'critcal' is not one of critical, warning, info",
            Some("critical"),
        ),
        (
            CHECK,
            "severity = 'Critical'",
            1,
            "checks.c.severity",
            "is not one of",
            Some("critical"),
        ),
        (
            CHECK,
            "limits = [{ quantity = 'disk_used', side = 'above', warn = 1 }]",
            1,
            "checks.c.limits[0].quantity",
            "is not one of",
            Some("disk_used_ratio"),
        ),
        (
            CHECK,
            "limits = [{ quantity = 'memory_available_ratio', side = 'above', warn = nan }]",
            1,
            "checks.c.limits[0].warn",
            "is not a number",
            None,
        ),
        (
            CHECK,
            "limits = [{ quantity = 'memory_available_ratio', side = 'above', warn = inf }]",
            1,
            "checks.c.limits[0].warn",
            "is not a number",
            None,
        ),
        (
            CHECK,
            "group = 'a b'",
            1,
            "checks.c.group",
            "is not a name",
            None,
        ),
        (
            CHECK,
            "description = \"a\\nb\"",
            1,
            "checks.c.description",
            "a line break",
            None,
        ),
        (
            "",
            "[checks.'a b']\nprobe.load = {}",
            1,
            "checks.\"a b\"",
            "is not a name",
            None,
        ),
        (
            "",
            "[checks.'-a']\nprobe.load = {}",
            1,
            "checks.-a",
            "is not a name",
            None,
        ),
        (
            "",
            "[restarts.nginx]",
            1,
            "restarts.nginx",
            "is not a name of a unit",
            None,
        ),
        (
            REPO,
            "limits.upload_rate = '2X'",
            1,
            "repositories.r.limits.upload_rate",
            "unknown unit",
            None,
        ),
        (
            REPO,
            "limits.upload_rate = '2'",
            1,
            "repositories.r.limits.upload_rate",
            "less than 1 KiB",
            None,
        ),
        (
            REPO,
            "verify.read_data = 0",
            1,
            "repositories.r.verify.read_data",
            "from 1 to 100",
            None,
        ),
        (
            REPO,
            "verify.read_data = 'some'",
            1,
            "repositories.r.verify.read_data",
            "is not one of metadata, all",
            None,
        ),
        (
            REPO,
            "prune.grace_delete = '1m'",
            1,
            "repositories.r.prune.grace_delete",
            "not between",
            None,
        ),
        (
            BACKUP,
            "start_at = 'Mum 03:00'",
            1,
            "backups.b.start_at",
            "not a weekday",
            None,
        ),
        (
            BACKUP,
            "start_at = ['daily', '25:00']",
            1,
            "backups.b.start_at[1]",
            "hour",
            None,
        ),
        (
            BACKUP,
            "retention.daily = -1",
            1,
            "backups.b.retention.daily",
            "not a whole number",
            None,
        ),
        (
            BACKUP,
            "retention.daily = 'all'",
            1,
            "backups.b.retention.daily",
            "is not one of unlimited",
            None,
        ),
        (
            BACKUP,
            "retention.within = '1w'",
            1,
            "backups.b.retention.within",
            "no weeks",
            None,
        ),
        (
            BACKUP,
            "retention.keep_daily = 7",
            1,
            "backups.b.retention.keep_daily",
            "no such key",
            Some("daily"),
        ),
        (
            "",
            "[maintenance.m]\nbegins = 'daily'\nduration = '1h'\nzone = 'Europe/Berlim'",
            4,
            "maintenance.m.zone",
            "is not a time zone",
            None,
        ),
        (
            "",
            "[maintenance.m]\nbegins = '03:00 UTC'\nduration = '1h'",
            2,
            "maintenance.m.begins",
            "",
            None,
        ),
        // Paths and commands.
        (
            "",
            "state_directory = 'var/lib'",
            1,
            "state_directory",
            "is not an absolute path",
            None,
        ),
        (
            "",
            "state_directory = '/a/../b'",
            1,
            "state_directory",
            "goes up",
            None,
        ),
        (
            "",
            "[backups.b]\nsource.paths.include = ['etc']",
            2,
            "backups.b.source.paths.include[0]",
            "is not an absolute path",
            None,
        ),
        (
            "",
            "[backups.b]\nsource.paths.include = []",
            2,
            "backups.b.source.paths.include",
            "it is empty",
            None,
        ),
        (
            BACKUP,
            "pre_hook = ['true']",
            1,
            "backups.b.pre_hook",
            "not an absolute path of a program",
            None,
        ),
        (
            BACKUP,
            "pre_hook = 'true'",
            1,
            "backups.b.pre_hook",
            "must be a list of texts",
            None,
        ),
        (
            BACKUP,
            "stop_units = ['nginx']",
            1,
            "backups.b.stop_units[0]",
            "is not a name of a unit",
            None,
        ),
        // What is missing.
        (
            "",
            "[repositories.r]\nrecipients = ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p']",
            1,
            "repositories.r.backend",
            "it is missing",
            None,
        ),
        (
            "",
            "[repositories.r]\nbackend.local.path = '/r'",
            1,
            "repositories.r.recipients",
            "it is missing",
            None,
        ),
        (
            "",
            "[repositories.r]\nbackend.local.path = '/r'\nrecipients = []",
            3,
            "repositories.r.recipients",
            "it is empty",
            None,
        ),
        (
            "",
            "[repositories.r]\nbackend.local.path = '/r'\nrecipients = ['bob']",
            3,
            "repositories.r.recipients[0]",
            "is not a public key",
            None,
        ),
        (
            "",
            "[repositories.r]\nbackend = {}\nrecipients = ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p']",
            2,
            "repositories.r.backend",
            "exactly one of local, s3",
            None,
        ),
        (
            "",
            "[checks.c]\ninterval = '1m'",
            1,
            "checks.c.probe",
            "it is missing",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe = { memory = {}, load = {} }",
            2,
            "checks.c.probe",
            "exactly one",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.http = {}",
            2,
            "checks.c.probe.http.url",
            "it is missing",
            None,
        ),
        (
            BACKUP,
            "",
            0,
            "backups.b.repositories",
            "there is no repository",
            None,
        ),
        (
            "",
            "[drills.d]\ntarget.directory = {}",
            1,
            "drills.d.backup",
            "it is missing",
            None,
        ),
        // Names that are not there.
        (
            CHECK,
            "depends_on = ['wev']\n[checks.web]\nprobe.load = {}",
            1,
            "checks.c.depends_on[0]",
            "there is no 'wev' in [checks]: it has c, web",
            Some("web"),
        ),
        (
            BACKUP,
            "repositories = ['x']",
            1,
            "backups.b.repositories[0]",
            "there is no 'x' in [repositories]: it has none",
            None,
        ),
        (
            BACKUP,
            "quiet_checks = ['x']",
            1,
            "backups.b.quiet_checks[0]",
            "there is no 'x' in [checks]",
            None,
        ),
        (
            "",
            "[defaults]\nrepositories = ['x']",
            2,
            "defaults.repositories[0]",
            "there is no 'x'",
            None,
        ),
        (
            "",
            "[notifications]\ndefault_receiver = 'x'",
            2,
            "notifications.default_receiver",
            "there is no 'x' in [notifications.receivers]",
            None,
        ),
        (
            "",
            "[[notifications.routes]]\nreceiver = 'x'",
            2,
            "notifications.routes[0].receiver",
            "there is no 'x'",
            None,
        ),
        (
            "",
            "[restarts.'x.service']\nescalation = [{ command = 'y' }]",
            2,
            "restarts.\"x.service\".escalation[0].command",
            "there is no 'y' in [commands]",
            None,
        ),
        (
            "",
            "[checks.g]\nprobe.group.members = ['x']",
            2,
            "checks.g.probe.group.members[0]",
            "there is no 'x'",
            None,
        ),
        (
            "",
            "[maintenance.m]\nbegins = 'daily'\nduration = '1h'\nchecks = ['x']",
            4,
            "maintenance.m.checks[0]",
            "there is no 'x'",
            None,
        ),
        // The whole: checks.
        (
            CHECK,
            "timeout = '30s'",
            1,
            "checks.c.timeout",
            "shorter than the interval, which is 30s",
            None,
        ),
        (
            CHECK,
            "retry_interval = '1m'",
            1,
            "checks.c.retry_interval",
            "not be longer than the interval",
            None,
        ),
        (
            CHECK,
            "fail_within = { failures = 5, of = 3 }",
            1,
            "checks.c.fail_within.failures",
            "never fit",
            None,
        ),
        (
            CHECK,
            "fail_within = { failures = 5 }",
            1,
            "checks.c.fail_within.of",
            "it is missing",
            None,
        ),
        (
            CHECK,
            "limits = [{ quantity = 'memory_available_ratio', side = 'above' }]",
            1,
            "checks.c.limits[0]",
            "neither warn nor fail",
            None,
        ),
        (
            CHECK,
            "limits = [{ quantity = 'memory_available_ratio', side = 'above', warn = 5, fail = 3 }]",
            1,
            "checks.c.limits[0]",
            "never warn",
            None,
        ),
        (
            CHECK,
            "limits = [{ quantity = 'memory_available_ratio', side = 'above', warn = 5 }, { quantity = 'memory_available_ratio', side = 'above', fail = 6 }]",
            1,
            "checks.c.limits[1].quantity",
            "has limits already",
            None,
        ),
        (
            CHECK,
            "limits = [{ quantity = 'load1', side = 'above', warn = 5 }]",
            1,
            "checks.c.limits[0].quantity",
            "a check of kind memory does not measure it; it measures memory_size_bytes, memory_available_bytes",
            None,
        ),
        (
            CHECK,
            "depends_on = ['c']",
            1,
            "checks.c.depends_on",
            "in a circle: c -> c",
            None,
        ),
        (
            CHECK,
            "depends_on = ['d', 'd']\n[checks.d]\nprobe.load = {}",
            1,
            "checks.c.depends_on",
            "'d' stands in it twice",
            None,
        ),
        (
            CHECK,
            "depends_on = ['d']\n[checks.d]\nprobe.load = {}\ndepends_on = ['c']",
            1,
            "checks.c.depends_on",
            "in a circle: c -> d -> c",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.http = { url = 'http://h/', status = ['2xx'] }",
            2,
            "checks.c.probe.http.status",
            "",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.http = { url = 'http://h/', body_matches = ['('] }",
            2,
            "checks.c.probe.http.body_matches",
            "",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.http = { url = 'http://h/', basic_user = 'x' }",
            2,
            "checks.c.probe.http.basic_user",
            "goes together with password_file",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.tls = {}",
            2,
            "checks.c.probe.tls",
            "either a target or a file",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.dns = { name = 'h', record = 'MX' }",
            2,
            "checks.c.probe.dns.record",
            "it needs a server",
            None,
        ),
        (
            "",
            "[checks.c]\nprobe.group = { members = ['d'], need = { at_least = 2 } }\n[checks.d]\nprobe.load = {}",
            2,
            "checks.c.probe.group.need",
            "more members",
            None,
        ),
        (
            "",
            "[restarts.'x.service']\nescalation = ['unit', 'reboot']",
            2,
            "restarts.\"x.service\".escalation",
            "allow_reboot",
            None,
        ),
        // The whole: backups.
        (
            REPO,
            "[repositories.q]\nbackend.local.path = '/r/'\nrecipients = ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p']",
            0,
            "",
            "lies in the directory /r, too",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/']",
            2,
            "backups.b.source.paths.include",
            "would back up itself",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/etc']\nretention = {}",
            3,
            "backups.b.retention",
            "no rule keeps anything",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/etc']\nretention.daily = 0",
            3,
            "backups.b.retention",
            "no rule keeps anything",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/etc']\nrepositories = ['r', 'r']",
            3,
            "backups.b.repositories",
            "twice",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/etc']\ntags = ['a,b']",
            3,
            "backups.b.tags",
            "holds a comma",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/etc']\ntimeout = '2d'",
            0,
            "repositories.r.prune.grace_delete",
            "longer than the longest backup",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.redis = {}",
            2,
            "backups.b.source.redis",
            "give a socket or a host",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.redis = { socket = '/s', host = 'h' }",
            2,
            "backups.b.source.redis.socket",
            "either it or a host",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.postgresql.jobs = 4",
            2,
            "backups.b.source.postgresql.jobs",
            "one stream",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.postgresql.format = 'plain'",
            2,
            "backups.b.source.postgresql.format",
            "in the format 'custom'",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.postgresql.format = 'directory'",
            2,
            "backups.b.source.postgresql.format",
            "in the format 'custom'",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.qdrant = { whole = true, collections = ['a'] }",
            2,
            "backups.b.source.qdrant.whole",
            "either it or collections",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.container = { container = 'c' }",
            2,
            "backups.b.source.container",
            "a path or a command",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.container = { container = 'c', path = '/d', command = ['x'] }",
            2,
            "backups.b.source.container.path",
            "either it or a command",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.container = { container = 'c', path = '/d', filename = 'x' }",
            2,
            "backups.b.source.container.filename",
            "the output of a command",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths = { include = ['/etc'], view = 'btrfs:etc' }",
            2,
            "backups.b.source.paths.view",
            "btrfs:DIR",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths = { include = ['/etc'], view = 'lvm:-g/v:/etc' }",
            2,
            "backups.b.source.paths.view",
            "lvm:GROUP/VOLUME",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ postgresql = { jobs = 2 } }]",
            2,
            "backups.b.source.several.parts[0].postgresql.jobs",
            "one stream",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ redis = {} }, { postgresql = {} }]",
            2,
            "backups.b.source.several.parts[0].redis",
            "give a socket or a host",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ sqlite.databases = ['/a'] }, { sqlite.databases = ['/b'] }]",
            2,
            "backups.b.source.several.parts[1].sqlite.label",
            "one directory of the snapshot",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ paths.include = ['/etc'] }, { paths.include = ['/opt'] }]",
            2,
            "backups.b.source.several.parts[1].paths",
            "one part",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ paths.include = ['/db/x'] }, { postgresql.label = 'db' }]",
            2,
            "backups.b.source.several.parts[1].postgresql.label",
            "another label",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ paths = { include = ['/srv'], view = 'btrfs:/srv' } }, { sqlite.databases = ['/srv/a.db'] }]",
            2,
            "backups.b.source.several.parts[1].sqlite",
            "in the view of /srv",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.several.parts = [{ paths.include = ['/'] }, { postgresql = {} }]",
            2,
            "backups.b.source.several.parts[0].paths.include",
            "back up itself",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.several.parts = [{ paths.include = ['/etc'] }, { postgresql = {} }]\n[drills.d]\nbackup = 'b'\ntarget.redis = {}",
            6,
            "drills.d.target",
            "of paths and postgresql, which cannot be restored to redis",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.postgresql = {}\n[drills.d]\nbackup = 'b'\ntarget.postgresql = { private = false, scratch_prefix = 'x' }",
            6,
            "drills.d.target.postgresql.scratch_prefix",
            "at least four",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.postgresql_cluster = {}\n[drills.d]\nbackup = 'b'\ntarget.postgresql.private = false",
            6,
            "drills.d.target.postgresql.private",
            "only a server of its own",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.postgresql_cluster = {}\n[drills.d]\nbackup = 'b'\ntarget.redis = {}",
            6,
            "drills.d.target",
            "of postgresql_cluster, which cannot be restored to redis",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.postgresql = {}\n[drills.d]\nbackup = 'b'\ntarget.postgresql = {}\nexpect.command = ['/bin/true']",
            7,
            "drills.d.expect.command",
            "needs the target 'directory'",
            None,
        ),
        (
            REPO,
            "[backups.b]\nsource.paths.include = ['/etc']\n[drills.d]\nbackup = 'b'\ntarget.directory = {}",
            3,
            "drills.d",
            "needs an identity_file",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.paths.include = ['/etc']\n[drills.d]\nbackup = 'b'\ntarget.sqlite = {}",
            6,
            "drills.d.target",
            "cannot be restored to sqlite",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.paths.include = ['/etc']\n[drills.d]\nbackup = 'b'\ntarget.directory.path = '/etc'",
            6,
            "drills.d.target.directory.path",
            "never restores over the original",
            None,
        ),
        (
            REPO,
            "identity_file = '/i'\n[backups.b]\nsource.paths.include = ['/etc']\n[drills.d]\nbackup = 'b'\ntarget.directory.path = '/t'\n[drills.e]\nbackup = 'b'\ntarget.directory.path = '/t'",
            9,
            "drills.e.target.directory.path",
            "the drill d restores to /t, too",
            None,
        ),
        (
            REPO,
            "[copies.c]\nfrom = 'r'\nto = 'r'",
            3,
            "copies.c.to",
            "copied from",
            None,
        ),
        (
            BUCKET,
            "access_key_id_file = '/a'",
            1,
            "repositories.s.backend.s3.access_key_id_file",
            "it needs secret_access_key_file",
            None,
        ),
        (
            BUCKET,
            "object_lock.retain = '10d'",
            1,
            "repositories.s.backend.s3.object_lock.retain",
            "nothing is locked",
            None,
        ),
        (
            BUCKET,
            "object_lock = { mode = 'governance', retain = '36h' }",
            1,
            "repositories.s.backend.s3.object_lock.retain",
            "whole days",
            None,
        ),
        // The whole: the agent.
        (
            "",
            "[metrics]\nunix_socket = '/s'\nport = 1",
            3,
            "metrics.port",
            "either it or a unix_socket",
            None,
        ),
        (
            "",
            "[catalog]\nkeep_hours = '1d'",
            2,
            "catalog.keep_hours",
            "hourly summaries",
            None,
        ),
        (
            "",
            "[catalog]\ndatabase.postgresql.url = 'postgres://u@h/d?options=x'",
            2,
            "catalog.database.postgresql.url",
            "not known",
            None,
        ),
        (
            "",
            "[catalog]\ndatabase.postgresql.url = 'mysql://u@h/d'",
            2,
            "catalog.database.postgresql.url",
            "does not begin with",
            None,
        ),
        (
            "",
            "[notifications.receivers.m.email]\nto = ['a@b']\nfrom = 'a@b'\nsmarthost = 'h:25'\nusername = 'u'",
            5,
            "notifications.receivers.m.email.username",
            "it needs password_file",
            None,
        ),
        (
            "",
            "[notifications.receivers.m.email]\nto = ['nobody']\nfrom = 'a@b'\nsmarthost = 'h:25'",
            2,
            "notifications.receivers.m.email.to[0]",
            "not an address for mail",
            None,
        ),
        (
            "",
            "[notifications.receivers.m]\nemail = { to = ['a@b'], from = 'a@b', smarthost = 'h' }",
            2,
            "notifications.receivers.m.email.smarthost",
            "has no port",
            None,
        ),
        (
            "",
            "[notifications.receivers.t.telegram]\nbot_token_file = '/t'\nchat_id = 'name'",
            3,
            "notifications.receivers.t.telegram.chat_id",
            "a number, or",
            None,
        ),
        (
            "",
            "[notifications.receivers.n]\nmail = {}",
            2,
            "notifications.receivers.n.mail",
            "no such choice",
            Some("email"),
        ),
        (
            "",
            "cache_directory = '/var/lib/keepwatch'",
            1,
            "cache_directory",
            "is the state directory",
            None,
        ),
        // TOML itself.
        ("", "a = ", 1, "", "not valid TOML", None),
        (
            "",
            "[checks.c\nprobe.load = {}",
            1,
            "",
            "not valid TOML",
            None,
        ),
        ("", "host = 'a'\nhost = 'b'", 2, "", "duplicate key", None),
        (
            "",
            "[checks.c]\nprobe.load = {}\n[checks.c]\nprobe.load = {}",
            3,
            "",
            "duplicate key",
            None,
        ),
        ("", "host = 'a", 1, "", "not valid TOML", None),
        ("", "host = naked", 1, "", "not valid TOML", None),
    ]
}

#[test]
fn each_fault_is_named_with_its_place() {
    let rows = table();
    assert!(rows.len() > 110, "{}", rows.len());
    for (head, text, line, key, what, nearest) in rows {
        let all = format!("{head}{text}\n");
        let found = faults(&all);
        let line = head.lines().count() + line;
        let fit = found.faults.iter().any(|f| {
            f.file == "c.toml"
                && (line == head.lines().count() || f.line == line)
                && (key.is_empty() || f.key == key)
                && f.what.contains(what)
                && f.nearest.as_deref() == nearest
        });
        assert!(
            fit,
            "wanted {line}: {key}: {what} ({nearest:?}), found:\n{found}\nin:\n{all}"
        );
    }
}

/// Most files have one slip; it must be the only thing that is said.
#[test]
fn one_slip_is_one_fault() {
    let mut alone = 0;
    for (head, text, ..) in table() {
        let head = if head == BACKUP {
            format!("{REPO}{BACKUP}")
        } else {
            head.to_owned()
        };
        if let Err(found) = parse(&format!("{head}{text}\n"), "c.toml") {
            assert!(found.faults.len() <= 2, "{found}\nin:\n{head}{text}");
            alone += usize::from(found.faults.len() == 1);
        }
    }
    assert!(alone > 100, "{alone}");
}

#[test]
fn all_faults_at_once_in_the_order_of_lines() {
    let text = "\
hots = 'x'
[metrics]
port = 'x'
[checks.a]
intervall = '1m'
depends_on = ['b']
probe.http = { url = 'ftp://x', methd = 'GET' }
[checks.b]
interval = '1s'
timeout = '2s'
depends_on = ['a']
probe.disk.path = 'x'
[backups.b]
source.paths.include = ['/etc']
repositories = ['nowhere']
retention.daily = 0
";
    let found = faults(text);
    let told: Vec<(usize, &str)> = found
        .faults
        .iter()
        .map(|f| (f.line, f.key.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (1, "hots"),
            (3, "metrics.port"),
            (5, "checks.a.intervall"),
            (6, "checks.a.depends_on"),
            (7, "checks.a.probe.http.url"),
            (7, "checks.a.probe.http.methd"),
            (10, "checks.b.timeout"),
            (12, "checks.b.probe.disk.path"),
            (15, "backups.b.repositories[0]"),
            (16, "backups.b.retention"),
        ],
        "{found}"
    );
    let shown = found.to_string();
    assert!(shown.starts_with("c.toml:1: hots: there is no such key; did you mean 'host'?\nc.toml:3: metrics.port: it is a text"), "{shown}");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["faults"][0]["nearest"], "host");
    assert_eq!(json["faults"][0]["column"], 1);
    assert_eq!(json["more"], 0);
}

#[test]
fn a_slip_of_toml_does_not_hide_the_others() {
    let found = faults("host = \n[metrics]\nport = 0\n[logging]\nlevel = 'loud'\nformat = \n");
    let lines: Vec<usize> = found.faults.iter().map(|f| f.line).collect();
    assert_eq!(lines, [1, 3, 5, 6], "{found}");
}

/// E4, L3: secrets in the file are refused wherever they stand, and no error repeats them.
#[test]
fn secrets_in_the_file_are_refused_and_not_repeated() {
    const CANARY: &str = "hunter2canary";
    for (text, key, near) in [
        (
            "[checks.c]\nprobe.http = { url = 'http://h/', password = 'hunter2canary' }",
            "checks.c.probe.http.password",
            Some("password_file"),
        ),
        (
            "[checks.c]\nprobe.http = { url = 'http://h/', bearer_token = 'hunter2canary' }",
            "checks.c.probe.http.bearer_token",
            Some("bearer_token_file"),
        ),
        (
            "[checks.c]\nprobe.http = { url = 'http://h/', password_file = 'hunter2canary' }",
            "checks.c.probe.http.password_file",
            None,
        ),
        (
            "[checks.c]\nprobe.http.url = 'http://u:hunter2canary@h/'",
            "checks.c.probe.http.url",
            None,
        ),
        (
            "[checks.c]\nprobe.http.url = 'http://u:a/hunter2canary@h/'",
            "checks.c.probe.http.url",
            None,
        ),
        (
            "[checks.c]\nprobe.http.url = 'http://h/?token=hunter2canary'",
            "checks.c.probe.http.url",
            None,
        ),
        (
            "[checks.c]\nprobe.http = { url = 'http://h/', headers = { Authorization = 'Bearer hunter2canary' } }",
            "checks.c.probe.http.headers.Authorization",
            None,
        ),
        (
            "[checks.c]\nprobe.http = { url = 'http://h/', headers = { X-Api-Key = 'hunter2canary' } }",
            "checks.c.probe.http.headers.X-Api-Key",
            None,
        ),
        (
            "[checks.c]\nprobe.redis = { target = 'redis://u:hunter2canary@h:6379' }",
            "checks.c.probe.redis.target",
            None,
        ),
        (
            "[checks.c]\nprobe.redis = { target = 'h:6379', password = 'hunter2canary' }",
            "checks.c.probe.redis.password",
            Some("password_file"),
        ),
        (
            "[checks.c]\nprobe.qdrant.api_key = 'hunter2canary'",
            "checks.c.probe.qdrant.api_key",
            Some("api_key_file"),
        ),
        (
            "[checks.c]\nprobe.command = { argv = ['/bin/x'], env = { DB_PASSWORD = 'hunter2canary' } }",
            "checks.c.probe.command.env.DB_PASSWORD",
            None,
        ),
        (
            "[checks.c]\nprobe.command.argv = ['/bin/x', 'http://u:hunter2canary@h/']",
            "checks.c.probe.command.argv[1]",
            None,
        ),
        (
            "[catalog]\ndatabase.postgresql.url = 'postgres://u:hunter2canary@h/d'",
            "catalog.database.postgresql.url",
            None,
        ),
        (
            "[catalog]\ndatabase.postgresql.url = 'postgres://u@h/d?password=hunter2canary'",
            "catalog.database.postgresql.url",
            None,
        ),
        (
            "[notifications.receivers.t.telegram]\nbot_token = 'hunter2canary'\nchat_id = 1",
            "notifications.receivers.t.telegram.bot_token",
            Some("bot_token_file"),
        ),
        (
            "[notifications.receivers.t.webhook]\nurl = 'https://h/hunter2canary'",
            "notifications.receivers.t.webhook.url",
            Some("url_file"),
        ),
        (
            "[notifications.dead_man_switch]\nurl = 'https://h/hunter2canary'",
            "notifications.dead_man_switch.url",
            Some("url_file"),
        ),
        (
            "[repositories.r]\nbackend.local.path = '/r'\nrecipients = ['AGE-SECRET-KEY-1HUNTER2hunter2canary']",
            "repositories.r.recipients[0]",
            None,
        ),
        (
            "[repositories.r]\nbackend.local.path = '/r'\nidentity = 'AGE-SECRET-KEY-1HUNTER2hunter2canary'",
            "repositories.r.identity",
            Some("identity_file"),
        ),
        (
            "[repositories.r.backend.s3]\nbucket = 'bkt'\nsecret_access_key = 'hunter2canary'",
            "repositories.r.backend.s3.secret_access_key",
            Some("secret_access_key_file"),
        ),
        (
            "[metrics]\nbearer_token = 'hunter2canary'",
            "metrics.bearer_token",
            Some("bearer_token_file"),
        ),
        (
            "[metrics]\nbearer_token_file = '/nix/store/abc-token'",
            "metrics.bearer_token_file",
            None,
        ),
        (
            "[logging]\nlevel = 'http://u:hunter2canary@h'",
            "logging.level",
            None,
        ),
        ("password = hunter2canary", "", None),
        ("password = 'hunter2canary", "", None),
        ("password = \"\\qhunter2canary\"", "", None),
    ] {
        let found = faults(text);
        let shown = format!("{found}{}", serde_json::to_string(&found).unwrap());
        assert!(!shown.contains(CANARY), "repeated: {shown}");
        let fit = found.faults.iter().any(|f| {
            (key.is_empty() || f.key == key) && (near.is_none() || f.nearest.as_deref() == near)
        });
        assert!(fit, "wanted {key} ({near:?}), found:\n{found}");
    }
}

#[test]
fn a_repository_may_lie_in_what_is_backed_up_when_it_is_excluded() {
    for (exclude, good) in [
        ("[]", false),
        ("['/r']", true),
        ("['/r/']", true),
        ("['/r/**']", true),
        ("['r']", true),
        ("['*.tmp', '/x']", false),
        ("['*r']", true),
        ("['/rr']", false),
        ("['r?']", false),
    ] {
        let text = format!(
            "{REPO}[backups.b]\nsource.paths = {{ include = ['/'], exclude = {exclude} }}\n"
        );
        assert_eq!(parse(&text, "c").is_ok(), good, "{exclude}");
    }
}

#[test]
fn warnings_do_not_refuse() {
    for (text, key, what) in [
        (
            "[metrics]\nlisten_address = '0.0.0.0'",
            "metrics.listen_address",
            "other hosts can read",
        ),
        (
            "[notifications.receivers.n]\nntfy.topic = 't'",
            "notifications.receivers.n",
            "nobody is told by it",
        ),
        (
            "[restarts.'x.service']",
            "restarts.\"x.service\"",
            "no check restarts",
        ),
        (
            "[commands.x]\nargv = ['/bin/x']",
            "commands.x",
            "no escalation runs",
        ),
        (
            BUCKET,
            "repositories.s.backend.s3",
            "no credentials are named",
        ),
    ] {
        let loaded = parse(text, "c.toml").unwrap_or_else(|f| panic!("{f}"));
        assert!(
            loaded
                .warnings
                .iter()
                .any(|w| w.key == key && w.what.contains(what)),
            "{key}: {:?}",
            loaded.warnings
        );
    }
}

#[test]
fn large_and_deep_files_are_bounded() {
    let too_large = format!("#{}", "x".repeat(1 << 20));
    assert!(faults(&too_large).to_string().contains("larger than 1 MiB"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, &too_large).unwrap();
    assert!(
        keepwatch_config::load(&path)
            .unwrap_err()
            .to_string()
            .contains("larger than 1 MiB")
    );
    std::fs::write(&path, b"host = 'a'\n# \xff\n").unwrap();
    let fault = keepwatch_config::load(&path).unwrap_err();
    assert_eq!(
        (fault.faults[0].line, fault.faults[0].what.as_str()),
        (2, "it is not UTF-8")
    );
    assert!(
        keepwatch_config::load(&dir.path().join("absent"))
            .unwrap_err()
            .to_string()
            .contains("No such file")
    );
    assert!(keepwatch_config::load(dir.path()).is_err());

    let checks = |n: usize| {
        (0..n)
            .map(|n| format!("[checks.c{n}]\nprobe.load = {{}}\n"))
            .collect::<String>()
    };
    assert_eq!(
        parse(&checks(1000), "c")
            .unwrap_or_else(|f| panic!("{f}"))
            .config
            .checks
            .len(),
        1000
    );
    assert!(
        faults(&checks(1001))
            .to_string()
            .contains("it takes at most 1000")
    );

    // A hundred thousand faults: the first are listed, the others counted.
    let wrong = (0..100_000)
        .map(|n| format!("k{n}=1\n"))
        .collect::<String>();
    let found = faults(&wrong);
    assert_eq!((found.faults.len(), found.more), (256, 100_000 - 256));
    assert!(found.to_string().ends_with("\nand 99744 more"));

    for deep in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}1{}", "[".repeat(5000), "]".repeat(5000)),
        format!("[{}]", vec!["a"; 50_000].join(".")),
        "a.".repeat(50_000),
    ] {
        let shown = faults(&deep).to_string();
        assert!(shown.len() < 100_000, "{}", shown.len());
    }
    // A name of half a MiB does not flood the terminal.
    let long = format!(
        "{} = 1\n[checks.{}]\n",
        "k".repeat(300_000),
        "c".repeat(300_000)
    );
    let found = faults(&long);
    assert!(
        found.to_string().len() < 2000,
        "{}",
        found.to_string().len()
    );
    assert!(
        !faults("\"\\u001b[31mred\" = 1")
            .to_string()
            .contains('\u{1b}')
    );
    assert!(
        !faults("host = \"\\u001b[31mred\"")
            .to_string()
            .contains('\u{1b}')
    );
    assert!(
        !faults("[logging]\nlevel = \"\\u001b[31mred\"")
            .to_string()
            .contains('\u{1b}')
    );
}

/// Full files of the worst sorts take seconds at most, in a build without optimisation of ours.
#[test]
fn full_files_are_read_in_time() {
    let fill = |head: &str, line: &dyn Fn(usize) -> String, tail: &str| {
        let mut text = head.to_owned();
        let mut n = 0;
        while text.len() < (1 << 20) - 4096 {
            text.push_str(&line(n));
            n += 1;
        }
        text + tail
    };
    let windows = (0..200)
        .map(|n| {
            format!(
                "[maintenance.m{n}]\nbegins='daily'\nduration='1h'\nchecks=[{}]\n",
                (0..900).map(|c| format!("'{c}',")).collect::<String>()
            )
        })
        .collect::<String>();
    let checks = (0..1000)
        .map(|n| format!("[checks.{n}]\nprobe.load={{}}\n"))
        .collect::<String>();
    let repositories = (0..64)
        .map(|n| {
            format!(
                "{}\n",
                REPO.replace("repositories.r", &format!("repositories.r{n}"))
                    .replace("/r'", &format!("/r{n}'"))
            )
        })
        .collect::<String>();
    for text in [
        fill("", &|n| format!("key{n} = 1\n"), ""),
        fill("", &|n| format!("[checks.c{n}]\nprobe.hhtp.url=1\n"), ""),
        fill("", &|n| format!("[c{n}]\n"), ""),
        fill("x = [", &|_| "[],".into(), "]"),
        fill("", &|_| "= = =\n".into(), ""),
        fill("", &|_| "'\n".into(), ""),
        fill(
            "[backups.b]\nsource.paths.include = [",
            &|_| "'/',".into(),
            "]",
        ),
        format!("{checks}{windows}"),
        windows,
        fill(
            &repositories,
            &|n| {
                format!(
                    "[backups.b{n}]\nrepositories=['r1']\nsource.paths.include=['/','/']\nsource.paths.exclude=[{}]\n",
                    "'*a*',".repeat(4000)
                )
            },
            "",
        ),
    ] {
        let began = std::time::Instant::now();
        bounded(&text[..text.len().min(1 << 20)]);
        let took = began.elapsed();
        assert!(took.as_secs() < 20, "{took:?} for {}", &text[..200]);
    }
}

/// A thousand checks that all depend on each other: one message each would be a flood, and comparing all with all would be slow.
#[test]
fn circles_are_bounded() {
    let all = (0..200)
        .map(|n| {
            format!(
                "[checks.c{n}]\nprobe.load = {{}}\ndepends_on = [{}]\n",
                (0..30)
                    .map(|d| format!("'c{}'", (n + d + 1) % 200))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        })
        .collect::<String>();
    let found = faults(&all);
    assert!(
        (1..=16).contains(&found.faults.len()),
        "{}",
        found.faults.len()
    );
}

fn bounded(text: &str) {
    let lines = text.bytes().filter(|b| *b == b'\n').count() + 1;
    match parse(text, "f") {
        Ok(loaded) => {
            let shown = loaded.to_toml();
            let again = parse(&shown, "g").unwrap_or_else(|f| panic!("{f}\n{shown}"));
            assert_eq!(again.config, loaded.config);
        }
        Err(found) => {
            assert!(
                !found.faults.is_empty(),
                "refused without a reason: {text:?}"
            );
            for fault in &found.faults {
                assert!(
                    (1..=lines).contains(&fault.line) && fault.column >= 1,
                    "{fault} in {lines} lines"
                );
                assert!(
                    !fault.what.is_empty()
                        && !fault.what.contains('\n')
                        && !fault.what.contains("a fault in Keepwatch"),
                    "{fault}\n{text}"
                );
                let line = text.split('\n').nth(fault.line - 1).unwrap_or("");
                assert!(
                    fault.column <= line.chars().count() + 1,
                    "{fault}: column {} of {line:?}",
                    fault.column
                );
            }
        }
    }
}

/// Pieces that a file is made of, so that mutations reach far.
const PIECES: &[&str] = &[
    "[checks.x]",
    "[backups.b]",
    "[[notifications.routes]]",
    "probe.http = {",
    "}",
    "]",
    "[",
    "=",
    "\n",
    "'",
    "\"\"\"",
    "1e999",
    "0x7f",
    "-9223372036854775808",
    "inf",
    "nan",
    "1979-05-27",
    "true",
    "''",
    "\"\\u0000\"",
    "url",
    "credential:x",
    "interval = '1m'",
    "timeout = '2m'",
    "depends_on = ['web']",
    "retention = {}",
    "start_at = []",
    "é",
    "\u{202e}",
    "\r",
    ".",
    "#",
    "limits = [{ quantity = 'memory_available_ratio', side = 'above', warn = 1 }]",
    "escalation = ['unit']",
];

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_with_a_place(text in "\\PC{0,200}") {
        bounded(&text);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        bounded(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_mutated_example_is_taken_or_refused(edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..40, any::<prop::sample::Index>(), any::<bool>()), 1..6)) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, cut, piece, keep) in edits {
            let at = at.index(text.len() + 1).min(text.len());
            let end = if keep { at } else { (at + cut).min(text.len()) };
            text.splice(at..end, PIECES[piece.index(PIECES.len())].chars());
        }
        bounded(&text.into_iter().collect::<String>());
    }

    #[test]
    fn lines_in_another_order_are_taken_or_refused(seed in any::<u64>(), keep in 1usize..60) {
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        let mut state = seed;
        let text: String = (0..keep).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{}\n", lines[(state >> 33) as usize % lines.len()])
        }).collect();
        bounded(&text);
    }
}
