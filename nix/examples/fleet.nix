# Several hosts, one bucket, one catalog, one host that watches them all, one that proves that backups can be restored.
#
# Each host has a repository of its own in the bucket (a prefix), so that one that was broken into cannot spoil what others rely on. The drill
# host alone holds the identity. `hosts` is what a flake's `nixosConfigurations` would be made of.
let
  recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
  bucket = prefix: {
    bucket = "fleet-backups";
    inherit prefix;
    endpoint = "https://s3.example.org";
    accessKeyIdFile = "/run/secrets/s3-access-key";
    secretAccessKeyFile = "/run/secrets/s3-secret-key";
  };
  token = "/run/secrets/keepwatch-metrics-token";

  # What every host has.
  common =
    { config, ... }:
    {
      services.keepwatch = {
        enable = true;
        metrics = {
          listenAddress = "0.0.0.0";
          openFirewall = true;
          bearerTokenFile = token;
        };
        catalog.database.postgresql = {
          url = "postgres://keepwatch@db1.example.org/keepwatch?sslmode=verify-full";
          passwordFile = "/run/secrets/catalog-password";
        };
        repositories.fleet = {
          backend.s3 = bucket config.networking.hostName;
          inherit recipients;
        };
        backups.host.source.paths.include = [
          "/etc"
          "/home"
          "/var/lib"
        ];
        checks.disk.probe.disk.path = "/";
      };
    };
in
{
  web1 = {
    imports = [ common ];
    networking.hostName = "web1";
    services.keepwatch.checks.web = {
      probe.http.url = "https://shop.example.org/health";
      severity = "critical";
    };
  };

  db1 = {
    imports = [ common ];
    networking.hostName = "db1";
    services.postgresql.enable = true;
    services.keepwatch = {
      backups.app.source.postgresql.databases = [ "app" ];
      checks.postgresql = {
        probe.postgresql = { };
        severity = "critical";
        onFailure.restartUnit = "postgresql.service";
      };
    };
  };

  # Watches and tells. It has no backups of its own: everything on it is declared.
  watch1 =
    { ... }:
    {
      networking.hostName = "watch1";
      services.grafana.settings.security.secret_key = "$__file{/run/secrets/grafana-secret-key}";
      services.keepwatch = {
        prometheus = {
          enable = true;
          targets = map (host: "${host}.example.org:9847") [
            "web1"
            "db1"
            "drill1"
          ];
          bearerTokenFile = token;
        };
        alertmanager = {
          enable = true;
          receivers = {
            phone.telegram = {
              botTokenFile = "/run/secrets/telegram-bot-token";
              chatId = -1001234567890;
            };
            mail.email = {
              to = [ "ops@example.org" ];
              from = "keepwatch@example.org";
              smarthost = "mail.example.org:587";
              username = "keepwatch";
              passwordFile = "/run/secrets/mail-password";
            };
          };
          defaultReceiver = "mail";
          routes = [
            {
              severity = "critical";
              receiver = "phone";
            }
          ];
          deadManSwitch.urlFile = "/run/secrets/dead-man-url";
        };
        grafana = {
          enable = true;
          createDatasource = true;
        };
      };
    };

  # Restores what db1 wrote, every Sunday, into a database of its own, and asks it a question. The only host with the identity.
  drill1 = {
    imports = [ common ];
    networking.hostName = "drill1";
    services.postgresql.enable = true;
    services.keepwatch = {
      repositories.db1 = {
        backend.s3 = bucket "db1";
        inherit recipients;
        identityFile = "/run/secrets/drill-identity";
        # It reads another host's repository: that one prunes and verifies it.
        initialize = false;
        prune.enable = false;
        verify.enable = false;
      };
      # The job of db1 is known here by its name, and never run.
      backups.host.repositories = [ "fleet" ];
      backups.app = {
        source.postgresql.databases = [ "app" ];
        repositories = [ "db1" ];
        startAt = null;
        createWrapper = false;
      };
      drills.app = {
        backup = "app";
        startAt = "Sun 06:00";
        target.postgresql = { };
        expect = {
          sql = [ "select count(*) > 0 from orders" ];
          maxDuration = "1h";
        };
      };
    };
  };
}
