# What `nix flake check` builds: the package, its lints, the page of options, the rules of alerts, and the VM tests of tests/nixos, which are
# found by their names. Tests that need servers are in `tests/run` (`nix develop -c tests/run`).
{ self, pkgs }:
let
  inherit (pkgs) lib;
  system = pkgs.stdenv.hostPlatform.system;
  package = self.packages.${system}.default;
  files = import ./module/files.nix { inherit lib; };

  # The same sources, with another thing done to them.
  linted =
    name: tools: command:
    package.overrideAttrs (old: {
      pname = "keepwatch-${name}";
      nativeBuildInputs = old.nativeBuildInputs ++ tools;
      buildPhase = command;
      installPhase = "touch $out";
      postInstall = "";
      doCheck = false;
      doInstallCheck = false;
      dontFixup = true;
    });

  tests = ../tests/nixos;
  machine =
    file:
    pkgs.testers.runNixOSTest (
      import (tests + "/${file}") {
        module = self.nixosModules.default;
        inherit lib pkgs;
      }
    );
in
{
  inherit package;
  clippy = linted "clippy" [
    pkgs.clippy
  ] "cargo clippy --workspace --all-targets --offline -- -D warnings";
  fmt = linted "fmt" [ pkgs.rustfmt ] "cargo fmt --all --check";

  options-doc = pkgs.runCommandLocal "keepwatch-options-doc-is-current" { } ''
    diff -u ${../docs/options.md} ${self.packages.${system}.options-doc} && touch $out
  '';

  alerts = pkgs.runCommandLocal "keepwatch-alerts" { nativeBuildInputs = [ pkgs.prometheus.cli ]; } ''
    for file in ${
      lib.concatMapStringsSep " " (n: "${files.ruleFile n}") files.ruleGroups
    }; do promtool check rules "$file"; done
    touch $out
  '';
}
// lib.mapAttrs' (file: _: lib.nameValuePair "vm-${lib.removeSuffix ".nix" file}" (machine file)) (
  lib.filterAttrs (file: type: type == "regular" && lib.hasSuffix ".nix" file) (
    builtins.readDir tests
  )
)
