# The example of a host that serves language models, with PostgreSQL, Qdrant, Redis and Ollama of nixpkgs: all of it is backed up and restored,
# and what is killed comes back. The container of the example is a plain service here: a test has no registry.
{
  module,
  lib,
  pkgs,
  ...
}:
let
  openmemory = pkgs.writers.writePython3 "openmemory" { } ''
    import http.server

    http.server.test(http.server.SimpleHTTPRequestHandler, port=8765, bind="127.0.0.1")
  '';
in
{
  name = "keepwatch-ai-stack";

  nodes.machine =
    { config, ... }:
    {
      imports = [
        module
        ../../nix/examples/ai-stack.nix
      ];
      virtualisation.memorySize = 3072;
      virtualisation.diskSize = 4096;
      virtualisation.emptyDiskImages = [ 2048 ];
      virtualisation.fileSystems."/mnt/backup" = {
        device = "/dev/vdb";
        fsType = "ext4";
        autoFormat = true;
      };

      virtualisation.oci-containers.containers = lib.mkForce { };
      systemd.services.podman-openmemory = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          ExecStart = openmemory;
          StateDirectory = "openmemory";
          WorkingDirectory = "/var/lib/openmemory";
        };
      };
      # There is no network to get models from, and nobody to tell.
      services.ollama.loadModels = lib.mkForce [ ];
      services.keepwatch.notifications = lib.mkForce { };
      services.keepwatch.checks = {
        openmemory.probe = lib.mkForce { http.url = "http://127.0.0.1:8765/"; };
        # The example's thirty seconds, in a hurry.
        redis = {
          interval = lib.mkForce "2s";
          retryInterval = "1s";
          failureThreshold = lib.mkForce 2;
        };
      };
      systemd.services.redis-cache.serviceConfig.Restart = lib.mkForce "no";
      # The private half of the example's recipient is nobody's; the test makes one of its own.
      environment.systemPackages = [ pkgs.age ];
    };

  testScript = ''
    machine.wait_for_unit("keepwatch.service")
    for unit in ["postgresql.service", "qdrant.service", "redis-cache.service", "ollama.service", "podman-openmemory.service"]:
        machine.wait_for_unit(unit)

    with subtest("all checks are healthy"):
        for check in ["postgresql", "qdrant", "redis", "ollama", "openmemory", "disk", "backup-disk", "memory"]:
            machine.wait_until_succeeds(f"curl -sf http://127.0.0.1:9847/metrics | grep -E '^keepwatch_check_up.*check=\"{check}\".* 1'", timeout=120)

    with subtest("everything is backed up"):
        machine.succeed("echo note > /var/lib/openmemory/note")
        machine.succeed("sudo -u postgres psql openmemory -c \"create table t as select 1 as id\"")
        for job in ["postgresql", "vectors", "cache", "memory", "host"]:
            machine.succeed(f"systemctl start keepwatch-backup-{job}.service")
            machine.succeed(f"keepwatch-{job} snapshots --json | grep -F '\"job\"'")
        # Stopped for its backup, and started again.
        machine.succeed("systemctl is-active podman-openmemory.service")

    with subtest("at five in the morning, and kept for days, weeks and months"):
        machine.succeed("systemctl show -P TimersCalendar keepwatch-backup-postgresql.timer | grep -F 05:00:00")
        machine.succeed("grep -A3 'backups.postgresql.retention' /etc/keepwatch/config.toml | grep -F 'daily = 7'")

    with subtest("what is killed comes back"):
        machine.succeed("systemctl kill --signal=KILL redis-cache.service")
        machine.wait_until_succeeds("systemctl is-active redis-cache.service", timeout=120)
        machine.succeed("keepwatch history --json | grep -F redis-cache.service")
  '';
}
