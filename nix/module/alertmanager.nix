# Alertmanager: who is told what, and how. Its configuration does not merge (one definition silently wins), so the module owns it when it is
# asked to, and shows its parts as `fragments` otherwise.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  files = import ./files.nix { inherit lib; };
  cfg = config.services.keepwatch.alertmanager;

  credential = name: option: k.credential "keepwatch-${name}" option;
  at = name: option: "/run/credentials/alertmanager.service/${credential name option}";
  given = lib.filterAttrs (_: v: v != null);

  receiver =
    name: r:
    {
      inherit name;
    }
    // {
      telegram.telegram_configs = [
        (given {
          bot_token_file = at name "botTokenFile";
          chat_id = r.telegram.chatId;
          message_thread_id = r.telegram.messageThreadId;
          parse_mode = "HTML";
          message = ''{{ template "keepwatch.telegram" . }}'';
          send_resolved = true;
        })
      ];
      email.email_configs = [
        (given {
          to = lib.concatStringsSep ", " r.email.to;
          inherit (r.email) from smarthost;
          auth_username = r.email.username;
          auth_password_file = if r.email.passwordFile == null then null else at name "passwordFile";
          require_tls = r.email.requireTls;
          headers.Subject = ''{{ template "keepwatch.subject" . }}'';
          html = ''{{ template "keepwatch.email" . }}'';
          text = ''{{ template "keepwatch.text" . }}'';
          send_resolved = true;
        })
      ];
      webhook.webhook_configs = [
        {
          url_file = at name "urlFile";
          send_resolved = true;
        }
      ];
      ntfy.webhook_configs = [
        {
          # ntfy makes the text itself, by these templates. What it brings itself writes more than it takes (4096 bytes) of a few alerts.
          url =
            "${r.ntfy.baseUrl}/${r.ntfy.topic}?template=yes&priority=${toString r.ntfy.priority}"
            + "&title=${lib.escapeURL files.ntfyTitle}&message=${lib.escapeURL files.ntfyMessage}";
          # A few say as much as hundreds; the templates count on it.
          max_alerts = 5;
          send_resolved = true;
          http_config = lib.optionalAttrs (r.ntfy.tokenFile != null) {
            authorization.credentials_file = at name "tokenFile";
          };
        }
      ];
    }
    .${k.tagOf r};

  site = pkgs.writeText "site.tmpl" ''
    {{ define "keepwatch.dashboard" }}${
      lib.optionalString (cfg.grafanaUrl != null) "Dashboard: ${cfg.grafanaUrl}{{ . }}"
    }{{ end }}
  '';
  templates = files.templates ++ [ site ];

  deadMan = cfg.deadManSwitch.urlFile;
  receivers =
    lib.mapAttrsToList receiver cfg.receivers
    ++ [ { name = "keepwatch-nobody"; } ]
    ++ lib.optional (deadMan != null) {
      name = "keepwatch-dead-man";
      webhook_configs = [
        {
          url_file = at "dead-man" "urlFile";
          max_alerts = 1;
          send_resolved = false;
        }
      ];
    };

  # The alert that always fires goes out first, and to nobody else.
  watchdog = {
    matchers = [ ''alertname="Watchdog"'' ];
    receiver = if deadMan == null then "keepwatch-nobody" else "keepwatch-dead-man";
    group_by = [ "alertname" ];
    group_wait = "0s";
    group_interval = "1m";
    repeat_interval = "5m";
  };
  # For machines.
  silent = {
    matchers = [ ''severity="none"'' ];
    receiver = "keepwatch-nobody";
  };
  route =
    r:
    {
      matchers = [ ''severity="${r.severity}"'' ];
      inherit (r) receiver continue;
    }
    // given {
      group_wait = if r.severity == "critical" then "10s" else null;
      repeat_interval =
        if r.repeatInterval == null && r.severity == "critical" then "1h" else r.repeatInterval;
    };

  mutes = source: target: equal: {
    source_matchers = source;
    target_matchers = target;
    inherit equal;
  };
  # A label that both lack counts as equal, and an alert that is muted never says that it is over: therefore few.
  inhibitRules = [
    (mutes [
      ''alertname=~"KeepwatchDown|KeepwatchAbsent"''
    ] [ ''alertname=~"Keepwatch.+"'' ''alertname!~"KeepwatchDown|KeepwatchAbsent"'' ] [ "instance" ])
    (mutes [ ''severity="critical"'' ''alertname=~"Keepwatch.+"'' ]
      [ ''severity=~"warning|info"'' ''alertname=~"Keepwatch.+"'' ]
      [
        "alertname"
        "instance"
        "check"
        "backup"
        "repository"
        "unit"
      ]
    )
    (mutes [ ''alertname="KeepwatchUnitRestartGaveUp"'' ]
      [ ''alertname=~"KeepwatchUnitRestartLoop|KeepwatchUnitRestartFailed"'' ]
      [
        "instance"
        "unit"
      ]
    )
    (mutes [ ''alertname="KeepwatchRepositoryUnreachable"'' ]
      [ ''alertname=~"KeepwatchBackupFailed|KeepwatchRepositoryErrors|KeepwatchRepositoryStaleLock"'' ]
      [
        "instance"
        "repository"
      ]
    )
    (mutes [ ''alertname="KeepwatchBackupNeverSucceeded"'' ]
      [ ''alertname="KeepwatchBackupFailed"'' ]
      [
        "instance"
        "backup"
      ]
    )
  ];

  # Alertmanager's module sends the file through envsubst.
  escaped =
    value:
    if builtins.isString value then
      lib.replaceStrings [ "$" ] [ "$$" ] value
    else if builtins.isAttrs value then
      lib.mapAttrs (_: escaped) value
    else if builtins.isList value then
      map escaped value
    else
      value;

  known =
    path: names:
    map (name: {
      assertion = cfg.receivers ? ${name};
      message = "services.keepwatch.alertmanager.${path}: there is no receiver \"${name}\" (known: ${lib.concatStringsSep ", " (lib.attrNames cfg.receivers)}).";
    }) names;
in
{
  config = lib.mkMerge [
    {
      services.keepwatch.alertmanager.fragments = {
        inherit receivers inhibitRules templates;
        routes = [
          watchdog
          silent
        ]
        ++ map route cfg.routes;
        credentials =
          lib.concatLists (lib.mapAttrsToList (name: k.credentials "keepwatch-${name}") cfg.receivers)
          ++ k.credentials "keepwatch-dead-man" cfg.deadManSwitch;
      };
    }
    (lib.mkIf cfg.enable {
      assertions =
        known "routes" (map (r: r.receiver) cfg.routes)
        ++ known "defaultReceiver" (lib.optional (cfg.defaultReceiver != null) cfg.defaultReceiver)
        ++ lib.concatLists (
          lib.mapAttrsToList (
            name: r:
            lib.optional (r ? email) {
              assertion = (r.email.username == null) == (r.email.passwordFile == null);
              message = "services.keepwatch.alertmanager.receivers.${name}.email: username and passwordFile belong together; give both or none.";
            }
          ) cfg.receivers
        );
      warnings = lib.optional (
        cfg.defaultReceiver == null && cfg.routes == [ ]
      ) "services.keepwatch.alertmanager: nobody is told anything; set defaultReceiver.";

      services.prometheus.alertmanager = {
        enable = true;
        configuration = escaped {
          route = {
            receiver = if cfg.defaultReceiver == null then "keepwatch-nobody" else cfg.defaultReceiver;
            group_by = cfg.groupBy;
            group_wait = "30s";
            group_interval = "5m";
            repeat_interval = cfg.repeatInterval;
            routes = cfg.fragments.routes;
          };
          inherit receivers;
          inhibit_rules = inhibitRules;
          templates = map (t: "${t}") templates;
        };
      };
      services.prometheus.alertmanagers = lib.mkIf config.services.keepwatch.prometheus.enable [
        {
          static_configs = [
            { targets = [ "127.0.0.1:${toString config.services.prometheus.alertmanager.port}" ]; }
          ];
        }
      ];
      systemd.services.alertmanager.serviceConfig.LoadCredential = cfg.fragments.credentials;
    })
  ];
}
