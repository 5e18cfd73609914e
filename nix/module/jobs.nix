# One service and one timer for each backup, prune, verify, copy and drill; one service that makes each repository.
#
# A run is `keepwatch backup --job NAME`: what it does stands in the configuration, its secrets are credentials of its unit, and a person
# can start the unit by hand. The identity, which can read backups, is a credential of drills, restores, verify and copy only.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  cfg = config.services.keepwatch;
  program = lib.getExe cfg.package;
  configuration = "--config=/etc/keepwatch/config.toml";

  inherit (import ./unit.nix { inherit config lib; })
    repositoryOf
    ofRepositories
    needsInit
    run
    timer
    ;

  enabled = lib.filterAttrs (_: v: v.enable);
  # ---- sources -----------------------------------------------------------------------------------------------------------------------------

  isRemoteHost = host: host != null && !lib.hasPrefix "/" host;
  within = root: path: path == "/" || path == root || lib.hasPrefix "${root}/" path || lib.hasPrefix "${path}/" root;

  sandboxOf =
    source:
    {
      paths =
        let
          all = source.paths.include;
        in
        {
          # Files of everybody are read, none is written.
          capabilities = [ "CAP_DAC_READ_SEARCH" ];
          # What a list that is read at run time names is not known here.
          readsHomes =
            source.paths.includeFrom != null || lib.any (p: within "/home" p || within "/root" p) all;
          readsTmp = source.paths.includeFrom != null || lib.any (p: within "/tmp" p || within "/var/tmp" p) all;
        };
      postgresql.network = isRemoteHost source.postgresql.host;
      mysql.network = isRemoteHost source.mysql.host;
      sqlite = {
        # The files belong to services.
        capabilities = [ "CAP_DAC_READ_SEARCH" ];
        readsHomes = lib.any (p: within "/home" p || within "/root" p) source.sqlite.databases;
      };
      redis = {
        network = source.redis.host != null;
        groups = lib.optional (source.redis.server != null) (
          (config.services.redis.servers.${source.redis.server} or { group = "redis-${source.redis.server}"; }).group
        );
      };
      qdrant.network = true;
      command = {
        # Nobody knows what it does.
        network = true;
        runsOthers = true;
      };
    }
    .${k.tagOf source};

  servicesOf =
    source:
    {
      postgresql = [ "postgresql.service" ];
      mysql = [ "mysql.service" ];
      redis = lib.optional (source.redis.server or null != null) "redis-${source.redis.server}.service";
      qdrant = [ "qdrant.service" ];
    }
    .${k.tagOf source} or [ ];

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
        [
          "forget"
          "--job=${name}"
          configuration
        ]
      ];
      uses = ofRepositories { names = b.repositories; };
      secrets = k.credentials "backup-${name}" b.source;
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
        # `verify` looks inside of what it can open.
        withIdentity = kind == "verify";
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
        # Between repositories with different keys everything is opened.
        withIdentity = true;
      };
      inherit (c) onFailure serviceConfig unitConfig;
    });

  drill =
    name: d:
    let
      target = k.tagOf d.target;
      host = d.target.postgresql.host or null;
      directory = d.target.directory.path or null;
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
        network = isRemoteHost host;
        runsOthers = target == "command" || d.expect.command != null;
        writes = lib.optional (directory != null) directory;
      };
      path = lib.optional (target == "postgresql") (
        if config.services.postgresql.enable or false then config.services.postgresql.package else pkgs.postgresql
      );
      after = lib.optional (target == "postgresql") "postgresql.service";
      inherit (d) onFailure unitConfig;
      serviceConfig = {
        RuntimeDirectory = "keepwatch-drill-${name}";
        RuntimeDirectoryMode = "0700";
      }
      // d.serviceConfig;
    });

  # Makes the repository and this host's writer key, once. What says that it was done is a file of the state directory, so that a
  # repository that is gone is never made anew.
  init =
    name: r:
    let
      uses = ofRepositories { names = [ name ]; };
      local = r.backend.local or null;
      marker = "/var/lib/keepwatch/initialized/${name}";
      coreutils = program: lib.getExe' pkgs.coreutils program;
      unit = run {
        inherit name;
        kind = "init";
        what = "make the repository ${name}";
        records = false;
        uses = uses // {
          inits = [ ];
        };
        commands = [
          (
            [
              "init"
              "--repo=${k.place (option: path: if path == null then null else "@CREDENTIALS@/${k.credential "repository-${name}" option}") r}"
              "--writer-key-out=/var/lib/keepwatch/writer-keys/${name}.key"
            ]
            ++ lib.optional (cfg.host != null) "--label=${cfg.host}"
            ++ map (recipient: "--recipient=${recipient}") r.recipients
          )
        ];
      };
    in
    lib.nameValuePair "keepwatch-init-${name}" (
      unit
      // {
        unitConfig = unit.unitConfig // {
          ConditionPathExists = "!${marker}";
        }
        // lib.optionalAttrs (local.requireMount or null != null) {
          ConditionPathIsMountPoint = local.requireMount;
        };
        serviceConfig = unit.serviceConfig // {
          # Its own directory on a disk that belongs to root: the one thing that is done as root.
          ExecStartPre = lib.optional (local != null && local.createDirectory) (
            "+"
            + k.words [
              (coreutils "install")
              "--directory"
              "--mode=0700"
              "--owner=${cfg.user}"
              "--group=${cfg.group}"
              local.path
            ]
          );
          ExecStartPost = k.words [
            (coreutils "install")
            "-D"
            "--mode=0600"
            "/dev/null"
            marker
          ];
        };
      }
    );

  mapUnits = f: values: lib.listToAttrs (lib.mapAttrsToList f values);

  wrapper =
    name: b:
    let
      repository = lib.head (b.repositories ++ [ "" ]);
      r = repositoryOf repository;
      key = if r.writerKeyFile == null then "/var/lib/keepwatch/writer-keys/${repository}.key" else toString r.writerKeyFile;
      hasKey = r.writerKeyFile != null || r.initialize;
    in
    pkgs.writeShellScriptBin "keepwatch-${name}" ''
      # keepwatch with the repository ${repository} of the backup ${name}.
      if [ "''${1-}" = start ]; then
        exec ${lib.getExe' config.systemd.package "systemctl"} start keepwatch-backup-${name}.service
      fi
      export KEEPWATCH_REPOSITORY=${lib.escapeShellArg (k.place (_: path: if path == null then null else toString path) r)}
      ${lib.optionalString hasKey "export KEEPWATCH_WRITER_KEY_FILE=${lib.escapeShellArg key}"}
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
      // mapUnits init (lib.filterAttrs (_: needsInit) cfg.repositories);

    systemd.timers =
      let
        scheduled = lib.filterAttrs (_: v: v.startAt != null);
        times = kind: delay: defaults: lib.mapAttrs' (
          name: v: lib.nameValuePair "keepwatch-${kind}-${name}" (timer v.startAt delay defaults v.timerConfig)
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
        lib.optional (r.backend ? local && r.backend.local.createDirectory && r.backend.local.requireMount == null) (
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
      lib.filterAttrs (_: b: b.createWrapper && lib.all (r: repositoryOf r != null) b.repositories) (enabled cfg.backups)
    );
  };
}
