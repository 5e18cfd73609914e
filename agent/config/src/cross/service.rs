//! The agent itself, its catalog and its notifications.

use std::net::IpAddr;

use super::{Found, changed, twice};
use crate::node::{Node, join};
use crate::sections::service::METRICS;

/// Parameters of a PostgreSQL URL that the catalog passes on.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "dbname",
    "user",
];

pub(super) fn look(root: &Node, found: &mut Found<'_, '_>) {
    metrics(root, found);
    catalog(root, found);
    notifications(root, found);
    let state = root.text_at(&["state_directory"]);
    if state.is_some() && state == root.text_at(&["cache_directory"]) {
        found.fault(
            root,
            "",
            "cache_directory",
            "it is the state directory: what lies in a cache may be deleted",
        );
    }
}

fn metrics(root: &Node, found: &mut Found<'_, '_>) {
    let Some(metrics) = root.get(&["metrics"]) else {
        return;
    };
    let socket = metrics.get(&["unix_socket"]).is_some();
    for key in ["listen_address", "port"] {
        if socket && changed(metrics, &METRICS, key) {
            found.fault(metrics, "metrics", key, "give either it or a unix_socket");
        }
    }
    let open = metrics
        .text_at(&["listen_address"])
        .and_then(|a| a.parse::<IpAddr>().ok())
        .is_some_and(|a| !a.is_loopback());
    if open && !socket && metrics.get(&["bearer_token_file"]).is_none() {
        found.warn(metrics, "metrics", "listen_address", "other hosts can read which services run here and how they are: set bearer_token_file, or listen on 127.0.0.1");
    }
}

fn catalog(root: &Node, found: &mut Found<'_, '_>) {
    let Some(catalog) = root.get(&["catalog"]) else {
        return;
    };
    let days = |key: &str| catalog.duration_at(&[key]).map(|d| d.as_secs());
    for key in ["keep_results", "keep_runs", "keep_hours"] {
        if days(key).is_some_and(|s| s % 86_400 != 0) {
            found.fault(catalog, "catalog", key, "it counts in whole days");
        }
    }
    if let (Some(results), Some(hours)) = (days("keep_results"), days("keep_hours")) {
        if hours < results {
            found.fault(
                catalog,
                "catalog",
                "keep_hours",
                "hourly summaries cannot go before the results that they sum up (keep_results)",
            );
        }
    }
    let url = catalog
        .text_at(&["database", "postgresql", "url"])
        .unwrap_or("");
    let query = url.split_once('?').map_or("", |q| q.1);
    let unknown = query
        .split('&')
        .map(|p| p.split('=').next().unwrap_or(""))
        .any(|p| !p.is_empty() && !PARAMETERS.contains(&p));
    if unknown {
        let what = format!(
            "it has a parameter that is not known; use {}",
            PARAMETERS.join(", ")
        );
        found.fault(catalog, "catalog", "database.postgresql.url", what);
    }
}

fn notifications(root: &Node, found: &mut Found<'_, '_>) {
    let Some(notify) = root.get(&["notifications"]) else {
        return;
    };
    let path = "notifications";
    let routes = notify.get(&["routes"]).map_or(&[][..], Node::list);
    let mut used: Vec<&str> = routes
        .iter()
        .filter_map(|r| r.text_at(&["receiver"]))
        .collect();
    used.extend(notify.text_at(&["default_receiver"]));
    for (name, receiver) in notify.entries(&["receivers"]) {
        let below = join("notifications.receivers", name);
        if !used.contains(&name) {
            found.warn(
                receiver,
                &below,
                "",
                "nobody is told by it: it is in no route and not the default_receiver",
            );
        }
        receiver_alone(receiver, &below, found);
    }
    twice(notify, path, "group_by", found);
    for (n, route) in routes.iter().enumerate() {
        let below = format!("notifications.routes[{n}]");
        for key in ["severity", "checks", "backups"] {
            twice(route, &below, key, found);
        }
        let list = |key: &str| route.get(&[key]).map_or(&[][..], Node::list).is_empty();
        let last = n + 1 == routes.len();
        let goes_on = route.get(&["continue_matching"]).and_then(Node::bool) == Some(true);
        if !last
            && !goes_on
            && list("severity")
            && list("checks")
            && list("backups")
            && route.is_whole()
        {
            found.fault(route, &below, "", "it takes everything, so the routes after it are never reached: put it last, or set continue_matching = true");
        }
    }
}

fn receiver_alone(receiver: &Node, path: &str, found: &mut Found<'_, '_>) {
    if let Some(mail) = receiver.get(&["email"]) {
        let path = format!("{path}.email");
        let has = |key: &str| mail.get(&[key]).is_some();
        for (one, other) in [("username", "password_file"), ("password_file", "username")] {
            if has(one) && !has(other) && mail.is_whole() {
                found.fault(mail, &path, one, format!("it needs {other}, too"));
            }
        }
        if has("password_file") && mail.text_at(&["tls"]) == Some("off") {
            found.fault(mail, &path, "tls", "a password is never sent without TLS");
        }
        twice(mail, &path, "to", found);
    }
    if let Some(alertmanager) = receiver.get(&["alertmanager"]) {
        let path = format!("{path}.alertmanager");
        let has = |key: &str| alertmanager.get(&[key]).is_some();
        for (one, other) in [
            ("basic_user", "password_file"),
            ("password_file", "basic_user"),
        ] {
            if has(one) && !has(other) && alertmanager.is_whole() {
                found.fault(alertmanager, &path, one, format!("it needs {other}, too"));
            }
        }
        if has("basic_user") && has("bearer_token_file") {
            found.fault(
                alertmanager,
                &path,
                "bearer_token_file",
                "use either it or basic_user",
            );
        }
        twice(alertmanager, &path, "urls", found);
    }
    if let Some(chat) = receiver
        .get(&["telegram"])
        .and_then(|t| t.get(&["chat_id"]))
    {
        if chat.text().is_some_and(|t| !t.starts_with('@')) {
            found.fault(
                chat,
                &format!("{path}.telegram.chat_id"),
                "",
                "write a number, or the name of a channel with @ before it",
            );
        }
    }
}
