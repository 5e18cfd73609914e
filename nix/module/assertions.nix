# What cannot work, said before it is built, each with the option's path and what to do. What a single file cannot show (a name that is
# used and not there, a unit that does not exist) is said here; the rest is said by `keepwatch config check` during the build.
{
  config,
  lib,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  cfg = config.services.keepwatch;
  enabled = lib.filterAttrs (_: v: v.enable);
  each = f: values: lib.concatLists (lib.mapAttrsToList f values);
  at = "services.keepwatch";

  # ---- names -------------------------------------------------------------------------------------------------------------------------------

  listed =
    values:
    if values == { } then
      "there is none"
    else
      "known: ${lib.concatStringsSep ", " (lib.attrNames values)}";
  known =
    path: what: values: names:
    map (name: {
      assertion = values ? ${name};
      message = "${at}.${path}: there is no ${what} \"${name}\" (${listed values}).";
    }) names;
  repositories = path: known path "repository" cfg.repositories;
  backups = path: known path "backup" cfg.backups;
  checks = path: known path "check" cfg.checks;
  receivers = path: known path "receiver" cfg.notifications.receivers;

  good =
    path: values:
    map (name: {
      assertion = builtins.match "[A-Za-z0-9][A-Za-z0-9._-]{0,63}" name != null;
      message = "${at}.${path}.\"${name}\": a name is 1 to 64 letters, digits, '.', '_' and '-', with a letter or digit first; rename it.";
    }) (lib.attrNames values);

  # ---- backups -----------------------------------------------------------------------------------------------------------------------------

  keepsSomething = r: lib.any (v: v != null && v != 0 && v != [ ]) (lib.attrValues r);

  inside =
    root: path: path == root || root == "/" || lib.hasPrefix "${lib.removeSuffix "/" root}/" path;
  # In doubt a pattern leaves the place out: what it means in full is the engine's to say.
  excludes =
    patterns: path: lib.any (p: lib.hasInfix "*" p || lib.hasInfix p path || inside p path) patterns;

  ofPart =
    path: part:
    let
      kind = k.tagOf part;
      s = part.${kind};
      socket = s.socket or null != null || s.server or null != null;
    in
    {
      postgresql = [
        {
          assertion =
            s.passwordFile != null || s.host != "/run/postgresql" || config.services.postgresql.enable or false;
          message = "${at}.${path}.postgresql: peer authentication needs a server on this host, and services.postgresql.enable is false; switch it on, or give host and passwordFile.";
        }
      ];
      postgresqlCluster = [
        {
          assertion =
            s.passwordFile != null || s.host != "/run/postgresql" || config.services.postgresql.enable or false;
          message = "${at}.${path}.postgresqlCluster: peer authentication needs a server on this host, and services.postgresql.enable is false; switch it on, or give host and passwordFile.";
        }
      ];
      mysql = [
        {
          assertion = (s.host != null) != (s.socket != null);
          message = "${at}.${path}.mysql: give either a socket or a host; with a host set socket = null.";
        }
      ];
      redis = [
        {
          assertion = (s.host != null) != socket;
          message = "${at}.${path}.redis: give one of server, socket and host.";
        }
        {
          assertion = s.server == null || (config.services.redis.servers or { }) ? ${s.server};
          message = "${at}.${path}.redis.server: there is no services.redis.servers.\"${toString s.server}\" (${
            listed (config.services.redis.servers or { })
          }).";
        }
      ];
      container = [
        {
          assertion = (s.path != null) != (s.command != null);
          message = "${at}.${path}.container: give either a path or a command.";
        }
      ];
    }
    .${kind} or [ ];

  ofBackup =
    name: b:
    let
      path = "backups.${name}";
      files = lib.filter (p: p ? paths) (map (p: p.part) (k.partsOf "" b.source));
      kinds = map (p: k.tagOf p.part) (k.partsOf "" b.source);
      labels = map (p: p.part.${k.tagOf p.part}.label or null) (k.partsOf "" b.source);
      names = lib.zipListsWith (kind: label: if label == null then kind else label) kinds labels;
    in
    repositories "${path}.repositories" b.repositories
    ++ checks "${path}.quietChecks" b.quietChecks
    ++ lib.concatMap (p: ofPart "${path}.source" p.part) (k.partsOf "" b.source)
    ++ [
      {
        assertion = b.repositories != [ ];
        message = "${at}.${path}.repositories: it is empty, and there are ${toString (lib.length (lib.attrNames cfg.repositories))} repositories (${listed cfg.repositories}); name at least one, here or in ${at}.defaults.repositories.";
      }
      {
        assertion = keepsSomething b.retention;
        message = "${at}.${path}.retention: no rule keeps anything; give at least one, such as daily = 7.";
      }
      {
        assertion = lib.allUnique names;
        message = "${at}.${path}.source.several.parts: two of them would lie in the same directory of the snapshot (${lib.concatStringsSep ", " names}); give them a label each.";
      }
    ]
    ++ lib.concatMap (
      { paths, ... }:
      each (
        repository: r:
        lib.optionals (r.backend ? local) (
          map (include: {
            assertion =
              !inside include r.backend.local.path
              || excludes paths.exclude r.backend.local.path
              || (paths.oneFileSystem && r.backend.local.requireMount != null);
            message = "${at}.${path}.source.paths.include: ${include} holds the repository ${repository} (${r.backend.local.path}), which would back up itself; exclude it.";
          }) paths.include
        )
      ) cfg.repositories
    ) files;

  # ---- repositories, copies, drills ----------------------------------------------------------------------------------------------------------

  ofRepository =
    name: r:
    let
      s3 = r.backend.s3 or null;
      path = "repositories.${name}.backend.s3";
      pair = one: other: {
        assertion = s3 == null || s3.${one} == null || s3.${other} != null;
        message = "${at}.${path}.${one}: it needs ${other}, too.";
      };
    in
    [
      (pair "accessKeyIdFile" "secretAccessKeyFile")
      (pair "secretAccessKeyFile" "accessKeyIdFile")
      (pair "sessionTokenFile" "accessKeyIdFile")
      {
        assertion = s3 == null || s3.credentialsFile == null || s3.accessKeyIdFile == null;
        message = "${at}.${path}.credentialsFile: give either it or accessKeyIdFile and secretAccessKeyFile.";
      }
    ];

  ofCopy =
    name: c:
    repositories "copies.${name}.from" [ c.from ]
    ++ repositories "copies.${name}.to" [ c.to ]
    ++ backups "copies.${name}.backups" c.backups
    ++ [
      {
        assertion = c.from != c.to;
        message = "${at}.copies.${name}.to: it is the repository that is copied from.";
      }
    ];

  ofDrill =
    name: d:
    let
      r = cfg.repositories.${d.repository} or null;
    in
    backups "drills.${name}.backup" [ d.backup ]
    ++ lib.optionals (cfg.backups ? ${d.backup}) (
      repositories "drills.${name}.repository" [ d.repository ]
    )
    ++ checks "drills.${name}.quietChecks" d.quietChecks
    ++ [
      {
        assertion = r == null || r.identityFile != null;
        message = "${at}.drills.${name}: a drill reads what was written; set ${at}.repositories.${d.repository}.identityFile, on a host that may hold the identity.";
      }
    ];

  # ---- checks ------------------------------------------------------------------------------------------------------------------------------

  seconds =
    text:
    let
      unit = {
        ms = 0;
        s = 1;
        m = 60;
        h = 3600;
        d = 86400;
        w = 604800;
      };
      parts = lib.filter builtins.isList (builtins.split "([0-9]+)(ms|s|m|h|d|w)" text);
    in
    lib.foldl' (sum: p: sum + lib.toIntBase10 (lib.head p) * unit.${lib.last p}) 0 parts;

  ofCheck =
    name: c:
    checks "checks.${name}.dependsOn" c.dependsOn
    ++ lib.optionals (c.probe ? group) (
      checks "checks.${name}.probe.group.members" c.probe.group.members
    )
    ++ [
      {
        assertion = c.timeout == null || seconds c.timeout < seconds c.interval;
        message = "${at}.checks.${name}.timeout: ${toString c.timeout} is not shorter than the interval, which is ${c.interval}.";
      }
    ];

  ofRestart =
    unit: r:
    [
      {
        assertion = r.allowReboot || !lib.elem "reboot" r.escalation;
        message = "${at}.restarts.\"${unit}\".escalation: it reboots the host; set allowReboot = true, or take that step out.";
      }
    ]
    ++ lib.concatMap (
      s:
      lib.optionals (s ? command) (
        known "restarts.\"${unit}\".escalation" "command" cfg.commands [ s.command ]
      )
    ) (lib.filter builtins.isAttrs r.escalation);

  ofNotifications =
    let
      n = cfg.notifications;
    in
    receivers "notifications.defaultReceiver" (
      lib.optional (n.defaultReceiver != null) n.defaultReceiver
    )
    ++ lib.concatMap (
      r:
      receivers "notifications.routes" [ r.receiver ]
      ++ checks "notifications.routes" r.checks
      ++ backups "notifications.routes" r.backups
    ) n.routes;

  # ---- warnings ----------------------------------------------------------------------------------------------------------------------------

  # Units of packages (systemd.packages) are not seen here, so this is no error.
  hasUnit =
    name:
    let
      service = lib.removeSuffix ".service" name;
      template = lib.head (lib.splitString "@" service) + "@";
    in
    !lib.hasSuffix ".service" name
    || config.systemd.services ? ${service}
    || (lib.hasInfix "@" service && config.systemd.services ? ${template});

  lacks =
    path: unit:
    lib.optional (!hasUnit unit)
      "${at}.${path}: the unit ${unit} is not declared in systemd.services; if it comes from a package all is well, else it is a slip.";

  tells =
    name:
    lib.any (word: lib.hasInfix word (lib.toLower name)) [
      "password"
      "secret"
      "token"
      "apikey"
      "api_key"
      "passphrase"
    ]
    && !lib.hasSuffix "file" (lib.toLower name);
  secrets =
    path: value:
    if builtins.isAttrs value then
      each (
        name: v:
        let
          here = "${path}.${name}";
        in
        if builtins.isString v && tells name then
          [
            "${here}: secrets do not belong into the configuration, which everybody on the host can read; name a file by ${name}_file."
          ]
        else
          secrets here v
      ) value
    else
      [ ];

  warnings =
    each (
      name: c:
      lib.optionals (c.onFailure.restartUnit != null) (
        lacks "checks.${name}.onFailure.restartUnit" c.onFailure.restartUnit
      )
    ) (enabled cfg.checks)
    ++ each (name: b: lib.concatMap (lacks "backups.${name}.stopUnits") b.stopUnits) (
      enabled cfg.backups
    )
    ++ each (
      name: r:
      let
        s3 = r.backend.s3 or null;
      in
      lib.optional (s3 != null && s3.accessKeyIdFile == null && s3.credentialsFile == null)
        "${at}.repositories.${name}.backend.s3: no credentials are named, so those of the machine are used (instance role); else give accessKeyIdFile and secretAccessKeyFile."
      ++
        lib.optional
          (
            r.backend ? local
            && r.backend.local.requireMount == null
            && cfg.copies == { }
            && lib.length (lib.attrNames cfg.repositories) == 1
          )
          "${at}.repositories.${name}.backend.local: the only repository lies on this host's own disk and is lost with it; put it on another disk (requireMount), or copy it elsewhere (${at}.copies)."
    ) cfg.repositories
    ++
      lib.optional
        (
          cfg.metrics.enable
          && cfg.metrics.unixSocket == null
          && !k.isLoopback cfg.metrics.listenAddress
          && cfg.metrics.bearerTokenFile == null
        )
        "${at}.metrics.listenAddress: other hosts can read which services run here and how they are; set bearerTokenFile, or listen on 127.0.0.1."
    ++
      lib.optional (cfg.metrics.openFirewall && k.isLoopback cfg.metrics.listenAddress)
        "${at}.metrics.openFirewall: nobody can reach ${cfg.metrics.listenAddress} from outside; set listenAddress."
    ++ secrets "${at}.settings" cfg.settings;
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      lib.concatLists (
        map (section: good section cfg.${section}) [
          "repositories"
          "backups"
          "copies"
          "drills"
          "checks"
          "commands"
          "maintenance"
        ]
      )
      ++ good "notifications.receivers" cfg.notifications.receivers
      ++ each ofRepository cfg.repositories
      ++ each ofBackup (enabled cfg.backups)
      ++ each ofCopy (enabled cfg.copies)
      ++ each ofDrill (enabled cfg.drills)
      ++ each ofCheck (enabled cfg.checks)
      ++ each ofRestart cfg.restarts
      ++ each (name: m: checks "maintenance.${name}.checks" m.checks) cfg.maintenance
      ++ ofNotifications
      ++ [
        {
          assertion = cfg.metrics.unixSocket == null || !cfg.metrics.openFirewall;
          message = "${at}.metrics.openFirewall: a socket has no port; set openFirewall = false.";
        }
      ];
    inherit warnings;
  };
}
