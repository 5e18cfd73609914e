# services.keepwatch.prometheus, .alertmanager and .grafana: for the host that watches, which may be another one.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  files = import ../files.nix { inherit lib; };
  inherit (k)
    opt
    need
    maybe
    kind
    ;
  severity = types.enum [
    "critical"
    "warning"
    "info"
  ];
in
{
  options.services.keepwatch.prometheus = {
    enable = lib.mkEnableOption "Prometheus with Keepwatch's targets and alert rules";
    targets = mkOption {
      type = types.listOf types.str;
      default =
        let
          agent = config.services.keepwatch;
        in
        lib.optional (
          agent.enable or false && agent.metrics.enable
        ) "${agent.metrics.listenAddress}:${toString agent.metrics.port}";
      defaultText = lib.literalMD "the agent of this host";
      example = [
        "web1.example.org:9847"
        "db1.example.org:9847"
      ];
      description = "The agents that are asked, as `host:port`. Each has an alert for when it is gone altogether.";
    };
    scrapeInterval = opt k.duration "30s" "How often they are asked.";
    bearerTokenFile =
      k.file ''
        The token that the agents want (`services.keepwatch.metrics.bearerTokenFile` there): an agent with a token that listens on other
        addresses than loopback gives its metrics to nobody without it. It is sent to all targets. promtool cannot see the file during
        the build, so `services.prometheus.checkConfig` becomes `"syntax-only"`.
      ''
      // {
        default =
          let
            agent = config.services.keepwatch;
          in
          if agent.enable or false && agent.metrics.enable && !k.isLoopback agent.metrics.listenAddress then
            agent.metrics.bearerTokenFile
          else
            null;
        defaultText = lib.literalMD "that of the agent of this host, where it listens on another address than loopback; else `null`";
      };
    ruleGroups = mkOption {
      type = types.listOf (types.enum files.ruleGroups);
      default = files.ruleGroups;
      defaultText = lib.literalMD "all of `alerts/`";
      description = "Which files of rules are used. With the rules of node_exporter's mixin leave out `host`.";
    };
    rules = mkOption {
      default = { };
      example = {
        KeepwatchBackupSlow.enable = false;
        KeepwatchBackupPartial.for = "1h";
      };
      description = "Changes to single alerts of these files, by the alert's name. An alert that does not exist fails the build.";
      type = types.attrsOf (
        types.submodule {
          options = {
            enable = opt types.bool true "Whether the alert is there.";
            for = maybe k.duration "How long it must hold before anybody is told.";
            severity = maybe severity "How much it matters.";
          };
        }
      );
    };
    extraRuleFiles = opt (types.listOf types.path) [ ] "More files of rules, for alerts of your own.";
  };

  options.services.keepwatch.alertmanager = {
    enable = lib.mkEnableOption ''
      Alertmanager with Keepwatch's routes. It then owns `services.prometheus.alertmanager.configuration`, which cannot be merged; whoever
      has one already takes `services.keepwatch.alertmanager.fragments` into it instead
    '';
    receivers = mkOption {
      default = { };
      description = "Who can be told, by name.";
      example = {
        phone.telegram = {
          botTokenFile = "/run/secrets/telegram";
          chatId = -1001234567890;
        };
      };
      type = types.attrsOf (
        types.attrTag {
          telegram = kind {
            botTokenFile = k.needFile "The bot's token.";
            chatId = need types.int "The chat.";
            messageThreadId = maybe types.ints.positive "The topic within the chat.";
          } "A chat of Telegram.";
          email = kind {
            to = need (types.nonEmptyListOf types.str) "To whom.";
            from = need types.str "From whom.";
            smarthost = need types.str "The server that takes mail: `host:port`.";
            username = maybe types.str "The user there.";
            passwordFile = k.file "The password there.";
            requireTls = opt types.bool true "Never without STARTTLS.";
          } "Mail.";
          webhook = kind {
            urlFile = k.needFile "Where to. The URL is a secret, because it often lets anybody write.";
          } "A POST request with JSON.";
          ntfy = kind {
            baseUrl = opt types.str "https://ntfy.sh" "The server, version 2.14 or later.";
            topic = need types.str "The topic. It stands in the store; one that must stay secret goes into a `webhook.urlFile`.";
            tokenFile = k.file "An access token.";
            priority = opt (types.ints.between 1 5) 4 "How loud: 1 hardly, 3 as usual, 5 urgent.";
          } "A topic of ntfy.";
        }
      );
    };
    defaultReceiver = maybe (k.nameOf "a receiver") "Who is told what no route takes; nobody when it is null.";
    routes = opt (types.listOf (
      types.submodule {
        options = {
          severity = need severity "Alerts of this severity.";
          receiver = need (k.nameOf "a receiver") "Who.";
          continue = opt types.bool false "Go on: who fits later is told too.";
          repeatInterval = maybe k.duration "After how long this receiver is told again.";
        };
      }
    )) [ ] "Who is told what. The first that fits is taken.";
    groupBy = opt (types.listOf types.str) [
      "alertname"
      "instance"
    ] "Alerts that are alike in these are told together.";
    repeatInterval =
      opt k.duration "4h"
        "After how long a person is told again; critical alerts after an hour.";
    deadManSwitch.urlFile = k.file ''
      A URL of somebody elsewhere (healthchecks.io and the like) who is told every five minutes that alerts still arrive, and raises the
      alarm when they do not.
    '';
    grafanaUrl = maybe (types.strMatching "https?://[^ /]+(/[^ ]*[^ /])?") ''
      Where people reach Grafana, such as `https://grafana.example.org`: messages then link to the dashboard that shows what is wrong.
    '';
    fragments = mkOption {
      type = types.attrsOf types.unspecified;
      readOnly = true;
      description = ''
        `receivers`, `routes`, `inhibitRules`, `templates` and `credentials`, made of the options above, for people whose Alertmanager has
        a configuration already. `credentials` belongs into `systemd.services.alertmanager.serviceConfig.LoadCredential`.
      '';
    };
  };

  options.services.keepwatch.grafana = {
    enable = lib.mkEnableOption "Grafana with Keepwatch's dashboards";
    folder = opt types.str "Keepwatch" "The folder that they are shown in.";
    dashboards = mkOption {
      type = types.listOf (types.enum files.dashboards);
      default = files.dashboards;
      defaultText = lib.literalMD "all of `dashboards/`";
      description = "Which. Each has a variable for its data source.";
    };
    createDatasource = opt types.bool false "Also declare this host's Prometheus as a data source.";
  };
}
