# The host that watches: Prometheus, Alertmanager and Grafana, with or without an agent of its own.
{
  imports = [
    ./options/monitoring.nix
    ./prometheus.nix
    ./alertmanager.nix
    ./grafana.nix
  ];
}
