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
  inherited = name: type: description: mkOption {
    inherit type description;
    default = cfg.defaults.${name};
    defaultText = lib.literalExpression "config.services.keepwatch.defaults.${name}";
  };
  databases = description: opt (types.listOf types.str) [ ] description;
  postgresql = mkOption {
    type = types.nullOr types.package;
    default =
      if config.services.postgresql.enable or false then config.services.postgresql.package else pkgs.postgresql;
    defaultText = lib.literalExpression "config.services.postgresql.package";
    description = "Whose `pg_dump` is used; not older than the server.";
  };
  mysql = mkOption {
    type = types.nullOr types.package;
    default = if config.services.mysql.enable or false then config.services.mysql.package else pkgs.mariadb;
    defaultText = lib.literalExpression "config.services.mysql.package";
    description = "Whose dump program is used.";
  };
  user = description: mkOption {
    type = types.str;
    default = cfg.user;
    defaultText = lib.literalExpression "config.services.keepwatch.user";
    inherit description;
  };
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
              type = types.attrTag {
                paths = k.kind {
                  include = need (types.nonEmptyListOf types.str) "What is included: absolute paths.";
                  exclude = opt (types.listOf types.str) [ ] "Patterns of what is left out, as `keepwatch backup --exclude` takes them.";
                  excludeCaches = opt types.bool true "Leave out directories that are marked as caches (`CACHEDIR.TAG`).";
                  oneFileSystem = opt types.bool false "Do not go into other file systems.";
                  includeFrom = maybe types.str "A file with more paths, one in each line, read at the start of each run.";
                } "Files and directories.";
                postgresql = k.kind {
                  databases = databases "Which; all when it is empty.";
                  globals = opt types.bool true "Also roles and table spaces.";
                  host = opt types.str "/run/postgresql" "The server, or the directory of its socket.";
                  port = opt types.port 5432 "The port.";
                  user = user ''
                    The role. For a server of this host with peer authentication the module makes it, with the right to read everything and
                    no right to write.
                  '';
                  passwordFile = k.file "The password; not needed with peer authentication.";
                  format = opt (types.enum [
                    "custom"
                    "plain"
                    "directory"
                  ]) "custom" "The form of the dump: that of `pg_restore` in one stream, SQL, or a directory dumped by several jobs.";
                  jobs = opt (types.ints.between 1 64) 1 "Tables dumped at once, with `directory`.";
                  excludeTableData = databases "Tables whose content is left out.";
                  package = postgresql;
                } "Databases of PostgreSQL, dumped by its own programs and streamed without a temporary copy.";
                mysql = k.kind {
                  databases = databases "Which; all when it is empty.";
                  socket = mkOption {
                    type = types.nullOr types.str;
                    default = "/run/mysqld/mysqld.sock";
                    description = "The socket; null when a `host` is given.";
                  };
                  host = maybe types.str "The server, instead of the socket.";
                  port = opt types.port 3306 "The port.";
                  user = user "The user. For a server of this host with its socket the module makes it, with the right to read.";
                  passwordFile = k.file "The password; not needed with a socket that knows its users.";
                  singleTransaction = opt types.bool true "Dump in one transaction, so that nothing is locked. Consistent for InnoDB.";
                  package = mysql;
                } "Databases of MySQL or MariaDB.";
                sqlite = k.kind {
                  databases = need (types.nonEmptyListOf types.str) "The files: absolute paths.";
                } "Files of SQLite: an online copy and its integrity check.";
                redis = k.kind {
                  server = maybe types.str "A name in `services.redis.servers`: its socket and its group are used.";
                  socket = maybe types.str "The socket.";
                  host = maybe types.str "The server, instead of a socket.";
                  port = opt types.port 6379 "The port.";
                  passwordFile = k.file "The password.";
                } "A Redis server: its snapshot.";
                qdrant = k.kind {
                  url = opt types.str "http://127.0.0.1:6333" "The server.";
                  collections = databases "Which; all when it is empty.";
                  apiKeyFile = k.file "The API key.";
                } "Collections of Qdrant: their snapshots.";
                command = k.kind {
                  argv = need (types.nonEmptyListOf types.str) "The program, an absolute path, and its arguments. No secrets.";
                  filename = need types.str "Under which name its output stands in the snapshot.";
                  path = opt (types.listOf types.package) [ ] "Packages whose programs the command finds.";
                } "What a command prints. When it fails, so does the backup.";
              };
            };
            repositories = inherited "repositories" (types.nonEmptyListOf (k.nameOf "a repository")) ''
              Where to. One run writes to one after the other.
            '';
            startAt = inherited "startAt" k.calendars "When, as a calendar expression of systemd or several; null: by hand only.";
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
            stopUnits = opt units [ ] "Units that are stopped for the run, and started again even when it fails.";
            preHook = opt types.lines "" ''
              Shell script that runs before; when it fails the backup is not made. It runs as Keepwatch's user, in the sandbox of the unit.
            '';
            postHook = opt types.lines "" "Shell script that always runs after; it sees `$KEEPWATCH_RESULT`.";
            retry = inherited "retry" kinds.retry "How often and when a run that failed is tried again.";
            timeout = inherited "timeout" k.duration "A run that lasts longer is ended.";
            failOnWarnings = opt types.bool false ''
              Whether files that could not be read make the run a failure instead of a partial success. They are counted in a metric anyway.
            '';
            quietChecks = opt (types.listOf (k.nameOf "a check")) [ ] "Checks that are in maintenance while it runs: nobody is told, nothing is restarted.";
            inhibitsSleep = opt types.bool false "Keep the machine from being suspended while it runs.";
            resources = inherited "resources" kinds.resources "What a run may take from the host.";
            onFailure = inherited "onFailure" units "Units that are started when a run fails.";
            onSuccess = inherited "onSuccess" units "Units that are started when a run succeeds.";
            serviceConfig = opt (types.attrsOf unitOption) { } "Straight to the service; it wins over what the module says.";
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
        { name, config, ... }:
        {
          options = {
            enable = opt types.bool true "Whether it is done.";
            backup = need (k.nameOf "a backup") "The backup that is restored.";
            repository = mkOption {
              type = k.nameOf "a repository";
              default = lib.head ((cfg.backups.${config.backup}.repositories or cfg.defaults.repositories) ++ [ "" ]);
              defaultText = lib.literalMD "the first repository of the backup";
              description = "From which repository. It needs an `identityFile`.";
            };
            startAt = opt k.calendars "monthly" "When, as a calendar expression of systemd or several; null: by hand only.";
            timerConfig = opt (types.attrsOf unitOption) { } "Merged over `Persistent = true` and `RandomizedDelaySec = \"1h\"` in the timer.";
            snapshot = opt types.str "latest" "Which snapshot: `latest`, an id, or a time such as `2 weeks ago`.";
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
                postgresql = k.kind {
                  scratchPrefix = opt types.str "keepwatch_drill_" ''
                    What the names of scratch databases begin with. Only databases with such a name are ever dropped.
                  '';
                  host = opt types.str "/run/postgresql" "The server, or the directory of its socket.";
                  port = opt types.port 5432 "The port.";
                  user = user "The role; it must be allowed to create databases. For a server of this host the module sees to that.";
                  passwordFile = k.file "The password.";
                } "A scratch database of a PostgreSQL server; dropped afterwards.";
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
            quietChecks = opt (types.listOf (k.nameOf "a check")) [ ] "Checks that are in maintenance while it runs.";
            onFailure = inherited "onFailure" units "Units that are started when it fails.";
            serviceConfig = opt (types.attrsOf unitOption) { } "Straight to the service; it wins over what the module says.";
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
