{
  description = "Keepwatch: encrypted backups that come back, health checks and monitoring for NixOS hosts";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      eachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      # The package of this flake, for whoever does not choose another one.
      withPackage = module: { pkgs, ... }: {
        imports = [ module ];
        services.keepwatch.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      };
    in
    {
      packages = eachSystem (pkgs: rec {
        default = keepwatch;
        keepwatch = pkgs.callPackage ./nix/package.nix { };
        options-doc = pkgs.writeText "keepwatch-options.md" (import ./nix/option-docs.nix { inherit lib; });
      });

      apps = eachSystem (pkgs: {
        default = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.default;
          meta.description = "Encrypted backups by hand: nix run . -- backup ~/Documents";
        };
      });

      overlays.default = final: _: { keepwatch = final.callPackage ./nix/package.nix { }; };

      nixosModules = rec {
        default = keepwatch;
        keepwatch = withPackage ./nix/module;
        # Prometheus, Alertmanager and Grafana alone, for a host that watches others.
        monitoring.imports = [ ./nix/module/monitoring.nix ];
      };

      checks = eachSystem (pkgs: import ./nix/checks.nix { inherit self pkgs; });

      devShells = eachSystem (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
