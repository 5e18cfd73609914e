# The example of the README on a machine of its own: a backup by its timer, restored with the identity; a service that is killed comes back;
# a backup that fails starts the unit that tells; what was missed while the machine was off is done after it.
{ module, lib, ... }:
{
  name = "keepwatch-minimal";

  nodes.machine =
    { pkgs, config, ... }:
    {
      imports = [ module ];
      virtualisation.emptyDiskImages = [ 1024 ];
      virtualisation.fileSystems."/mnt/backup" = {
        device = "/dev/vdb";
        fsType = "ext4";
        autoFormat = true;
      };
      environment.systemPackages = [ pkgs.age ];

      systemd.services.shop = {
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "${lib.getExe pkgs.python3} -m http.server 8080 --bind 127.0.0.1";
      };
      systemd.services."tell@".serviceConfig = {
        Type = "oneshot";
        ExecStart = "${lib.getExe' pkgs.coreutils "touch"} /run/told-%i";
      };

      services.keepwatch = {
        enable = true;
        # Its public half; the private one is made by the test and known to nobody else.
        repositories.disk = {
          backend.local = {
            path = "/mnt/backup/machine";
            requireMount = "/mnt/backup";
          };
          recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
        };
        defaults.onFailure = [ "tell@%n.service" ];
        backups.files = {
          source.paths.include = [ "/home" ];
          timerConfig.RandomizedDelaySec = 0;
        };
        backups.broken = {
          source.command = {
            argv = [ (lib.getExe' pkgs.coreutils "false") ];
            filename = "nothing";
          };
          startAt = null;
          retry.attempts = 0;
        };
        checks.shop = {
          probe.http.url = "http://127.0.0.1:8080/";
          interval = "2s";
          retryInterval = "1s";
          failureThreshold = 2;
          severity = "critical";
          onFailure.restartUnit = "shop.service";
        };
      };
    };

  testScript = ''
    machine.wait_for_unit("keepwatch.service")
    machine.wait_for_open_port(9847)

    with subtest("a backup, by its unit"):
        machine.succeed("mkdir -p /home/alice && echo precious > /home/alice/file && chmod 600 /home/alice/file")
        machine.succeed("systemctl start keepwatch-backup-files.service")
        machine.succeed("keepwatch-files snapshots | grep -F /home")
        machine.succeed("journalctl KEEPWATCH_JOB=files -o json | grep -F KEEPWATCH_UNIT")

    with subtest("the timer fires, once"):
        machine.succeed("systemctl list-timers --all | grep -F keepwatch-backup-files.timer")
        machine.succeed("date -s '+26 hours'")
        machine.wait_until_succeeds("[ $(keepwatch-files snapshots --json | grep -o '\"id\"' | wc -l) -ge 2 ]", timeout=120)

    with subtest("a failure is told"):
        machine.fail("systemctl start keepwatch-backup-broken.service")
        machine.wait_for_file("/run/told-keepwatch-backup-broken.service")

    with subtest("a service that hangs is restarted"):
        machine.wait_until_succeeds("curl -sf http://127.0.0.1:9847/health/ready", timeout=60)
        machine.succeed("systemctl kill --signal=STOP shop.service")
        machine.wait_until_succeeds("journalctl -u shop.service | grep -c Started | grep -vx 1", timeout=120)
        machine.wait_until_succeeds("curl -sf --max-time 2 http://127.0.0.1:8080/", timeout=60)

    with subtest("the sandbox holds"):
        machine.succeed("systemd-analyze security --threshold=12 keepwatch.service")
        machine.succeed("systemd-analyze security --threshold=18 keepwatch-backup-files.service")
  '';
}
