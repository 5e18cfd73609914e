# The modules with a configuration, evaluated by nixpkgs' `lib` alone. Throws the messages of assertions that are false, as NixOS does.
{
  # Configurations, as files or modules.
  modules,
  # Whether false assertions are errors.
  strict ? true,
}:
let
  lib = import <nixpkgs/lib>;
  pkgs = import ./pkgs-stub.nix { inherit lib; };
  utils = import ./utils-stub.nix { inherit lib; };
  render = import ./render.nix { inherit lib; };
  system = lib.evalModules {
    modules = modules ++ [
      (import ./stubs.nix { inherit lib pkgs utils; })
      ../../nix/module
      { _module.args = { inherit pkgs utils; }; }
    ];
  };
  inherit (system) config;
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  checked =
    value:
    if strict && failed != [ ] then
      throw "Failed assertions:\n${lib.concatMapStrings (m: "- ${m}\n") failed}"
    else
      value;
  cfg = config.services.keepwatch;
in
checked {
  inherit (config) warnings;
  toml = if cfg.enable then cfg.build.toml else "";
  units =
    lib.mapAttrs' (name: u: lib.nameValuePair "${name}.service" (render.service name u)) (
      # What only refines a service of NixOS itself has no start.
      lib.filterAttrs (_: u: u.serviceConfig ? ExecStart || u.script != "") config.systemd.services
    )
    // lib.mapAttrs' (
      name: u: lib.nameValuePair "${name}.timer" (render.timer u)
    ) config.systemd.timers;
  wants =
    lib.mapAttrs' (name: u: lib.nameValuePair "${name}.service" u.wantedBy) config.systemd.services
    // lib.mapAttrs' (name: u: lib.nameValuePair "${name}.timer" u.wantedBy) config.systemd.timers;
  etc = lib.mapAttrs (_: e: toString e.source) config.environment.etc;
  polkit = config.security.polkit.extraConfig;
  users = lib.attrNames config.users.users;
  tmpfiles = lib.concatLists (
    lib.mapAttrsToList (
      path: kinds: lib.mapAttrsToList (kind: t: "${kind} ${path} ${t.mode} ${t.user} ${t.group}") kinds
    ) (lib.foldl' lib.recursiveUpdate { } (lib.attrValues config.systemd.tmpfiles.settings))
  );
  wrappers = lib.listToAttrs (
    map (p: lib.nameValuePair p.name p.script) (
      lib.filter (p: p ? script) config.environment.systemPackages
    )
  );
  ports = config.networking.firewall.allowedTCPPorts;
  journald = config.services.journald.extraConfig;
  prometheus = {
    inherit (config.services.prometheus) scrapeConfigs checkConfig enable;
    rules = map toString config.services.prometheus.ruleFiles;
  };
  alertmanagerTemplates = map toString cfg.alertmanager.fragments.templates;
  alertmanager = config.services.prometheus.alertmanager.configuration;
  grafana =
    if config.services.grafana.enable then
      config.services.grafana.provision.dashboards.settings
    else
      null;
  postgresql = { inherit (config.services.postgresql) enable ensureDatabases; };
  credentials = lib.mapAttrs (_: u: u.serviceConfig.LoadCredential or [ ]) config.systemd.services;
}
