# keepwatch.service: checks, restarts, metrics, messages.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  hardening = import ./hardening.nix { inherit lib; };
  cfg = config.services.keepwatch;
  inherit (cfg.build) document;

  secrets =
    lib.concatLists (lib.mapAttrsToList (name: k.credentials "check-${name}") cfg.checks)
    ++ lib.concatLists (
      lib.mapAttrsToList (name: k.credentials "receiver-${name}") cfg.notifications.receivers
    )
    ++ k.credentials "notify" (removeAttrs cfg.notifications [ "receivers" ])
    ++ k.credentials "metrics" cfg.metrics
    ++ k.credentials "catalog" cfg.catalog;

  probes = map (c: c.probe) (lib.attrValues cfg.checks);
  asks = kind: lib.any (p: p ? ${kind}) probes;
  # What a check reads may lie in a home, and so may a repository, which the daemon looks at.
  paths =
    lib.concatMap (
      p: lib.optional (p ? disk) p.disk.path ++ lib.optional (p ? sqlite) p.sqlite.path
    ) probes
    ++ lib.concatMap (r: lib.optional (r.backend ? local) r.backend.local.path) (
      lib.attrValues cfg.repositories
    );
  inHomes = lib.any (path: lib.hasPrefix "/home" path || lib.hasPrefix "/root" path) paths;
  redisGroups = lib.unique (
    lib.concatMap (
      server:
      lib.optional (lib.any (
        p: p ? redis && p.redis.target == "unix:${toString server.unixSocket}"
      ) probes) server.group
    ) (lib.attrValues (config.services.redis.servers or { }))
  );
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    systemd.services.keepwatch = {
      description = "Keepwatch: checks, restarts and metrics";
      documentation = [ "man:keepwatch(1)" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "dbus.service"
        "keepwatch-postgresql.service"
      ];
      enableDefaultPath = false;
      # A change of checks is read by SIGHUP; what only a new start makes effective starts anew.
      reloadTriggers = [ config.environment.etc."keepwatch/config.toml".source ];
      restartTriggers = [
        (builtins.toJSON {
          inherit (document) metrics;
          inherit (document.catalog) database;
          inherit (document.logging) format;
          host = document.host or null;
        })
      ];
      serviceConfig = {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} serve --config /etc/keepwatch/config.toml";
        ExecReload = "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID";
        Restart = "always";
        RestartSec = 5;
        WatchdogSec = "2min";
        TimeoutStopSec = 90;
        User = cfg.user;
        Group = cfg.group;
        StateDirectory = "keepwatch";
        StateDirectoryMode = "0700";
        CacheDirectory = "keepwatch";
        CacheDirectoryMode = "0700";
        RuntimeDirectory = "keepwatch";
        LoadCredential = secrets;
        LogExtraFields = [ "KEEPWATCH_UNIT=daemon" ];
        MemoryHigh = "256M";
        TasksMax = 256;
      }
      // hardening {
        # It also looks at the host: /proc/meminfo, /proc/pressure.
        records = true;
        readsHomes = inHomes;
        groups = redisGroups;
        runsOthers = asks "command" || cfg.commands != { };
      };
    };

    networking.firewall.allowedTCPPorts = lib.mkIf (
      cfg.metrics.enable && cfg.metrics.openFirewall && cfg.metrics.unixSocket == null
    ) [ cfg.metrics.port ];
  };
}
