# services.keepwatch.backups and .drills.
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
  inherit (utils.systemdUtils.unitOptions) unitOption;
  units = types.listOf utils.systemdUtils.lib.unitNameType;
  cfg = config.services.keepwatch;

  # What a job has unless it says otherwise.
  inherited =
    name: type: description:
    mkOption {
      inherit type description;
      default = cfg.defaults.${name};
      defaultText = lib.literalExpression "config.services.keepwatch.defaults.${name}";
    };
  # Whose server a drill starts.
  server =
    default: text:
    k.kind {
      package = mkOption {
        type = types.nullOr types.package;
        inherit default;
        defaultText = lib.literalExpression text;
        description = "The installation whose `bin` holds the server and its client.";
      };
    };
  user = k.clientUser cfg;
in
{
  options.services.keepwatch.backups = mkOption {
    default = { };
    description = "Backup jobs, by name.";
    example = {
      home.source.paths.include = [ "/home" ];
      app = {
        source.postgresql.databases = [ "app" ];
        startAt = "05:00";
      };
    };
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = {
            enable = opt types.bool true "Whether it is done.";
            source = mkOption {
              description = ''
                What is backed up: exactly one of these. To switch to another kind in an override use `lib.mkForce`; to leave a job out
                put `lib.mkIf` on the whole job.
              '';
              type = types.attrTag (import ./sources.nix { inherit lib pkgs config; });
            };
            repositories = inherited "repositories" (types.nonEmptyListOf (k.nameOf "a repository")) ''
              Where to. One run writes to one after the other.
            '';
            startAt =
              inherited "startAt" k.calendars
                "When, as a calendar expression of systemd or several; null: by hand only.";
            timerConfig = opt (types.attrsOf unitOption) { } ''
              Merged over `defaults.timerConfig` and over `Persistent = true` and `RandomizedDelaySec = "15m"`: a key set here leaves the
              others as they are.
            '';
            retention = inherited "retention" kinds.retention ''
              Which snapshots are kept. Given, it replaces the default as a whole.
            '';
            tags = inherited "tags" (types.listOf types.str) "Tags of each snapshot.";
            compression = inherited "compression" (types.enum [
              "off"
              "fast"
              "default"
              "best"
            ]) "How hard to compress.";
            maxAge = maybe k.duration ''
              Older than this, the newest snapshot is stale and a person is told; null: twice the longest gap of `startAt`.
            '';
            stopUnits =
              opt units [ ]
                "Units that are stopped for the run, and started again even when it fails.";
            preHook = opt types.lines "" ''
              Shell script that runs before; when it fails the backup is not made. It runs as Keepwatch's user, in the sandbox of the unit.
            '';
            postHook = opt types.lines "" "Shell script that always runs after; it sees `$KEEPWATCH_RESULT`.";
            retry = inherited "retry" kinds.retry "How often and when a run that failed is tried again.";
            timeout = inherited "timeout" k.duration "A run that lasts longer is ended.";
            failOnWarnings = opt types.bool false ''
              Whether files that could not be read make the run a failure instead of a partial success. They are counted in a metric anyway.
            '';
            quietChecks = opt (types.listOf (
              k.nameOf "a check"
            )) [ ] "Checks that are in maintenance while it runs: nobody is told, nothing is restarted.";
            inhibitsSleep = opt types.bool false "Keep the machine from being suspended while it runs.";
            resources = inherited "resources" kinds.resources "What a run may take from the host.";
            onFailure = inherited "onFailure" units "Units that are started when a run fails.";
            onSuccess = inherited "onSuccess" units "Units that are started when a run succeeds.";
            serviceConfig =
              opt (types.attrsOf unitOption) { }
                "Straight to the service; it wins over what the module says.";
            unitConfig = opt (types.attrsOf unitOption) { } "Straight to the unit.";
            createWrapper = opt types.bool true ''
              Put `keepwatch-‹name›` on the PATH: `keepwatch` with this backup's first repository, for root. `keepwatch-‹name› snapshots`,
              `keepwatch-‹name› restore --identity FILE --target DIR`; `keepwatch-‹name› start` starts the backup now.
            '';
            unit = mkOption {
              type = types.str;
              readOnly = true;
              default = "keepwatch-backup-${name}.service";
              defaultText = lib.literalMD "`keepwatch-backup-‹name›.service`";
              description = "The unit that does it.";
            };
          };
        }
      )
    );
  };

  options.services.keepwatch.drills = mkOption {
    default = { };
    description = "Rehearsed restores, by name: a backup that was never restored is a hope.";
    example = {
      app = {
        backup = "app";
        startAt = "Sun 06:00";
        target.postgresql = { };
        expect.sql = [ "select count(*) > 1000 from orders" ];
      };
    };
    type = types.attrsOf (
      types.submodule (
        { name, ... }@drill:
        {
          options = {
            enable = opt types.bool true "Whether it is done.";
            backup = need (k.nameOf "a backup") "The backup that is restored.";
            repository = mkOption {
              type = k.nameOf "a repository";
              default = lib.head (
                (cfg.backups.${drill.config.backup}.repositories or cfg.defaults.repositories) ++ [ "" ]
              );
              defaultText = lib.literalMD "the first repository of the backup";
              description = "From which repository. It needs an `identityFile`.";
            };
            startAt =
              opt k.calendars "monthly"
                "When, as a calendar expression of systemd or several; null: by hand only.";
            timerConfig =
              opt (types.attrsOf unitOption) { }
                "Merged over `Persistent = true` and `RandomizedDelaySec = \"1h\"` in the timer.";
            snapshot =
              opt types.str "latest"
                "Which snapshot: `latest`, an id, or a time such as `2 weeks ago`.";
            target = mkOption {
              description = "Where to: exactly one of these.";
              type = types.attrTag {
                directory = k.kind {
                  path = maybe types.str ''
                    Which; a fresh one in the runtime directory, which is in memory, when it is null. For more than a few hundred megabytes
                    name a directory on a disk.
                  '';
                  keep = opt types.bool false "Leave what was restored there.";
                } "A directory.";
                postgresql =
                  k.kind
                    {
                      private = maybe types.bool ''
                        Whether a server of its own is started for the drill, which needs nothing but `package`; the agent's default, yes, when it is
                        null. With `false` the options below name a server that runs.
                      '';
                      package = mkOption {
                        type = types.nullOr types.package;
                        default = null;
                        example = lib.literalExpression "pkgs.postgresql_17";
                        description = ''
                          The installation whose `bin` holds `initdb`, `postgres` and `pg_restore`; that of `services.postgresql`, or `pkgs.postgresql`, when
                          it is null. A base backup is started by the major version that was backed up and by no other.
                        '';
                      };
                      scratchPrefix = opt types.str "keepwatch_drill_" ''
                        What the names of scratch databases begin with. Only databases with such a name are ever dropped.
                      '';
                      host = opt types.str "/run/postgresql" "The server, or the directory of its socket.";
                      port = opt types.port 5432 "The port.";
                      user = user "The role; it must be allowed to create databases. For a server of this host the module sees to that.";
                      passwordFile = k.file "The password.";
                    }
                    "PostgreSQL: a private server on scratch data, or a scratch database of a server that runs; removed afterwards. Of a `postgresqlCluster` a private server that replays its log.";
                mysql = server (
                  if config.services.mysql.enable or false then config.services.mysql.package else pkgs.mariadb
                ) "pkgs.mariadb" "A private server of MariaDB or MySQL on scratch data.";
                redis = server (config.services.redis.package or pkgs.redis
                ) "config.services.redis.package" "A private Redis server on the dump.";
                qdrant = server (config.services.qdrant.package or pkgs.qdrant
                ) "config.services.qdrant.package" "A private Qdrant server.";
                sqlite = k.kind { } "A scratch file of SQLite, in the runtime directory.";
                command = k.kind {
                  argv = need (types.nonEmptyListOf types.str) "The program, an absolute path, and its arguments.";
                } "A command that gets the dump on its standard input; it proves by its exit code.";
              };
            };
            expect = sub {
              minFiles = maybe types.ints.unsigned "At least so many files.";
              minBytes = maybe k.size "At least so many bytes.";
              sql = opt (types.listOf types.str) [ ] "Questions to the database, each of which must return true.";
              command = maybe (types.nonEmptyListOf types.str) "A command that must succeed, in the directory that was restored to.";
              maxDuration = maybe k.duration "It must not take longer: the recovery time that is promised.";
            } "What must be true of what was restored.";
            timeout = opt k.duration "12h" "A drill that lasts longer is ended.";
            quietChecks = opt (types.listOf (
              k.nameOf "a check"
            )) [ ] "Checks that are in maintenance while it runs.";
            onFailure = inherited "onFailure" units "Units that are started when it fails.";
            serviceConfig =
              opt (types.attrsOf unitOption) { }
                "Straight to the service; it wins over what the module says.";
            unitConfig = opt (types.attrsOf unitOption) { } "Straight to the unit.";
            unit = mkOption {
              type = types.str;
              readOnly = true;
              default = "keepwatch-drill-${name}.service";
              defaultText = lib.literalMD "`keepwatch-drill-‹name›.service`";
              description = "The unit that does it.";
            };
          };
        }
      )
    );
  };
}
