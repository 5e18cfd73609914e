# Configurations that are taken, with what must be in what is made of them (`has`) and what must not (`lacks`): lines of units, of the
# agent's document (`toml`), of polkit's rules (`polkit`). Warnings are those that are listed, by a part of their text, and no others.
let
  recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
  disk = {
    backend.local = {
      path = "/mnt/backup/web1";
      requireMount = "/mnt/backup";
    };
    inherit recipients;
  };
  keepwatch = more: {
    services.keepwatch = {
      enable = true;
    }
    // more;
  };
  with' = more: keepwatch ({ repositories.disk = disk; } // more);
in
{
  "nothing is made where it is not enabled" = {
    modules = [ { services.keepwatch.repositories.disk = disk; } ];
    units = [ ];
  };

  "an agent without backups" = {
    modules = [ (keepwatch { }) ];
    units = [ "keepwatch.service" ];
    has."keepwatch.service" = [
      "Type=notify"
      "Restart=always"
      "User=keepwatch"
      "CapabilityBoundingSet="
      "NoNewPrivileges=true"
      "ProtectSystem=strict"
      "ProcSubset=all"
    ];
    lacks."keepwatch.service" = [ "LoadCredential=" ];
    has.toml = [
      "host = \"web1\""
      "port = 9847"
    ];
  };

  "a job of files reads everything and writes its repository alone" = {
    modules = [ (with' { backups.home.source.paths.include = [ "/home" ]; }) ];
    units = [
      "keepwatch-backup-home.service"
      "keepwatch-backup-home.timer"
      "keepwatch-directory-disk.service"
      "keepwatch-prune-disk.service"
      "keepwatch-prune-disk.timer"
      "keepwatch-verify-disk.service"
      "keepwatch-verify-disk.timer"
      "keepwatch.service"
    ];
    has."keepwatch-backup-home.service" = [
      "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"
      "AmbientCapabilities=CAP_DAC_READ_SEARCH"
      "ProtectHome=read-only"
      "ReadWritePaths=-/mnt/backup/web1"
      "RequiresMountsFor=/mnt/backup/web1"
      "PrivateNetwork=true"
      "SuccessExitStatus=3"
      "X-RestartIfChanged=false"
      "LogExtraFields=KEEPWATCH_JOB=home"
      "Wants=keepwatch-directory-disk.service"
      ''ExecStart="/opt/keepwatch/bin/keepwatch" "backup" "--job=home" "--config=/etc/keepwatch/config.toml"''
    ];
    lacks."keepwatch-backup-home.service" = [
      "WantedBy="
      "identity"
    ];
    has."keepwatch-backup-home.timer" = [
      "OnCalendar=daily"
      "Persistent=true"
      "RandomizedDelaySec=15m"
      "X-OnlyManualStart=true"
      "WantedBy=timers.target"
    ];
    # As root, in a sandbox of its own, and never beneath a mount that is absent.
    has."keepwatch-directory-disk.service" = [
      "ConditionPathIsMountPoint=/mnt/backup"
      ''"--owner=keepwatch" "--group=keepwatch" "/mnt/backup/web1"''
      "ReadWritePaths=/mnt/backup"
    ];
    has.wrappers = [ "keepwatch-home" ];
  };

  "homes are closed to jobs that do not read them" = {
    modules = [ (with' { backups.etc.source.paths.include = [ "/etc" ]; }) ];
    has."keepwatch-backup-etc.service" = [
      "ProtectHome=true"
      "PrivateTmp=true"
    ];
  };

  "all of the host means homes and temporary files, too" = {
    modules = [
      (with' {
        backups.all.source.paths = {
          include = [ "/" ];
          exclude = [ "/mnt" ];
        };
      })
    ];
    has."keepwatch-backup-all.service" = [
      "ProtectHome=read-only"
      "PrivateTmp=false"
    ];
  };

  "one key of timerConfig leaves the others as they are" = {
    modules = [
      (with' {
        backups.home = {
          source.paths.include = [ "/home" ];
          startAt = [
            "06:00"
            "18:00"
          ];
          timerConfig.RandomizedDelaySec = "1m";
        };
      })
    ];
    has."keepwatch-backup-home.timer" = [
      "OnCalendar=06:00"
      "OnCalendar=18:00"
      "Persistent=true"
      "RandomizedDelaySec=1m"
    ];
    lacks."keepwatch-backup-home.timer" = [ "RandomizedDelaySec=15m" ];
    has.toml = [ ''start_at = ["06:00", "18:00"]'' ];
  };

  "by hand only means no timer" = {
    modules = [
      (with' {
        backups.home = {
          source.paths.include = [ "/home" ];
          startAt = null;
        };
      })
    ];
    absent = [ "keepwatch-backup-home.timer" ];
    has.toml = [ "start_at = []" ];
  };

  "a bucket: credentials of the unit, network, and nothing in the document" = {
    modules = [
      (keepwatch {
        repositories.far = {
          backend.s3 = {
            bucket = "backups";
            prefix = "web1";
            endpoint = "https://s3.example.org";
            accessKeyIdFile = "/run/secrets/id";
            secretAccessKeyFile = "/run/secrets/key";
            objectLock.mode = "compliance";
          };
          inherit recipients;
          writerKeyFile = "/run/secrets/writer";
          identityFile = "/run/secrets/identity";
        };
        backups.home.source.paths.include = [ "/home" ];
      })
    ];
    absent = [ "keepwatch-directory-far.service" ];
    has."keepwatch-backup-home.service" = [
      "LoadCredential=repository-far-access-key-id:/run/secrets/id"
      "LoadCredential=repository-far-secret-access-key:/run/secrets/key"
      "LoadCredential=repository-far-writer-key:/run/secrets/writer"
      "PrivateNetwork=false"
      "Wants=network-online.target"
    ];
    # Who writes cannot read.
    lacks."keepwatch-backup-home.service" = [ "/run/secrets/identity" ];
    lacks."keepwatch-prune-far.service" = [ "/run/secrets/identity" ];
    lacks."keepwatch.service" = [ "/run/secrets" ];
    lacks."keepwatch-verify-far.service" = [ "repository-far-identity" ];
    has."keepwatch-restore-home.service" = [
      "LoadCredential=repository-far-identity:/run/secrets/identity"
      ''"--identity=%d/repository-far-identity"''
      "access-key-file=%d/repository-far-access-key-id"
      "CapabilityBoundingSet=CAP_CHOWN"
    ];
    has.toml = [
      ''writer_key_file = "credential:repository-far-writer-key"''
      ''access_key_id_file = "credential:repository-far-access-key-id"''
    ];
    lacks.toml = [ "/run/secrets" ];
  };

  "a repository in a home: its jobs and the daemon see it" = {
    modules = [
      (keepwatch {
        repositories.mine = {
          backend.local.path = "/home/me/backup";
          inherit recipients;
        };
        backups.etc.source.paths.include = [ "/etc" ];
      })
    ];
    has."keepwatch-backup-etc.service" = [
      "ProtectHome=read-only"
      "ReadWritePaths=-/home/me/backup"
    ];
    has."keepwatch.service" = [ "ProtectHome=read-only" ];
    warnings = [ "the only repository lies on this host's own disk" ];
  };

  "the role in PostgreSQL reads and does not rule" = {
    modules = [
      (with' { backups.app.source.postgresql.databases = [ "app" ]; })
      { services.postgresql.enable = true; }
    ];
    has."keepwatch-postgresql.service" = [
      "User=postgres"
      "After=postgresql.service postgresql-setup.service"
    ];
    has."keepwatch-backup-app.service" = [
      "After=keepwatch-directory-disk.service postgresql.service keepwatch-postgresql.service"
      "CapabilityBoundingSet="
      "PrivateUsers=true"
    ];
    lacks."keepwatch-backup-app.service" = [ "CAP_DAC_READ_SEARCH" ];
    has.toml = [ ''user = "keepwatch"'' ];
  };

  "a Redis server by its name: socket and group" = {
    modules = [
      (with' { backups.cache.source.redis.server = "cache"; })
      { services.redis.servers.cache.enable = true; }
    ];
    has."keepwatch-backup-cache.service" = [ "SupplementaryGroups=redis-cache" ];
    has.toml = [ ''socket = "/run/redis-cache/redis.sock"'' ];
  };

  "a daemon that asks through sockets of groups" = {
    modules = [
      (keepwatch {
        checks = {
          one.probe.redis.target = "unix:/run/redis-one/redis.sock";
          two.probe.redis.target = "unix:/run/redis-two/redis.sock";
          database.probe.postgresql = { };
          far.probe.http.url = "https://example.org/";
        };
        notifications = {
          receivers.phone.telegram = {
            botTokenFile = "/run/secrets/bot";
            chatId = 5;
          };
          defaultReceiver = "phone";
        };
      })
      {
        services.postgresql.enable = true;
        services.redis.servers.one.enable = true;
        services.redis.servers.two.enable = true;
      }
    ];
    has."keepwatch.service" = [
      "SupplementaryGroups=redis-one\nSupplementaryGroups=redis-two\n"
      # All hosts, and no group of hosts.
      "IPAddressDeny=any\n"
      "IPAddressAllow=192.0.0.0/3\n"
    ];
    lacks."keepwatch.service" = [ "IPAddressAllow=224" ];
  };

  "several sources in one snapshot: each has its secrets, all have what any of them needs" = {
    modules = [
      (with' {
        backups.app.source.several.parts = [
          {
            postgresql = {
              host = "db1";
              passwordFile = "/run/secrets/one";
              label = "one";
            };
          }
          {
            postgresql = {
              host = "db2";
              passwordFile = "/run/secrets/two";
              label = "two";
            };
          }
          { redis.server = "cache"; }
          { paths.include = [ "/srv/app" ]; }
        ];
      })
      { services.redis.servers.cache.enable = true; }
    ];
    has."keepwatch-backup-app.service" = [
      "LoadCredential=backup-app-0-password:/run/secrets/one"
      "LoadCredential=backup-app-1-password:/run/secrets/two"
      "SupplementaryGroups=redis-cache"
      "PrivateNetwork=false"
    ];
    has.toml = [
      ''password_file = "credential:backup-app-1-password"''
      ''include = ["/srv/app"]''
    ];
  };

  "a base backup of a whole cluster, by a role that may replicate" = {
    modules = [
      (keepwatch {
        repositories.disk = disk;
        backups.cluster.source.postgresqlCluster.incremental = true;
      })
      { services.postgresql.enable = true; }
    ];
    has."keepwatch-backup-cluster.service" = [
      "PrivateNetwork=true"
      "After=keepwatch-directory-disk.service postgresql.service keepwatch-postgresql.service"
    ];
    has."keepwatch-postgresql.service" = [ "User=postgres" ];
    has.toml = [
      "[backups.cluster.source.postgresql_cluster]"
      "incremental = true"
    ];
  };

  "a drill of a whole cluster, by a server of its own" = {
    modules = [
      (keepwatch {
        repositories.disk = disk // {
          identityFile = "/run/secrets/identity";
        };
        backups.cluster.source.postgresqlCluster = { };
        drills.cluster = {
          backup = "cluster";
          target.postgresql = { };
          expect.sql = [ "select count(*) > 0 from orders" ];
        };
      })
      { services.postgresql.enable = true; }
    ];
    # It speaks with its own server by a socket, and with nobody else.
    has."keepwatch-drill-cluster.service" = [
      "PrivateNetwork=true"
      "LoadCredential=repository-disk-identity:/run/secrets/identity"
    ];
    has.toml = [
      "[drills.cluster.target.postgresql]"
    ];
  };

  "a drill with a server of its own" = {
    modules = [
      (keepwatch {
        repositories.disk = disk // {
          identityFile = "/run/secrets/identity";
        };
        backups.vectors.source.qdrant = { };
        drills.vectors = {
          backup = "vectors";
          target.qdrant = { };
        };
      })
    ];
    has."keepwatch-drill-vectors.service" = [
      "PrivateNetwork=true"
      "RestrictAddressFamilies=AF_INET"
      "IPAddressAllow=localhost"
      "MemoryDenyWriteExecute=false"
    ];
  };

  "a restart may do what the check says and nothing else" = {
    modules = [
      (keepwatch {
        checks.web = {
          probe.http.url = "http://127.0.0.1:8080/";
          onFailure.restartUnit = "shop.service";
        };
        restarts."shop.service".escalation = [
          "unit"
          { dependants = [ "worker.service" ]; }
        ];
      })
      {
        systemd.services.shop.serviceConfig.Type = "simple";
        systemd.services.worker.serviceConfig.Type = "simple";
      }
    ];
    has.polkit = [
      ''var allowed = {"shop.service":["restart","reset-failed"],"worker.service":["restart","reset-failed"]};''
      ''subject.user == "keepwatch"''
    ];
    has.toml = [ ''escalation = ["unit", { dependants = ["worker.service"] }]'' ];
  };

  "without restarts there is no rule" = {
    modules = [ (keepwatch { checks.web.probe.http.url = "http://127.0.0.1/"; }) ];
    lacks.polkit = [ "addRule" ];
  };

  "units that a backup stops, sleep, hooks" = {
    modules = [
      (with' {
        backups.memory = {
          source.paths.include = [ "/var/lib/memory" ];
          stopUnits = [ "memory.service" ];
          inhibitsSleep = true;
          preHook = "echo before";
          postHook = "echo after";
          onFailure = [ "tell@%n.service" ];
          onSuccess = [ "done.service" ];
        };
      })
      { systemd.services.memory.serviceConfig.Type = "simple"; }
    ];
    has.polkit = [
      ''var allowed = {"memory.service":["stop","start"]};''
      "inhibit-block-sleep"
    ];
    has."keepwatch-backup-memory.service" = [
      "OnFailure=tell@%n.service"
      "OnSuccess=done.service"
      "systemd-inhibit --what=sleep"
      "MemoryDenyWriteExecute=false"
      "PATH="
    ];
    has.toml = [
      ''pre_hook = ["/nix/store/''
      ''stop_units = ["memory.service"]''
    ];
  };

  "serviceConfig wins over the module" = {
    modules = [
      (with' {
        backups.home = {
          source.paths.include = [ "/home" ];
          serviceConfig.Nice = 0;
          unitConfig.ConditionACPower = true;
        };
      })
    ];
    has."keepwatch-backup-home.service" = [
      "Nice=0"
      "ConditionACPower=true"
    ];
    lacks."keepwatch-backup-home.service" = [ "Nice=10" ];
  };

  "a drill has the identity, a scratch directory, and its databases" = {
    modules = [
      (keepwatch {
        repositories.disk = disk // {
          identityFile = "/run/secrets/identity";
        };
        backups.app.source.postgresql = { };
        drills.app = {
          backup = "app";
          target.postgresql = { };
          expect.sql = [ "select true" ];
        };
      })
      { services.postgresql.enable = true; }
    ];
    has."keepwatch-drill-app.service" = [
      ''ExecStart="/opt/keepwatch/bin/keepwatch" "drill" "app" "--config=/etc/keepwatch/config.toml"''
      "LoadCredential=repository-disk-identity:/run/secrets/identity"
      "RuntimeDirectory=keepwatch-drill-app"
    ];
    has."keepwatch-drill-app.timer" = [ "OnCalendar=monthly" ];
    has.toml = [ ''repository = "disk"'' ];
  };

  "a copy has the keys of both repositories" = {
    modules = [
      (keepwatch {
        repositories = {
          inherit disk;
          far = {
            backend.s3 = {
              bucket = "bkt";
              credentialsFile = "/run/secrets/aws";
            };
            inherit recipients;
            writerKeyFile = "/run/secrets/far-writer";
          };
        };
        defaults.repositories = [ "disk" ];
        backups.home.source.paths.include = [ "/home" ];
        copies.away = {
          from = "disk";
          to = "far";
        };
      })
    ];
    has."keepwatch-copy-away.service" = [
      ''"copy" "--copy=away"''
      "LoadCredential=repository-far-credentials:/run/secrets/aws"
      "LoadCredential=repository-far-writer-key:/run/secrets/far-writer"
      "ReadWritePaths=-/mnt/backup/web1"
    ];
    lacks."keepwatch-backup-home.service" = [ "/run/secrets" ];
    # Twins are copied as they are.
    identities = [ ];
    lacks.toml = [ "identity_file" ];
  };

  "the identity is where it is needed: drills, restores, and a copy that says so" = {
    modules = [
      (keepwatch {
        repositories = {
          disk = disk // {
            identityFile = "/run/secrets/identity";
          };
          other = {
            backend.local = {
              path = "/mnt/other/web1";
              requireMount = "/mnt/other";
            };
            inherit recipients;
          };
          far = {
            backend.s3 = {
              bucket = "bkt";
              credentialsFile = "/run/secrets/aws";
            };
            inherit recipients;
            writerKeyFile = "/run/secrets/far-writer";
          };
        };
        defaults.repositories = [ "disk" ];
        backups.home.source.paths.include = [ "/home" ];
        backups.app.source.postgresql = { };
        backups.elsewhere = {
          source.paths.include = [ "/srv" ];
          repositories = [ "other" ];
        };
        checks.web.probe.http.url = "http://127.0.0.1/";
        drills.home = {
          backup = "home";
          target.directory = { };
        };
        # Of two with the same keys, and of two with different ones.
        copies.twin = {
          from = "disk";
          to = "far";
        };
        copies.sealed-anew = {
          from = "other";
          to = "far";
          identityFile = "/run/secrets/identity-of-other";
        };
      })
      { services.postgresql.enable = true; }
    ];
    identities = [
      "keepwatch-copy-sealed-anew.service repository-other-identity:/run/secrets/identity-of-other"
      "keepwatch-drill-home.service repository-disk-identity:/run/secrets/identity"
      "keepwatch-restore-app.service repository-disk-identity:/run/secrets/identity"
      "keepwatch-restore-home.service repository-disk-identity:/run/secrets/identity"
    ];
    has.toml = [ ''identity_file = "credential:repository-other-identity"'' ];
    lacks.toml = [
      "credential:copy-"
      "/run/secrets"
    ];
  };

  "the daemon has the secrets of checks, messages and its endpoint" = {
    modules = [
      (keepwatch {
        metrics.bearerTokenFile = "/run/secrets/metrics";
        checks.db.probe.postgresql = {
          target = "db1:5432";
          user = "monitor";
          passwordFile = "/run/secrets/db";
        };
        notifications = {
          receivers.phone.telegram = {
            botTokenFile = "/run/secrets/bot";
            chatId = 5;
          };
          defaultReceiver = "phone";
          deadManSwitch.urlFile = "/run/secrets/dead-man";
        };
      })
    ];
    has."keepwatch.service" = [
      "LoadCredential=check-db-password:/run/secrets/db"
      "LoadCredential=receiver-phone-bot-token:/run/secrets/bot"
      "LoadCredential=notify-url:/run/secrets/dead-man"
      "LoadCredential=metrics-bearer-token:/run/secrets/metrics"
    ];
    has.toml = [
      ''bot_token_file = "credential:receiver-phone-bot-token"''
      ''password_file = "credential:check-db-password"''
    ];
  };

  "jobs of others that report" = {
    modules = [ (keepwatch { beatsSocket = "/run/keepwatch/beats"; }) ];
    units = [ "keepwatch.service" ];
    has."keepwatch.service" = [ "RuntimeDirectory=keepwatch" ];
    has.toml = [ "beats_socket = \"/run/keepwatch/beats\"" ];
  };

  "a catalog in PostgreSQL here" = {
    modules = [ (keepwatch { catalog.database.postgresql.createLocally = true; }) ];
    has.toml = [ ''url = "postgres://keepwatch@localhost/keepwatch?host=/run/postgresql"'' ];
    lacks.toml = [ "create_locally" ];
  };

  "settings are the way out, and options win" = {
    modules = [
      (keepwatch {
        settings = {
          logging.level = "trace";
          health.startup_deadline = "9m";
          new_section.key = 1;
        };
      })
    ];
    has.toml = [
      ''level = "info"''
      "[new_section]"
    ];
    lacks.toml = [ "trace" ];
    unchecked = true;
  };

  "names that are too long for a credential are shortened without meeting another" = {
    modules = [
      (keepwatch {
        repositories."a-repository-with-a-name-that-is-quite-long-for-what-it-is-worth" = {
          backend.s3 = {
            bucket = "bkt";
            accessKeyIdFile = "/run/secrets/id";
            secretAccessKeyFile = "/run/secrets/key";
          };
          inherit recipients;
        };
      })
    ];
    has.toml = [ ''access_key_id_file = "credential:repository-a-repository-'' ];
  };

  "journal: retention and Alloy" = {
    modules = [
      (keepwatch {
        logging = {
          retention = "30day";
          alloy.enable = true;
        };
      })
    ];
    has.journald = [ "MaxRetentionSec=30day" ];
    has.etc = [ "alloy/keepwatch.alloy" ];
  };

  "Prometheus merges with others, and keeps the token in a credential" = {
    modules = [
      (keepwatch {
        prometheus = {
          enable = true;
          bearerTokenFile = "/run/secrets/token";
        };
      })
      {
        services.prometheus.scrapeConfigs = [ { job_name = "node"; } ];
        services.prometheus.ruleFiles = [ "/etc/mine.yml" ];
      }
    ];
    has.prometheus = [
      ''"targets":["127.0.0.1:9847"]''
      ''"credentials_file":"/run/credentials/prometheus.service/keepwatch-token"''
      ''"job_name":"node"''
      ''"/etc/mine.yml"''
      ''"checkConfig":"syntax-only"''
    ];
  };

  "Prometheus has the token of an agent on this host that others can reach" = {
    modules = [
      (keepwatch {
        metrics = {
          listenAddress = "0.0.0.0";
          bearerTokenFile = "/run/secrets/token";
        };
        prometheus.enable = true;
      })
    ];
    has.prometheus = [
      ''"credentials_file":"/run/credentials/prometheus.service/keepwatch-token"''
      ''"checkConfig":"syntax-only"''
    ];
    has.credentials = [ "keepwatch-token:/run/secrets/token" ];
  };

  "Prometheus needs no token where the agent listens on loopback" = {
    modules = [
      (keepwatch {
        metrics.bearerTokenFile = "/run/secrets/token";
        prometheus.enable = true;
      })
    ];
    lacks.prometheus = [ "credentials_file" ];
  };

  "Alertmanager: Watchdog first, secrets as files, dollars doubled" = {
    modules = [
      (keepwatch {
        alertmanager = {
          enable = true;
          receivers = {
            phone.telegram = {
              botTokenFile = "/run/secrets/bot";
              chatId = 5;
            };
            mail.email = {
              to = [ "a$b@example.org" ];
              from = "k@example.org";
              smarthost = "mail:587";
            };
            push.ntfy = {
              topic = "t";
              tokenFile = "/run/secrets/ntfy";
            };
          };
          defaultReceiver = "mail";
          routes = [
            {
              severity = "critical";
              receiver = "phone";
            }
          ];
          deadManSwitch.urlFile = "/run/secrets/dead-man";
        };
      })
    ];
    has.alertmanager = [
      ''"bot_token_file":"/run/credentials/alertmanager.service/keepwatch-phone-bot-token"''
      ''"url_file":"/run/credentials/alertmanager.service/keepwatch-dead-man-url"''
      "a$$b@example.org"
      ''"repeat_interval":"1h"''
    ];
    has.credentials = [
      "keepwatch-phone-bot-token:/run/secrets/bot"
      "keepwatch-push-token:/run/secrets/ntfy"
      "keepwatch-dead-man-url:/run/secrets/dead-man"
    ];
  };

  "Grafana gets one provider" = {
    modules = [ (keepwatch { grafana.enable = true; }) ];
    has.grafana = [ ''"name":"keepwatch"'' ];
  };

  "a host that watches needs no agent" = {
    modules = [
      {
        services.keepwatch.prometheus = {
          enable = true;
          targets = [ "web1:9847" ];
        };
      }
    ];
    units = [ ];
    has.prometheus = [ ''"targets":["web1:9847"]'' ];
  };

  "what is worth a second look is said, and built" = {
    modules = [
      (keepwatch {
        repositories.far = {
          backend.s3.bucket = "bkt";
          inherit recipients;
        };
        checks.web = {
          probe.tcp.target = "127.0.0.1:80";
          onFailure.restartUnit = "nginx.service";
        };
        metrics.listenAddress = "0.0.0.0";
        settings.notifications.some_token = "x";
      })
    ];
    warnings = [
      "checks.web.onFailure.restartUnit: the unit nginx.service is not declared"
      "repositories.far.backend.s3: no credentials are named"
      "metrics.listenAddress: other hosts can read"
      "settings.notifications.some_token: secrets do not belong"
    ];
    unchecked = true;
  };

  "the last copy on the host's own disk is warned about" = {
    modules = [
      (keepwatch {
        repositories.here = {
          backend.local.path = "/backup";
          inherit recipients;
        };
        backups.etc.source.paths.include = [ "/etc" ];
      })
    ];
    warnings = [ "repositories.here.backend.local: the only repository lies on this host's own disk" ];
    has.tmpfiles = [ "d /backup 0700 keepwatch keepwatch" ];
  };
}
