# The chain from a check that fails to a person who hears of it: agent, Prometheus, Alertmanager, a webhook; Grafana with all dashboards; and the
# watching host has no agent of its own.
{
  module,
  lib,
  pkgs,
  ...
}:
{
  name = "keepwatch-monitoring";

  nodes.web = {
    imports = [ module ];
    networking.hostName = "web";
    environment.etc."secrets/token" = {
      text = "token-of-the-test";
      mode = "0400";
    };
    services.keepwatch = {
      enable = true;
      metrics = {
        listenAddress = "0.0.0.0";
        openFirewall = true;
        bearerTokenFile = "/etc/secrets/token";
      };
      checks.shop = {
        probe.tcp.target = "127.0.0.1:8080";
        interval = "2s";
        retryInterval = "1s";
        failureThreshold = 2;
        severity = "critical";
      };
    };
    systemd.services.shop = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${lib.getExe pkgs.python3} -m http.server 8080 --bind 127.0.0.1";
    };
  };

  nodes.watch = {
    # The monitoring side alone.
    imports = [ ../../nix/module/monitoring.nix ];
    networking.hostName = "watch";
    virtualisation.memorySize = 2048;
    environment.etc = {
      "secrets/token" = {
        text = "token-of-the-test";
        mode = "0400";
      };
      "secrets/url" = {
        text = "http://127.0.0.1:6725";
        mode = "0400";
      };
      "secrets/dead-man" = {
        text = "http://127.0.0.1:6725/dead-man";
        mode = "0400";
      };
    };
    services.grafana.settings.security.secret_key = "of the test alone";
    services.grafana.settings.security.admin_password = "test";
    services.prometheus.alertmanagerWebhookLogger.enable = true;
    services.keepwatch = {
      prometheus = {
        enable = true;
        targets = [ "web:9847" ];
        scrapeInterval = "5s";
        bearerTokenFile = "/etc/secrets/token";
        rules.KeepwatchCheckDown.for = "1s";
      };
      alertmanager = {
        enable = true;
        receivers.hook.webhook.urlFile = "/etc/secrets/url";
        defaultReceiver = "hook";
        deadManSwitch.urlFile = "/etc/secrets/dead-man";
      };
      grafana = {
        enable = true;
        createDatasource = true;
      };
    };
  };

  testScript = ''
    start_all()
    web.wait_for_unit("keepwatch.service")
    watch.wait_for_unit("prometheus.service")
    watch.wait_for_unit("alertmanager.service")
    watch.wait_for_unit("grafana.service")

    with subtest("the agent is asked, with its token"):
        watch.wait_until_succeeds("curl -sf 'http://127.0.0.1:9090/api/v1/query?query=up%7Bjob%3D%22keepwatch%22%7D' | grep -F '\"1\"'", timeout=120)
        watch.fail("curl -sf http://web:9847/metrics")

    with subtest("a failure is told"):
        web.succeed("systemctl stop shop.service")
        watch.wait_until_succeeds("journalctl -u alertmanager-webhook-logger.service | grep -F KeepwatchCheckDown", timeout=240)

    with subtest("the proof that alerts arrive"):
        watch.wait_until_succeeds("journalctl -u alertmanager-webhook-logger.service | grep -F Watchdog", timeout=240)

    with subtest("dashboards"):
        watch.wait_until_succeeds("curl -sf -u admin:test 'http://127.0.0.1:3000/api/search?type=dash-db' | grep -F keepwatch", timeout=120)
  '';
}
