# One service and one timer for each backup, prune, verify, copy and drill.
#
# A run is `keepwatch backup --job NAME`: what it does stands in the configuration, its secrets are credentials of its unit, and a person
# can start the unit by hand. The identity, which can read backups, is a credential of drills and restores alone, and of copies whose own
# option says so: between repositories with different keys everything is opened, between twins nothing is.
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
  program = lib.getExe cfg.package;
  configuration = "--config=/etc/keepwatch/config.toml";

  inherit (import ./unit.nix { inherit config lib; })
    repositoryOf
    ofRepositories
    needsDirectory
    run
    timer
    within
    ;

  enabled = lib.filterAttrs (_: v: v.enable);
  # ---- sources -----------------------------------------------------------------------------------------------------------------------------

  isRemoteHost = host: host != null && !lib.hasPrefix "/" host;

  sandboxOfPart =
    part:
    {
      paths =
        let
          all = part.paths.include;
        in
        {
          # Files of everybody are read, none is written.
          capabilities = [ "CAP_DAC_READ_SEARCH" ];
          # What a list that is read at run time names is not known here.
          readsHomes =
            part.paths.includeFrom != null || lib.any (p: within "/home" p || within "/root" p) all;
          readsTmp =
            part.paths.includeFrom != null || lib.any (p: within "/tmp" p || within "/var/tmp" p) all;
        };
      postgresql.network = isRemoteHost part.postgresql.host;
      postgresqlCluster.network = isRemoteHost part.postgresqlCluster.host;
      mysql.network = isRemoteHost part.mysql.host;
      sqlite = {
        # The files belong to services.
        capabilities = [ "CAP_DAC_READ_SEARCH" ];
        readsHomes = lib.any (p: within "/home" p || within "/root" p) part.sqlite.databases;
      };
      redis = {
        network = part.redis.host != null;
        groups = lib.optional (part.redis.server != null) (
          (config.services.redis.servers.${part.redis.server} or { group = "redis-${part.redis.server}"; })
          .group
        );
      };
      qdrant.network = true;
      container = {
        groups = lib.optional (part.container.engine == "docker") "docker";
        # The program of the container's engine, which is not written for this.
        runsOthers = true;
      };
      command = {
        # Nobody knows what it does.
        network = true;
        multicast = true;
        runsOthers = true;
      };
    }
    .${k.tagOf part};

  # Of several parts: what any of them needs.
  sandboxOf =
    source:
    let
      all = map (p: sandboxOfPart p.part) (k.partsOf "" source);
      any = name: lib.any (s: s.${name} or false) all;
      each = name: lib.unique (lib.concatMap (s: s.${name} or [ ]) all);
    in
    lib.genAttrs [ "multicast" "network" "readsHomes" "readsTmp" "runsOthers" ] any
    // lib.genAttrs [ "capabilities" "groups" ] each;

  servicesOfPart =
    part:
    {
      postgresql = [ "postgresql.service" ];
      postgresqlCluster = [ "postgresql.service" ];
      mysql = [ "mysql.service" ];
      redis = lib.optional (part.redis.server or null != null) "redis-${part.redis.server}.service";
      qdrant = [ "qdrant.service" ];
      container =
        if part.container.engine == "docker" then
          [ "docker-${part.container.container}.service" ]
        else
          [ "podman-${part.container.container}.service" ];
    }
    .${k.tagOf part} or [ ];
  servicesOf = source: lib.unique (lib.concatMap (p: servicesOfPart p.part) (k.partsOf "" source));

  # ---- the units ---------------------------------------------------------------------------------------------------------------------------

  backup =
    name: b:
    let
      sandbox = sandboxOf b.source;
      # systemctl needs the bus alone; hooks are programs of others.
      hooks = b.preHook != "" || b.postHook != "";
    in
    lib.nameValuePair "keepwatch-backup-${name}" (run {
      inherit name;
      kind = "backup";
      what = "backup ${name}";
      commands = [
        [
          "backup"
          "--job=${name}"
          configuration
        ]
      ];
      uses = ofRepositories { names = b.repositories; };
      secrets = lib.concatMap (p: k.credentials p.scope p.part) (k.partsOf "backup-${name}" b.source);
      sandbox = sandbox // lib.optionalAttrs hooks { runsOthers = true; };
      after = servicesOf b.source;
      path =
        lib.optional (b.stopUnits != [ ]) config.systemd.package
        ++ lib.optionals (b.source ? command) b.source.command.path
        ++ lib.optional hooks pkgs.coreutils;
      inherit (b)
        resources
        onFailure
        onSuccess
        inhibitsSleep
        serviceConfig
        unitConfig
        ;
    });

  upkeep =
    kind: name: r:
    lib.nameValuePair "keepwatch-${kind}-${name}" (run {
      inherit name kind;
      what = "${kind} ${name}";
      commands = [
        [
          kind
          "--repository=${name}"
          configuration
        ]
      ];
      uses = ofRepositories {
        names = [ name ];
      };
      inherit (r.${kind}) onFailure serviceConfig unitConfig;
    });

  copy =
    name: c:
    lib.nameValuePair "keepwatch-copy-${name}" (run {
      inherit name;
      kind = "copy";
      what = "copy ${name}";
      commands = [
        [
          "copy"
          "--copy=${name}"
          configuration
        ]
      ];
      uses = ofRepositories {
        names = [
          c.from
          c.to
        ];
      };
      # The repository's own identity is for drills and restores. The one exception is said by the copy itself: its repositories have
      # different keys, so that everything is opened and sealed anew.
      secrets = lib.optional (
        c.identityFile != null
      ) "${k.credential "repository-${c.from}" "identityFile"}:${toString c.identityFile}";
      inherit (c) onFailure serviceConfig unitConfig;
    });

  drill =
    name: d:
    let
      target = k.tagOf d.target;
      postgresql = d.target.postgresql or { private = null; };
      runs = target == "postgresql" && postgresql.private == false;
      path = d.target.directory.path or null;
    in
    lib.nameValuePair "keepwatch-drill-${name}" (run {
      inherit name;
      kind = "drill";
      what = "drill ${name}";
      commands = [
        [
          "drill"
          name
          configuration
        ]
      ];
      uses = ofRepositories {
        names = [ d.repository ];
        withIdentity = true;
      };
      secrets = k.credentials "drill-${name}" d.target;
      sandbox = {
        network = runs && isRemoteHost postgresql.host;
        # A server of its own may compile queries, and may know no sockets but those of addresses.
        runsOthers =
          lib.elem target [
            "command"
            "mysql"
            "postgresql"
            "qdrant"
            "redis"
          ]
          || d.expect.command != null;
        loopback = target == "qdrant";
        writes = lib.optional (path != null) path;
      };
      path = lib.optional (target == "postgresql") (
        if postgresql.package or null != null then
          postgresql.package
        else if config.services.postgresql.enable or false then
          config.services.postgresql.package
        else
          pkgs.postgresql
      );
      after = lib.optional runs "postgresql.service";
      inherit (d) onFailure unitConfig;
      serviceConfig = {
        RuntimeDirectory = "keepwatch-drill-${name}";
        RuntimeDirectoryMode = "0700";
      }
      // d.serviceConfig;
    });

  # The directory of a repository on a disk that belongs to root, when the disk is there: the one thing that is done as root.
  directory =
    name: r:
    let
      inherit (r.backend) local;
    in
    lib.nameValuePair "keepwatch-directory-${name}" {
      description = "Keepwatch: the directory of the repository ${name}";
      unitConfig = {
        RequiresMountsFor = local.path;
        ConditionPathIsMountPoint = local.requireMount;
      };
      enableDefaultPath = false;
      serviceConfig = {
        Type = "oneshot";
        ExecStart = k.words [
          (lib.getExe' pkgs.coreutils "install")
          "--directory"
          "--mode=0700"
          "--owner=${cfg.user}"
          "--group=${cfg.group}"
          local.path
        ];
      }
      // hardening {
        capabilities = [
          "CAP_CHOWN"
          "CAP_DAC_OVERRIDE"
          "CAP_FOWNER"
        ];
        writes = [ local.requireMount ];
        network = false;
        readsHomes = true;
      };
    };

  mapUnits = f: values: lib.listToAttrs (lib.mapAttrsToList f values);

  wrapper =
    name: b:
    let
      repository = lib.head (b.repositories ++ [ "" ]);
      r = repositoryOf repository;
      key =
        if r.writerKeyFile == null then
          "/var/lib/keepwatch/writer-keys/${repository}.key"
        else
          toString r.writerKeyFile;
    in
    pkgs.writeShellScriptBin "keepwatch-${name}" ''
      # keepwatch with the repository ${repository} of the backup ${name}.
      if [ "''${1-}" = start ]; then
        exec ${lib.getExe' config.systemd.package "systemctl"} start keepwatch-backup-${name}.service
      fi
      export KEEPWATCH_REPOSITORY=${
        lib.escapeShellArg (k.place (_: path: if path == null then null else toString path) r)
      }
      if [ -e ${lib.escapeShellArg key} ]; then
        export KEEPWATCH_WRITER_KEY_FILE=${lib.escapeShellArg key}
      fi
      ${lib.optionalString (
        r.identityFile != null
      ) "export KEEPWATCH_IDENTITY_FILE=${lib.escapeShellArg (toString r.identityFile)}"}
      exec ${program} "$@"
    '';
in
{
  config = lib.mkIf cfg.enable {
    systemd.services =
      mapUnits backup (enabled cfg.backups)
      // mapUnits (upkeep "prune") (lib.filterAttrs (_: r: r.prune.enable) cfg.repositories)
      // mapUnits (upkeep "verify") (lib.filterAttrs (_: r: r.verify.enable) cfg.repositories)
      // mapUnits copy (enabled cfg.copies)
      // mapUnits drill (enabled cfg.drills)
      // mapUnits directory (lib.filterAttrs (_: needsDirectory) cfg.repositories);

    systemd.timers =
      let
        scheduled = lib.filterAttrs (_: v: v.startAt != null);
        times =
          kind: delay: defaults:
          lib.mapAttrs' (
            name: v:
            lib.nameValuePair "keepwatch-${kind}-${name}" (timer v.startAt delay defaults v.timerConfig)
          );
        of = kind: lib.mapAttrs (_: r: r.${kind}) cfg.repositories;
      in
      times "backup" "15m" cfg.defaults.timerConfig (scheduled (enabled cfg.backups))
      // times "prune" "1h" { } (scheduled (enabled (of "prune")))
      // times "verify" "1h" { } (scheduled (enabled (of "verify")))
      // times "copy" "1h" { } (scheduled (enabled cfg.copies))
      // times "drill" "1h" { } (scheduled (enabled cfg.drills));

    # The directory of a local repository; one on a disk that is mounted is made when the disk is there.
    systemd.tmpfiles.settings.keepwatch = lib.listToAttrs (
      lib.concatMap (
        r:
        lib.optional
          (r.backend ? local && r.backend.local.createDirectory && r.backend.local.requireMount == null)
          (
            lib.nameValuePair r.backend.local.path {
              d = {
                mode = "0700";
                inherit (cfg) user group;
              };
            }
          )
      ) (lib.attrValues cfg.repositories)
    );

    environment.systemPackages = lib.mapAttrsToList wrapper (
      lib.filterAttrs (_: b: b.createWrapper && lib.all (r: repositoryOf r != null) b.repositories) (
        enabled cfg.backups
      )
    );
  };
}
