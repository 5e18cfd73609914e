# Configurations that are refused, with a part of the message: the option's path, and what to do.
let
  recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
  disk = {
    backend.local.path = "/mnt/backup/web1";
    inherit recipients;
  };
  home.source.paths.include = [ "/home" ];
  keepwatch = more: [
    {
      services.keepwatch = {
        enable = true;
      }
      // more;
    }
  ];
  with' = more: keepwatch ({ repositories.disk = disk; } // more);
in
{
  "a slip in the name of a repository" = {
    modules = with' {
      backups.home = home // {
        repositories = [ "dsk" ];
      };
    };
    message = ''services.keepwatch.backups.home.repositories: there is no repository "dsk" (known: disk)'';
  };
  "several repositories and none chosen" = {
    modules = keepwatch {
      repositories = {
        a = disk;
        b = disk // {
          backend.local.path = "/b";
        };
      };
      backups.home = home;
    };
    message = "services.keepwatch.backups.home.repositories";
  };
  "no repository at all" = {
    modules = keepwatch { backups.home = home; };
    message = "services.keepwatch.backups.home.repositories";
  };
  "a retention that keeps nothing" = {
    modules = with' {
      backups.home = home // {
        retention.daily = 0;
      };
    };
    message = "services.keepwatch.backups.home.retention: no rule keeps anything";
  };
  "two kinds of source" = {
    modules = with' {
      backups.x.source = {
        paths.include = [ "/x" ];
        postgresql = { };
      };
    };
    message = "services.keepwatch.backups.x.source";
  };
  "a kind of source that is none" = {
    modules = with' { backups.x.source.postgres = { }; };
    message = "services.keepwatch.backups.x.source";
  };
  "no source" = {
    modules = with' { backups.x = { }; };
    message = "services.keepwatch.backups.x.source";
  };
  "a secret in the store" = {
    modules = keepwatch {
      repositories.disk = disk // {
        identityFile = ./good.nix;
      };
    };
    message = "services.keepwatch.repositories.disk.identityFile";
  };
  "a secret that is no path" = {
    modules = keepwatch { metrics.bearerTokenFile = "geheim"; };
    message = "services.keepwatch.metrics.bearerTokenFile";
  };
  "a repository inside of what is backed up" = {
    modules = keepwatch {
      repositories.disk = disk // {
        backend.local.path = "/home/backup";
      };
      backups.home = home;
    };
    message = "services.keepwatch.backups.home.source.paths.include: /home holds the repository disk (/home/backup)";
  };
  "peer authentication and no server" = {
    modules = with' { backups.app.source.postgresql = { }; };
    message = "services.postgresql.enable is false";
  };
  "two parts in one directory" = {
    modules = with' {
      backups.app.source.several.parts = [
        { sqlite.databases = [ "/a" ]; }
        { sqlite.databases = [ "/b" ]; }
      ];
    };
    message = "services.keepwatch.backups.app.source.several.parts: two of them would lie in the same directory of the snapshot (sqlite, sqlite)";
  };
  "a repository in the files of one of several parts" = {
    modules = keepwatch {
      repositories.disk = disk // {
        backend.local.path = "/home/backup";
      };
      backups.home.source.several.parts = [
        { sqlite.databases = [ "/a" ]; }
        { paths.include = [ "/home" ]; }
      ];
    };
    message = "/home holds the repository disk (/home/backup)";
  };
  "half of the credentials" = {
    modules = keepwatch {
      repositories.far = {
        backend.s3 = {
          bucket = "bkt";
          accessKeyIdFile = "/run/id";
        };
        inherit recipients;
      };
    };
    message = "services.keepwatch.repositories.far.backend.s3.accessKeyIdFile: it needs secretAccessKeyFile, too";
  };
  "a drill without an identity" = {
    modules = with' {
      backups.home = home;
      drills.home = {
        backup = "home";
        target.directory = { };
      };
    };
    message = "set services.keepwatch.repositories.disk.identityFile";
  };
  "a drill of a backup that is none" = {
    modules = with' {
      backups.home = home;
      drills.home = {
        backup = "hom";
        target.directory = { };
      };
    };
    message = ''services.keepwatch.drills.home.backup: there is no backup "hom" (known: home)'';
  };
  "a check that depends on none" = {
    modules = keepwatch {
      checks.web = {
        probe.memory = { };
        dependsOn = [ "db" ];
      };
    };
    message = ''services.keepwatch.checks.web.dependsOn: there is no check "db" (known: web)'';
  };
  "a timeout as long as the interval" = {
    modules = keepwatch {
      checks.web = {
        probe.memory = { };
        timeout = "1m";
        interval = "60s";
      };
    };
    message = "services.keepwatch.checks.web.timeout: 1m is not shorter than the interval, which is 60s";
  };
  "a duration that is none" = {
    modules = keepwatch {
      checks.web = {
        probe.memory = { };
        interval = "30 seconds";
      };
    };
    message = "duration such as 90s, 2h30m or 7d";
  };
  "a misspelt severity" = {
    modules = keepwatch {
      checks.web = {
        probe.memory = { };
        severity = "crit";
      };
    };
    message = ''one of "critical", "warning", "info"'';
  };
  "an option that does not exist" = {
    modules = with' {
      backups.home = home // {
        schedule = "daily";
      };
    };
    message = "`services.keepwatch.backups.home.schedule' does not exist";
  };
  "a name that becomes no name of a unit" = {
    modules = with' { backups."my home" = home; };
    message = ''services.keepwatch.backups."my home": a name is'';
  };
  "a unit without its kind" = {
    modules = keepwatch {
      checks.web = {
        probe.memory = { };
        onFailure.restartUnit = "nginx";
      };
    };
    message = "services.keepwatch.checks.web.onFailure.restartUnit";
  };
  "a copy onto itself" = {
    modules = with' {
      copies.x = {
        from = "disk";
        to = "disk";
      };
    };
    message = "services.keepwatch.copies.x.to: it is the repository that is copied from";
  };
  "a reboot that nobody allowed" = {
    modules = keepwatch { restarts."a.service".escalation = [ "reboot" ]; };
    message = ''services.keepwatch.restarts."a.service".escalation: it reboots the host; set allowReboot = true'';
  };
  "a Redis server that is none" = {
    modules = with' { backups.r.source.redis.server = "cash"; } ++ [
      { services.redis.servers.cache.enable = true; }
    ];
    message = ''services.keepwatch.backups.r.source.redis.server: there is no services.redis.servers."cash" (known: cache)'';
  };
  "a receiver that is none" = {
    modules = keepwatch { notifications.defaultReceiver = "phone"; };
    message = ''services.keepwatch.notifications.defaultReceiver: there is no receiver "phone" (there is none)'';
  };
  "an Alertmanager's receiver that is none" = {
    modules = keepwatch {
      alertmanager = {
        enable = true;
        defaultReceiver = "phone";
      };
    };
    message = ''services.keepwatch.alertmanager.defaultReceiver: there is no receiver "phone"'';
  };
  "dashboards by path and by provider" = {
    modules = keepwatch { grafana.enable = true; } ++ [
      { services.grafana.provision.dashboards.path = "/x"; }
    ];
    message = "services.grafana.provision.dashboards.path: it excludes";
  };
  "Prometheus without anybody to ask" = {
    modules = [ { services.keepwatch.prometheus.enable = true; } ];
    message = "services.keepwatch.prometheus.targets: it is empty";
  };
}
