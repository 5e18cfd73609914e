# A host that serves language models: PostgreSQL, Qdrant, Redis, Ollama and OpenMemory in a container. All of it is backed up at five in the
# morning and kept for 7 days, 4 weeks and 12 months; everything is asked every 30 seconds and restarted when it does not answer; a phone
# and a mailbox are told.
{ config, ... }:
{
  services.postgresql = {
    enable = true;
    ensureDatabases = [ "openmemory" ];
  };
  services.qdrant.enable = true;
  services.redis.servers.cache.enable = true;
  services.ollama = {
    enable = true;
    loadModels = [ "nomic-embed-text" ];
  };
  virtualisation.oci-containers.containers.openmemory = {
    image = "mem0/openmemory-mcp:latest";
    ports = [ "127.0.0.1:8765:8765" ];
    volumes = [ "/var/lib/openmemory:/data" ];
  };

  services.keepwatch = {
    enable = true;

    repositories.disk = {
      backend.local = {
        path = "/mnt/backup/ai1";
        requireMount = "/mnt/backup";
      };
      recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
    };

    defaults = {
      startAt = "05:00";
      retention = {
        daily = 7;
        weekly = 4;
        monthly = 12;
      };
    };

    backups = {
      postgresql.source.postgresql = { };
      vectors.source.qdrant = { };
      cache.source.redis.server = "cache";
      memory = {
        source.paths.include = [ "/var/lib/openmemory" ];
        stopUnits = [ "podman-openmemory.service" ];
        quietChecks = [ "openmemory" ];
      };
      host.source.paths = {
        include = [
          "/etc"
          "/var/lib"
        ];
        exclude = [
          "/var/lib/ollama/models"
          "/var/lib/postgresql"
          "/var/lib/qdrant"
          "/var/lib/containers"
        ];
      };
    };

    checks = {
      postgresql = {
        probe.postgresql = { };
        severity = "critical";
        onFailure.restartUnit = "postgresql.service";
      };
      qdrant = {
        probe.qdrant = { };
        severity = "critical";
        onFailure.restartUnit = "qdrant.service";
      };
      redis = {
        probe.redis.target = "unix:/run/redis-cache/redis.sock";
        onFailure.restartUnit = "redis-cache.service";
      };
      ollama = {
        probe.ollama.models = config.services.ollama.loadModels;
        onFailure.restartUnit = "ollama.service";
      };
      openmemory = {
        probe.http.url = "http://127.0.0.1:8765/docs";
        severity = "critical";
        dependsOn = [
          "postgresql"
          "qdrant"
        ];
        onFailure.restartUnit = "podman-openmemory.service";
      };
      disk.probe.disk.path = "/";
      backup-disk.probe.disk.path = "/mnt/backup";
      memory.probe.memory = { };
    };

    notifications = {
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
          severity = [ "critical" ];
          receiver = "phone";
          continueMatching = true;
        }
      ];
    };
  };
}
