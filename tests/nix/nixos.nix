# The examples, and the scripts of the VM tests, with the real NixOS modules, where a whole nixpkgs is <nixpkgs>. Evaluated and instantiated, never built.
{
  system ? "x86_64-linux",
}:
let
  # A copy of nixpkgs may lack its very large generated files; what hangs on them is needed by no configuration of ours.
  hasHaskell = builtins.pathExists (
    <nixpkgs> + "/pkgs/development/haskell-modules/hackage-packages.nix"
  );
  overlays = [
    (
      _: prev:
      if hasHaskell then
        { }
      else
        {
          shellcheck = prev.hello;
          shellcheck-minimal = prev.hello // {
            compiler.bootstrapAvailable = false;
          };
          nixfmt = prev.hello;
          # Its manual pages are made by pandoc.
          yq-go = prev.hello;
        }
    )
  ];
  pkgs = import <nixpkgs> { inherit system overlays; };
  inherit (pkgs) lib;
  examples = import ./examples.nix;

  # What a machine must have to be one, and what examples leave to others (sops-nix, agenix).
  machine =
    { lib, ... }:
    let
      secrets =
        directory:
        lib.mkOption {
          default = { };
          type = lib.types.attrsOf (
            lib.types.submodule (
              { name, ... }:
              {
                options.file = lib.mkOption {
                  type = lib.types.nullOr lib.types.path;
                  default = null;
                };
                options.path = lib.mkOption {
                  type = lib.types.str;
                  default = "${directory}/${name}";
                };
              }
            )
          );
        };
    in
    {
      options.sops.secrets = secrets "/run/secrets";
      options.age.secrets = secrets "/run/agenix";
      config = {
        nixpkgs.pkgs = pkgs;
        boot.loader.grub.enable = false;
        fileSystems."/" = {
          device = "/dev/vda";
          fsType = "ext4";
        };
        system.stateVersion = "26.05";
        networking.hostName = lib.mkDefault "web1";
        documentation.enable = false;
      };
    };

  host =
    name:
    import <nixpkgs/nixos/lib/eval-config.nix> {
      system = null;
      modules = [
        ../../nix/module
        machine
        examples.${name}
      ];
    };
in
{
  # Assertions that fail, and the text of our units as NixOS makes it.
  example =
    name:
    let
      inherit (host name) config;
    in
    {
      failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
      units = lib.mapAttrs (_: u: u.text) (
        lib.filterAttrs (unit: _: lib.hasPrefix "keepwatch" unit) config.systemd.units
      );
      prometheus =
        if config.services.prometheus.enable then
          config.systemd.services.prometheus.serviceConfig.ExecStart
        else
          "";
      grafana = config.services.grafana.enable && config.services.grafana.provision.enable;
      polkit = config.environment.etc ? "polkit-1/rules.d/10-nixos.rules";
    };

  # The derivation of the whole system.
  toplevel = name: (host name).config.system.build.toplevel.drvPath;

  # The scripts of the VM tests. The machines themselves are instantiated by `nix flake check`.
  scripts =
    let
      directory = ../nixos;
      files = lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir directory));
    in
    lib.genAttrs files (
      file:
      let
        test = pkgs.testers.runNixOSTest (
          import (directory + "/${file}") {
            module = ../../nix/module;
            inherit lib pkgs;
          }
        );
      in
      test.config.testScriptString
    );
}
