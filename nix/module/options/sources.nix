# What a backup can read, by kind.
{
  lib,
  pkgs,
  config,
}:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  inherit (k)
    opt
    need
    maybe
    ;
  cfg = config.services.keepwatch;
  list = description: opt (types.listOf types.str) [ ] description;
  label.label = maybe types.str "The directory in the snapshot; the kind when it is null.";
  user = k.clientUser cfg;
  package =
    default: text: description:
    mkOption {
      type = types.nullOr types.package;
      inherit default description;
      defaultText = lib.literalExpression text;
    };

  # Of databases and services: these can stand together in one snapshot.
  services = {
    postgresql = k.kind (
      label
      // {
        databases = list "Which; all when it is empty.";
        globals = opt types.bool true "Also roles and table spaces.";
        host = opt types.str "/run/postgresql" "The server, or the directory of its socket.";
        port = opt types.port 5432 "The port.";
        user = user ''
          The role. For a server of this host with peer authentication the module makes it, with the right to read everything and no right
          to write.
        '';
        passwordFile = k.file "The password; not needed with peer authentication.";
        format =
          opt
            (types.enum [
              "custom"
              "plain"
              "directory"
            ])
            "custom"
            "The form of the dump: `custom`, which deduplicates and needs no scratch space. The agent refuses the others until they are there.";
        jobs =
          opt (types.ints.between 1 64) 1
            "Tables dumped at once: 1, since a dump in the format `custom` is one stream.";
        excludeTableData = list "Tables whose content is left out.";
        package = package (
          if config.services.postgresql.enable or false then
            config.services.postgresql.package
          else
            pkgs.postgresql
        ) "config.services.postgresql.package" "Whose `pg_dump` is used; not older than the server.";
      }
    ) "Databases of PostgreSQL, dumped by its own programs and streamed without a temporary copy.";

    mysql = k.kind (
      label
      // {
        databases = list "Which; all when it is empty.";
        socket = mkOption {
          type = types.nullOr types.str;
          default = "/run/mysqld/mysqld.sock";
          description = "The socket; null when a `host` is given.";
        };
        host = maybe types.str "The server, instead of the socket.";
        port = opt types.port 3306 "The port.";
        user = user "The user. For a server of this host with its socket the module makes it, with the right to read.";
        passwordFile = k.file "The password; not needed with a socket that knows its users.";
        users = maybe types.bool "Also users and their rights (MariaDB); the agent's default when it is null.";
        singleTransaction =
          opt types.bool true
            "Dump in one transaction, so that nothing is locked. Consistent for InnoDB.";
        package = package (
          if config.services.mysql.enable or false then config.services.mysql.package else pkgs.mariadb
        ) "config.services.mysql.package" "Whose dump program is used.";
      }
    ) "Databases of MySQL or MariaDB.";

    sqlite = k.kind (
      label
      // {
        databases = need (types.nonEmptyListOf types.str) "The files: absolute paths.";
      }
    ) "Files of SQLite: an online copy and its integrity check.";

    redis = k.kind (
      label
      // {
        server = maybe types.str "A name in `services.redis.servers`: its socket and its group are used.";
        socket = maybe types.str "The socket.";
        host = maybe types.str "The server, instead of a socket.";
        port = opt types.port 6379 "The port.";
        user = maybe types.str "The user, for a server with access lists.";
        passwordFile = k.file "The password.";
      }
    ) "A Redis server: its snapshot.";

    qdrant = k.kind (
      label
      // {
        url = opt types.str "http://127.0.0.1:6333" "The server.";
        collections = list "Which; all when it is empty.";
        whole = maybe types.bool "One snapshot of the whole storage instead; only the server's own command line restores it.";
        apiKeyFile = k.file "The API key.";
      }
    ) "Collections of Qdrant: their snapshots.";

    container = k.kind (
      label
      // {
        container = need types.str "The container's name.";
        engine =
          opt
            (types.enum [
              "podman"
              "docker"
            ])
            "podman"
            ''
              Which program runs it. With `docker` the unit joins the group of its socket, which is as good as being root; containers of root in
              podman are seen by root alone: `serviceConfig.User = lib.mkForce "root";`.
            '';
        path = maybe types.str "A file or directory in it; or give `command`.";
        command = maybe (types.nonEmptyListOf types.str) "A command that runs in it; what it prints is backed up.";
        filename = maybe types.str "Under which name the output of the command stands in the snapshot.";
        package = maybe types.package "Whose program is used; the one on the host's PATH when it is null.";
      }
    ) "A path or a command in a container: for services whose data are not on the host.";
  };

  paths = k.kind {
    include = need (types.nonEmptyListOf types.str) "What is included: absolute paths.";
    exclude =
      opt (types.listOf types.str) [ ]
        "Patterns of what is left out, as `keepwatch backup --exclude` takes them.";
    excludeCaches =
      opt types.bool true
        "Leave out directories that are marked as caches (`CACHEDIR.TAG`).";
    oneFileSystem = opt types.bool false "Do not go into other file systems.";
    includeFrom = maybe types.str "A file with more paths, one in each line, read at the start of each run.";
    view = maybe types.str ''
      A snapshot of the file system that is read instead of the files: `btrfs:DIR`, `zfs:DATASET:DIR` or `lvm:GROUP/VOLUME:DIR[:SIZE]`. Taking
      one is a right of root, which the unit has not: give it by `serviceConfig`, or take snapshots by a unit of your own and back them up.
    '';
  } "Files and directories.";
in
services
// {
  inherit paths;

  several =
    k.kind
      {
        parts = need (types.nonEmptyListOf (types.attrTag (services // { inherit paths; }))) "Which.";
      }
      "Files, databases and services in one snapshot: all of them, or none. Two of one kind need labels; files stand in one part.";

  postgresqlCluster =
    k.kind
      {
        host = opt types.str "/run/postgresql" "The server, or the directory of its socket.";
        port = opt types.port 5432 "The port.";
        user = user ''
          The role, with the right REPLICATION. For a server of this host with peer authentication the module makes it.
        '';
        passwordFile = k.file "The password; not needed with peer authentication.";
        incremental =
          opt types.bool false
            "Only what changed since the last one, where the server can (PostgreSQL 17 with `summarize_wal`); else a full one.";
        fullEvery =
          opt (types.ints.between 1 100) 7
            "With `incremental`: a full one after so many that depend on each other.";
        withWal =
          opt types.bool false
            "The log that it needs in the base backup itself, for a server that does not archive.";
        package = package (
          if config.services.postgresql.enable or false then
            config.services.postgresql.package
          else
            pkgs.postgresql
        ) "config.services.postgresql.package" "Whose `pg_basebackup` is used; not older than the server.";
      }
      ''
        A whole cluster of PostgreSQL as a base backup. Its log, which the server archives into the same repository by `keepwatch wal push`, brings it
        from there to any moment: see postgresql-pitr.md.
      '';

  command = k.kind {
    argv = need (types.nonEmptyListOf types.str) "The program, an absolute path, and its arguments. No secrets.";
    filename = need types.str "Under which name its output stands in the snapshot.";
    path = opt (types.listOf types.package) [ ] "Packages whose programs the command finds.";
  } "What a command prints. When it fails, so does the backup.";
}
