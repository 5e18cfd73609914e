# Grafana: one provider named "keepwatch" with the dashboards.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  files = import ./files.nix { inherit lib; };
  cfg = config.services.keepwatch.grafana;
  directory = pkgs.linkFarm "keepwatch-dashboards" (
    map (name: {
      name = "${name}.json";
      path = files.dashboard name;
    }) cfg.dashboards
  );
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = config.services.grafana.provision.dashboards.path == null;
        message = "services.grafana.provision.dashboards.path: it excludes provision.dashboards.settings, which services.keepwatch.grafana adds to; turn it into a provider: services.grafana.provision.dashboards.settings.providers = [ { name = \"mine\"; options.path = …; } ].";
      }
      {
        assertion = !cfg.createDatasource || config.services.grafana.provision.datasources.path == null;
        message = "services.grafana.provision.datasources.path: it excludes provision.datasources.settings, which services.keepwatch.grafana.createDatasource adds to; set createDatasource = false.";
      }
    ];

    services.grafana = {
      enable = lib.mkDefault true;
      provision = {
        enable = true;
        dashboards.settings.providers = [
          {
            name = "keepwatch";
            inherit (cfg) folder;
            options.path = "${directory}";
          }
        ];
        datasources.settings.datasources = lib.mkIf cfg.createDatasource [
          {
            name = "Prometheus (Keepwatch)";
            type = "prometheus";
            uid = "keepwatch";
            url = "http://127.0.0.1:${toString config.services.prometheus.port}";
          }
        ];
      };
    };
  };
}
