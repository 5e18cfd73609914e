# Roles in databases of this host: the catalog's own, and one that reads what backups dump and checks ask. Only where a server of this host is
# asked through its socket as Keepwatch's own user; everywhere else the administrator says who may read.
{
  config,
  lib,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  cfg = config.services.keepwatch;
  enabled = lib.filterAttrs (_: v: v.enable);
  parts = lib.concatMap (b: map (p: p.part) (k.partsOf "" b.source)) (
    lib.attrValues (enabled cfg.backups)
  );
  sources = kind: lib.catAttrs kind parts;
  probes = kind: lib.catAttrs kind (map (c: c.probe) (lib.attrValues (enabled cfg.checks)));
  targets = kind: lib.catAttrs kind (map (d: d.target) (lib.attrValues (enabled cfg.drills)));

  isOwn = v: v.user == cfg.user && v.passwordFile == null;
  bySocket = v: isOwn v && lib.hasPrefix "/" v.host;
  byTarget = v: isOwn v && lib.hasPrefix "unix:" v.target;

  hasPostgresql = config.services.postgresql.enable or false;
  reads = hasPostgresql && lib.any bySocket (sources "postgresql");
  asks = hasPostgresql && lib.any byTarget (probes "postgresql");
  copies = hasPostgresql && lib.any bySocket (sources "postgresqlCluster");
  drills = hasPostgresql && lib.any (t: t.private == false && bySocket t) (targets "postgresql");
  role = ''"${cfg.user}"'';

  hasMysql = config.services.mysql.enable or false;
  readsMysql =
    hasMysql
    && (
      lib.any (v: isOwn v && v.host == null && v.socket != null) (sources "mysql")
      || lib.any byTarget (probes "mysql")
    );

  catalog = cfg.catalog.database.postgresql or { createLocally = false; };
in
{
  config = lib.mkIf cfg.enable {
    services.postgresql = lib.mkIf catalog.createLocally {
      enable = true;
      ensureDatabases = [ "keepwatch" ];
      ensureUsers = [
        {
          name = "keepwatch";
          ensureDBOwnership = true;
        }
      ];
    };

    # No superuser: it reads everything, and writes nothing but the scratch databases of drills.
    systemd.services.keepwatch-postgresql = lib.mkIf (reads || copies || asks || drills) {
      description = "Keepwatch: its role in PostgreSQL";
      wantedBy = [ "multi-user.target" ];
      requires = [ "postgresql.service" ];
      after = [
        "postgresql.service"
        # Where ensureUsers are made, in NixOS 25.11 and later.
        "postgresql-setup.service"
      ];
      partOf = [ "postgresql.service" ];
      path = [ config.services.postgresql.package ];
      enableDefaultPath = false;
      script = ''
        psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --port=${
          toString (config.services.postgresql.settings.port or 5432)
        } --dbname=postgres <<'SQL'
        DO $$ BEGIN CREATE ROLE ${role} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT pg_monitor TO ${role};
        ${lib.optionalString reads ''
          -- Rows that a policy hides, roles with their password hashes, and large objects belong into a backup, too.
          ALTER ROLE ${role} BYPASSRLS;
          GRANT pg_read_all_data, pg_read_all_settings TO ${role};
          GRANT SELECT ON pg_catalog.pg_authid TO ${role};
          ALTER ROLE ${role} SET lo_compat_privileges = on;
        ''}
        ${lib.concatMapStringsSep " " (right: "ALTER ROLE ${role} ${right};") (
          lib.optional copies "REPLICATION" ++ lib.optional drills "CREATEDB"
        )}
        SQL
      '';
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        User = "postgres";
        Group = "postgres";
      }
      // removeAttrs (import ./hardening.nix { inherit lib; } { network = false; }) [
        "SupplementaryGroups"
      ];
    };

    services.mysql = lib.mkIf readsMysql {
      ensureUsers = [
        {
          name = cfg.user;
          ensurePermissions."*.*" = "SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, PROCESS, RELOAD";
        }
      ];
    };
  };
}
