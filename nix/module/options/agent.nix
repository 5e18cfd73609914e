# services.keepwatch: the agent itself, its logs, its endpoint, its catalog, and what jobs start from.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  kinds = import ./kinds.nix { inherit lib k; };
  inherit (k)
    opt
    need
    maybe
    sub
    ;
  units = types.listOf utils.systemdUtils.lib.unitNameType;
  cfg = config.services.keepwatch;
in
{
  options.services.keepwatch = {
    enable = lib.mkEnableOption "Keepwatch: the agent, its checks, its backups and their timers";

    package = mkOption {
      type = types.package;
      default = pkgs.keepwatch or (pkgs.callPackage ../../package.nix { });
      defaultText = lib.literalExpression "the package of Keepwatch's flake";
      description = "The program.";
    };

    user = opt types.str "keepwatch" ''
      The account of the agent and of all its runs. It is a static one: polkit's rules name it, and a dynamic user has no bus. It has no
      rights of its own; units that must read files of others have `CAP_DAC_READ_SEARCH` and nothing else.
    '';
    group = opt types.str "keepwatch" "Its group.";

    host = mkOption {
      type = types.nullOr types.str;
      default = if config.networking.hostName == "" then null else config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      description = "The name of this host in records, metrics and alerts; the host's own name when it is null.";
    };

    beatsSocket = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/keepwatch/beats";
      description = ''
        Jobs of other users can report to heartbeat checks on this socket (`keepwatch beat CHECK --socket FILE`); it takes nothing else. Who
        may is in `group`: give such a job's unit `SupplementaryGroups`.
      '';
    };

    settings = mkOption {
      type = (pkgs.formats.json { }).type;
      default = { };
      example = {
        health.drain = "5s";
      };
      description = ''
        Keys of the agent's configuration for which there is no option, in the agent's own spelling (`keepwatch config schema` lists them).
        Options win over them. No secrets: all of it is readable by everybody.
      '';
    };

    checkConfig = mkOption {
      type = types.bool;
      default = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
      defaultText = lib.literalMD "true, unless the host's programs cannot run where it is built";
      description = "Whether `keepwatch config check` must take the configuration before a system with it can be built.";
    };

    logging = {
      level = opt (types.enum [
        "error"
        "warn"
        "info"
        "debug"
        "trace"
      ]) "info" "What is logged: this and what matters more.";
      format =
        opt
          (types.enum [
            "journald"
            "json"
            "text"
          ])
          "journald"
          "How: to the journal with fields of their own (`journalctl KEEPWATCH_JOB=home`), as JSON lines, or as text.";
      retention = maybe types.str ''
        How long the journal of the whole host is kept, such as `30day` (`MaxRetentionSec` of journald.conf(5)); journald's own limits when
        it is null.
      '';
      maxUse = maybe types.str "How much disk the journal of the whole host may take, such as `2G` (`SystemMaxUse` of journald.conf(5)).";
      alloy = {
        enable = lib.mkEnableOption "a configuration for Grafana Alloy that ships Keepwatch's journal to Loki";
        forwardTo =
          opt types.str "loki.write.default.receiver"
            "The component of Alloy that takes the lines.";
      };
    };

    defaults = {
      repositories = mkOption {
        type = types.listOf (k.nameOf "a repository");
        default =
          let
            all = lib.attrNames cfg.repositories;
          in
          if lib.length all == 1 then all else [ ];
        defaultText = lib.literalMD "the only repository there is";
        description = "Where backups go that do not say so themselves.";
      };
      startAt = opt k.calendars "daily" "When backups begin that do not say so themselves.";
      timerConfig = opt (types.attrsOf utils.systemdUtils.unitOptions.unitOption) { } ''
        Merged over `Persistent = true` and `RandomizedDelaySec = "15m"` in the timers of all backups.
      '';
      retention = mkOption {
        type = kinds.retention;
        default = {
          daily = 7;
          weekly = 4;
          monthly = 12;
        };
        description = "Which snapshots are kept. Given, it replaces the default as a whole.";
      };
      tags = opt (types.listOf types.str) [ ] "Tags of each snapshot.";
      compression = opt (types.enum [
        "off"
        "fast"
        "default"
        "best"
      ]) "default" "How hard to compress.";
      retry = opt kinds.retry { } "How often and when a run that failed is tried again.";
      timeout = opt k.duration "6h" "A run that lasts longer is ended.";
      resources = opt kinds.resources { } "What a run may take from the host.";
      onFailure =
        opt units [ ]
          "Units that are started when a run of any backup, copy, drill, prune or verify fails.";
      onSuccess = opt units [ ] "Units that are started when a run of any backup succeeds.";
    };

    restarts = mkOption {
      default = { };
      example = {
        "shop.service" = {
          settle = "15s";
          escalation = [
            "unit"
            { dependants = [ "shop-worker.service" ]; }
          ];
        };
      };
      description = "How units are restarted, by the name of the unit. One that a check restarts and that is not here has the defaults.";
      type = types.attrsOf (
        types.submodule {
          options = {
            maxAttempts = opt (types.ints.between 1 20) 3 ''
              Attempts in a sliding hour; then the unit is given up, and a person is told. Between attempts there are 60 s, doubled each time
              up to 15 min.
            '';
            settle = opt k.duration "10s" "How long results do not count after a restart.";
            retryAfter = maybe k.duration "After being given up for so long, attempts begin anew; never when it is null.";
            startIfInactive = opt types.bool false "Also start a unit that an operator stopped.";
            dryRun = opt types.bool false "Decide and tell, but do nothing.";
            escalation = opt (types.nonEmptyListOf (
              types.either
                (types.enum [
                  "unit"
                  "reboot"
                ])
                (
                  types.attrTag {
                    dependants = need (types.nonEmptyListOf utils.systemdUtils.lib.unitNameType) "Restart the unit, then these, which depend on it.";
                    command = need (k.nameOf "a command") "Run this command of `services.keepwatch.commands`.";
                  }
                )
            )) [ "unit" ] "What the first, second, … attempt does; the last is repeated.";
            allowReboot = opt types.bool false "Allows the step `reboot`.";
            jobTimeout = opt k.duration "5m" "How long systemd may take to stop and start the unit.";
          };
        }
      );
    };

    commands = mkOption {
      default = { };
      description = "Commands that restarts can run, by name. They run as Keepwatch's user in the agent's sandbox.";
      type = types.attrsOf (
        types.submodule {
          options = {
            argv = need (types.nonEmptyListOf types.str) "The program, an absolute path, and its arguments. No secrets.";
            timeout = opt k.duration "1m" "It is ended when it takes longer.";
          };
        }
      );
    };

    maintenance = mkOption {
      default = { };
      example = {
        updates = {
          begins = "Tue 03:00";
          duration = "1h";
          zone = "Europe/Berlin";
        };
      };
      description = "Times in which nobody is told and nothing is restarted, by name.";
      type = types.attrsOf (
        types.submodule {
          options = {
            begins = need types.str "When it begins, as a calendar expression of systemd.";
            duration = need k.duration "How long it lasts.";
            zone = opt types.str "UTC" "By whose clock.";
            checks = opt (types.listOf (k.nameOf "a check")) [ ] "Which checks; all when it is empty.";
            comment = opt types.str "" "Why, for people.";
          };
        }
      );
    };

    metrics = {
      enable = opt types.bool true "Whether `/metrics` and `/health` are served.";
      listenAddress = opt types.str "127.0.0.1" "The address.";
      port = opt types.port 9847 "The port.";
      openFirewall = opt types.bool false "Open that port in the firewall.";
      unixSocket = maybe types.str "Serve on this socket instead of an address and a port.";
      bearerTokenFile = k.file "Who asks for `/health/detailed`, `/resources/status` or `/restart/status` must send this bearer token; where the address is not loopback also who asks for `/metrics`, and without it the other probes name no checks.";
      perSourceLabels =
        opt types.bool true
          "Labels for each repository and each stage of a backup, instead of totals only.";
      legacyNames =
        opt types.bool false
          "Also the three older names `health_check_total`, `health_check_duration_seconds`, `service_health_status`.";
      detailedHistograms =
        opt types.bool false
          "A histogram of durations for each check, not only for each kind.";
    };

    health = {
      startupDeadline =
        opt k.duration "1m"
          "`/health/startup` waits at most so long for the first run of every critical check.";
      drain =
        opt k.duration "2s"
          "After SIGTERM the agent answers \"not ready\" for so long before it ends.";
    };

    catalog = {
      database = mkOption {
        type = types.attrTag {
          sqlite = k.kind {
            path = opt types.str "/var/lib/keepwatch/catalog.sqlite" "The file.";
          } "In a file of SQLite.";
          postgresql = k.kind {
            createLocally =
              opt types.bool false
                "Switch PostgreSQL on here, with a database and a role for the catalog.";
            url = opt types.str "postgres://keepwatch@localhost/keepwatch?host=/run/postgresql" ''
              The database, without a password: `postgres://user@host/database?sslmode=verify-full`.
            '';
            passwordFile = k.file "The password; not needed with peer authentication.";
          } "In a database of PostgreSQL, which several hosts may share.";
        };
        default = {
          sqlite = { };
        };
        description = "Where the record of runs, checks and incidents lies. A restore never needs it.";
      };
      keepResults = opt k.duration "30d" "How long raw results of checks are kept; whole days.";
      keepRuns =
        opt k.duration "90d"
          "How long runs, changes of state, incidents and restarts are kept. The last ten successes of a job always stay.";
      keepHours = opt k.duration "400d" "How long hourly summaries are kept; daily ones stay.";
    };

    build = mkOption {
      internal = true;
      readOnly = true;
      type = types.attrsOf types.unspecified;
      description = "What was made of the options: `document`, `toml`, `configFile`.";
    };
  };
}
