# Two hosts that share a catalog in PostgreSQL and a bucket, and a third that alone can read: it restores what the first wrote into a database of its
# own and asks it a question.
{
  module,
  lib,
  pkgs,
  ...
}:
let
  access = "keepwatch-test-id";
  secret = "keepwatch-test-secret-key";
  pair = pkgs.runCommand "identity" { nativeBuildInputs = [ pkgs.age ]; } ''
    mkdir $out
    age-keygen -o $out/identity 2>/dev/null
    age-keygen -y $out/identity > $out/recipient
  '';
  common =
    { config, ... }:
    {
      imports = [ module ];
      environment.etc = lib.genAttrs' [ "id" "key" "password" ] (
        name:
        lib.nameValuePair "secrets/${name}" {
          text =
            {
              id = access;
              key = secret;
              password = "of-the-test";
            }
            .${name};
          mode = "0400";
        }
      );
      services.keepwatch = {
        enable = true;
        catalog.database.postgresql = {
          url = "postgres://keepwatch@store/keepwatch?sslmode=disable";
          passwordFile = "/etc/secrets/password";
        };
      };
    };
  bucket = prefix: {
    bucket = "fleet";
    inherit prefix;
    endpoint = "http://store:7070";
    accessKeyIdFile = "/etc/secrets/id";
    secretAccessKeyFile = "/etc/secrets/key";
  };
  recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];

  host =
    { config, ... }:
    {
      imports = [ common ];
      services.keepwatch = {
        repositories.fleet = {
          backend.s3 = bucket config.networking.hostName;
          # Made by the test with a recipient of its own.
          inherit recipients;
        };
        backups.host = {
          source.paths.include = [ "/etc/nixos-test" ];
          startAt = null;
        };
      };
      environment.etc."recipient".source = "${pair}/recipient";
      environment.etc."nixos-test/file".text = "from ${config.networking.hostName}";
    };
in
{
  name = "keepwatch-fleet";

  nodes.store =
    { pkgs, ... }:
    {
      networking.firewall.enable = false;
      services.postgresql = {
        enable = true;
        enableTCPIP = true;
        authentication = "host all all all scram-sha-256";
        initialScript = pkgs.writeText "init.sql" ''
          CREATE ROLE keepwatch LOGIN PASSWORD 'of-the-test';
          CREATE DATABASE keepwatch OWNER keepwatch;
        '';
      };
      systemd.services.versitygw = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          StateDirectory = "s3";
          ExecStart = "${lib.getExe pkgs.versitygw} --access ${access} --secret ${secret} --port :7070 posix /var/lib/s3";
        };
      };
    };

  nodes.web1 = host;
  nodes.db1 =
    { ... }:
    {
      imports = [ host ];
      services.postgresql = {
        enable = true;
        ensureDatabases = [ "app" ];
      };
      services.keepwatch.backups.app = {
        source.postgresql.databases = [ "app" ];
        startAt = null;
      };
    };

  nodes.drill1 = {
    imports = [ common ];
    services.postgresql.enable = true;
    environment.etc."secrets/identity" = {
      source = "${pair}/identity";
      mode = "0400";
    };
    services.keepwatch = {
      repositories.db1 = {
        backend.s3 = bucket "db1";
        inherit recipients;
        identityFile = "/etc/secrets/identity";
        initialize = false;
        prune.enable = false;
        verify.enable = false;
      };
      backups.app = {
        source.postgresql.databases = [ "app" ];
        startAt = null;
        createWrapper = false;
      };
      drills.app = {
        backup = "app";
        startAt = null;
        target.postgresql = { };
        expect.sql = [ "select count(*) = 3 from orders" ];
      };
    };
  };

  testScript = ''
    start_all()
    store.wait_for_unit("postgresql.service")
    store.wait_for_open_port(7070)
    store.succeed("mkdir -p /var/lib/s3/fleet")

    machines = {"db1": db1, "web1": web1}
    for name, machine in machines.items():
        machine.wait_for_unit("keepwatch.service")
        machine.succeed("install -m 600 /etc/secrets/id /root/id && install -m 600 /etc/secrets/key /root/key")
        machine.succeed(
            f"keepwatch init --repo s3://fleet/{name} --s3-endpoint http://store:7070 --s3-access-key-file /root/id --s3-secret-key-file /root/key "
            "--recipient /etc/recipient --writer-key-out /root/fleet.key"
        )
        machine.succeed("install -d -m 700 -o keepwatch -g keepwatch /var/lib/keepwatch/writer-keys")
        machine.succeed("install -m 600 -o keepwatch -g keepwatch /root/fleet.key /var/lib/keepwatch/writer-keys/fleet.key")
        machine.succeed("systemctl start keepwatch-backup-host.service")

    with subtest("one history for all"):
        db1.succeed("keepwatch history --all-hosts --json | grep -F web1")

    with subtest("a drill proves that the database can be restored"):
        db1.wait_for_unit("keepwatch-postgresql.service")
        db1.succeed("sudo -u postgres psql app -c 'create table orders as select generate_series(1, 3) as id'")
        db1.succeed("systemctl start keepwatch-backup-app.service")
        drill1.wait_for_unit("keepwatch-postgresql.service")
        drill1.succeed("systemctl start keepwatch-drill-app.service")
        # Nothing is left behind.
        drill1.succeed("! sudo -u postgres psql -Atc 'select datname from pg_database' | grep keepwatch_drill_")

    with subtest("who writes cannot read"):
        db1.fail("test -e /etc/secrets/identity")
  '';
}
