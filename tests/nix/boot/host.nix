# The host that tests/nix/boot/run boots: made of the modules as any other, with packages where Debian has them. What comes of it stands in
# expected/boot.json, kept current by tests/nix/run, so that it can also be booted where there is no Nix. The recipient is put in then.
let
  recipient = "@RECIPIENT@";
in
import ../eval.nix {
  modules = [
    {
      services.postgresql.enable = true;

      # A service of the host that hangs or dies, and one that a backup stops.
      systemd.services.shop = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "/bin/sleep infinity";
      };
      systemd.services.memory = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "/bin/sleep infinity";
      };
      systemd.services.other = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "/bin/sleep infinity";
      };
      # Who is told.
      systemd.services."tell@" = {
        serviceConfig = {
          Type = "oneshot";
          ExecStart = "/usr/bin/install -D /dev/null /result/told/%i";
        };
      };

      # Debian starts it, with a socket that is its group's alone.
      systemd.services.redis-server = { };
      services.redis.servers."" = {
        enable = true;
        unixSocket = "/run/redis/redis.sock";
      };

      services.keepwatch = {
        enable = true;
        host = "kw-boot";
        repositories.disk = {
          backend.local.path = "/srv/backup";
          recipients = [ recipient ];
          identityFile = "/etc/secrets/identity";
          verify.readData = "all";
        };
        # A bucket, by credentials that root alone can read.
        repositories.bucket = {
          backend.s3 = {
            bucket = "backups";
            prefix = "kw-boot";
            endpoint = "http://127.0.0.1:7070";
            accessKeyIdFile = "/etc/secrets/s3-id";
            secretAccessKeyFile = "/etc/secrets/s3-key";
          };
          recipients = [ recipient ];
          identityFile = "/etc/secrets/identity";
        };
        # A place with the same keys as the first, made by hand.
        repositories.twin = {
          backend.local.path = "/srv/twin";
          recipients = [ recipient ];
          initialize = false;
        };
        # A disk that is mounted and belongs to root.
        repositories.mounted = {
          backend.local = {
            path = "/mnt/disk/some/repository";
            requireMount = "/mnt/disk";
          };
          recipients = [ recipient ];
        };
        # A disk that is not there.
        repositories.absent = {
          backend.local = {
            path = "/mnt/absent/repository";
            requireMount = "/mnt/absent";
          };
          recipients = [ recipient ];
        };
        defaults = {
          repositories = [ "disk" ];
          retry.attempts = 0;
          onFailure = [ "tell@%n.service" ];
          timerConfig = {
            RandomizedDelaySec = 0;
            AccuracySec = "1s";
          };
        };

        backups = {
          # Files of others, which only their owners may read; by its timer.
          files = {
            source.paths.include = [
              "/home"
              "/etc/secret-app"
            ];
            startAt = "*-*-* *:*:0/20";
            onSuccess = [ "tell@success.service" ];
          };
          # What is missed while the machine is off.
          daily = {
            source.paths.include = [ "/etc/hostname" ];
            startAt = "daily";
          };
          # The same database by the agent's own source, as soon as the agent has it.
          app = {
            source.postgresql.databases = [ "app" ];
            startAt = null;
          };
          # By the role that the module makes: rows behind a policy, large objects, password hashes of roles.
          database = {
            source.command = {
              argv = [
                "/bin/sh"
                "-euc"
                "pg_dumpall --globals-only --host=/run/postgresql --database=postgres && pg_dump --host=/run/postgresql app"
              ];
              filename = "app.sql";
            };
            startAt = null;
          };
          broken = {
            source.command = {
              argv = [ "/bin/false" ];
              filename = "nothing";
            };
            startAt = null;
          };
          stopping = {
            source.command = {
              # Fails unless the unit is stopped by now.
              argv = [
                "/bin/sh"
                "-c"
                "! systemctl is-active --quiet memory.service && echo stopped"
              ];
              filename = "state";
            };
            stopUnits = [ "memory.service" ];
            preHook = "echo the hook says $KEEPWATCH_JOB";
            postHook = "echo the end is $KEEPWATCH_RESULT";
            startAt = null;
          };
          slow = {
            source.command = {
              argv = [
                "/bin/sleep"
                "100"
              ];
              filename = "nothing";
            };
            inhibitsSleep = true;
            startAt = null;
          };
          far = {
            source.paths.include = [ "/etc/secret-app" ];
            repositories = [ "bucket" ];
            startAt = null;
          };
          mounted = {
            source.paths.include = [ "/etc/hostname" ];
            repositories = [ "mounted" ];
            startAt = null;
          };
          away = {
            source.paths.include = [ "/etc/hostname" ];
            repositories = [ "absent" ];
            startAt = null;
          };
        };

        # Between twins nothing is opened; between others everything is.
        copies = {
          twin = {
            from = "disk";
            to = "twin";
            backups = [ "files" ];
            startAt = null;
          };
          anew = {
            from = "disk";
            to = "mounted";
            backups = [ "files" ];
            startAt = null;
            identityFile = "/etc/secrets/identity";
          };
          refused = {
            from = "disk";
            to = "mounted";
            backups = [ "daily" ];
            startAt = null;
          };
        };

        # Restores rehearsed: files into a directory, a database into a server of its own.
        drills = {
          files = {
            backup = "files";
            target.directory = { };
            expect.minFiles = 2;
            startAt = null;
          };
          app = {
            backup = "app";
            target.postgresql = { };
            expect.sql = [ "select count(*) = 1 from t" ];
            startAt = null;
          };
        };

        checks = {
          redis = {
            probe.redis.target = "127.0.0.1:6379";
            interval = "1s";
            retryInterval = "1s";
            timeout = "500ms";
            failureThreshold = 2;
            severity = "critical";
            onFailure.restartUnit = "redis-server.service";
          };
          redis-socket = {
            probe.redis.target = "unix:/run/redis/redis.sock";
            interval = "2s";
          };
          shop = {
            probe.systemd.unit = "shop.service";
            interval = "1s";
            retryInterval = "1s";
            timeout = "500ms";
            failureThreshold = 2;
            onFailure.restartUnit = "shop.service";
          };
          postgresql = {
            probe.postgresql = { };
            interval = "2s";
            severity = "critical";
          };
          memory.probe.memory = { };
          pressure.probe.pressure = { };
        };
        restarts."shop.service".settle = "1s";
        restarts."redis-server.service".settle = "1s";
      };
    }
  ];
}
