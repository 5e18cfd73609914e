# The agent's configuration: one TOML file for the daemon and all runs, in /etc/keepwatch. It holds no secret.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  cfg = config.services.keepwatch;

  section =
    prefix: nixOnly: values:
    lib.mapAttrs (name: v: k.document "${prefix}-${name}" (removeAttrs v nixOnly)) values;
  scheduled = v: v // { startAt = k.calendar v.startAt; };

  # Options of units, which the agent does not know.
  unitOptions = [
    "timerConfig"
    "onFailure"
    "onSuccess"
    "serviceConfig"
    "unitConfig"
    "unit"
    "units"
    "resources"
    "inhibitsSleep"
    "createWrapper"
  ];

  # A unit that was not given the identity does without.
  identityOf =
    name: r:
    lib.findFirst (file: file != null) null (
      [ r.identityFile ]
      ++ map (c: if c.from == name then c.identityFile else null) (lib.attrValues cfg.copies)
    );

  repository =
    name: r:
    k.document "repository-${name}" (
      removeAttrs r [ "units" ]
      // {
        identityFile = identityOf name r;
        prune = removeAttrs (scheduled r.prune) unitOptions;
        verify = removeAttrs (scheduled r.verify) unitOptions;
      }
    );

  hook =
    name: text:
    if text == "" then
      null
    else
      [ "${pkgs.writeShellScript "keepwatch-${name}" "set -euo pipefail\n${text}"}" ];

  # What only the module knows becomes what the agent knows.
  part =
    s:
    if s ? redis then
      {
        redis = removeAttrs s.redis [ "server" ] // {
          socket = redisSocket s.redis;
        };
      }
    else if s ? command then
      {
        command = s.command // {
          path = map (p: "${lib.getBin p}/bin") s.command.path;
        };
      }
    else
      s;
  source =
    scope: s:
    let
      parts = map (p: k.document p.scope (part p.part)) (k.partsOf scope s);
    in
    if s ? several then { several = { inherit parts; }; } else lib.head parts;
  redisSocket =
    redis:
    if redis.server != null then
      toString
        (config.services.redis.servers.${redis.server} or {
          unixSocket = "/run/redis-${redis.server}/redis.sock";
        }
        ).unixSocket
    else
      redis.socket;

  backup =
    name: b:
    k.document "backup-${name}" (
      removeAttrs (scheduled b) (unitOptions ++ [ "source" ])
      // {
        preHook = hook "${name}-before" b.preHook;
        postHook = hook "${name}-after" b.postHook;
      }
    )
    // {
      source = source "backup-${name}" b.source;
    };

  database =
    d: if d ? postgresql then { postgresql = removeAttrs d.postgresql [ "createLocally" ]; } else d;

  typed = {
    state_directory = "/var/lib/keepwatch";
    cache_directory = "/var/cache/keepwatch";
    logging = { inherit (cfg.logging) level format; };
    repositories = lib.mapAttrs repository cfg.repositories;
    backups = lib.mapAttrs backup cfg.backups;
    copies = section "copy" (unitOptions ++ [ "identityFile" ]) (
      lib.mapAttrs (_: scheduled) cfg.copies
    );
    drills = section "drill" unitOptions (lib.mapAttrs (_: scheduled) cfg.drills);
    checks = section "check" [ ] cfg.checks;
    restarts = section "restart" [ ] cfg.restarts;
    commands = section "command" [ ] cfg.commands;
    maintenance = section "maintenance" [ ] cfg.maintenance;
    metrics = k.document "metrics" (
      removeAttrs cfg.metrics (
        [ "openFirewall" ]
        ++ lib.optionals (cfg.metrics.unixSocket != null) [
          "listenAddress"
          "port"
        ]
      )
    );
    health = k.document "health" cfg.health;
    catalog = k.document "catalog" (cfg.catalog // { database = database cfg.catalog.database; });
    notifications = k.document "notify" (removeAttrs cfg.notifications [ "receivers" ]) // {
      receivers = section "receiver" [ ] cfg.notifications.receivers;
    };
  }
  // lib.optionalAttrs (cfg.host != null) { inherit (cfg) host; }
  // lib.optionalAttrs (cfg.beatsSocket != null) { beats_socket = cfg.beatsSocket; };

  # An empty section says nothing.
  document = lib.recursiveUpdate cfg.settings (lib.filterAttrs (_: v: v != { }) typed);
  toml = ''
    # Made by the NixOS module. `keepwatch config show` says what is in effect.
  ''
  + k.toml document;
  plain = pkgs.writeText "keepwatch.toml" toml;
in
{
  config = lib.mkIf cfg.enable {
    services.keepwatch.build = {
      inherit document toml;
      # What is wrong with it is said now, not after the switch.
      configFile =
        if cfg.checkConfig then
          pkgs.runCommandLocal "keepwatch-checked.toml" { } ''
            ${lib.getExe cfg.package} config check --config ${plain}
            cp ${plain} $out
          ''
        else
          plain;
    };
    environment.etc."keepwatch/config.toml".source = cfg.build.configFile;
  };
}
