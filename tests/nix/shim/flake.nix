{
  description = "In place of nixpkgs, to look at the flake's outputs where nixpkgs cannot be had. Nothing of it can be built.";
  outputs =
    { self }:
    let
      # From NIX_PATH, hence `--impure`.
      lib = import <nixpkgs/lib>;
      package =
        system: name:
        derivation {
          inherit name system;
          builder = "/bin/sh";
        }
        // {
          pname = name;
          meta.mainProgram = name;
          overrideAttrs = _: package system name;
          cli = package system "${name}-cli";
          withPackages = _: package system name;
        };
      legacyPackages =
        system:
        let
          names = lib.genAttrs [
            "acl"
            "age"
            "attr"
            "b3sum"
            "btrfs-progs"
            "cargo"
            "clippy"
            "crun"
            "debootstrap"
            "e2fsprogs"
            "gcc"
            "go"
            "installShellFiles"
            "jq"
            "libcap"
            "libfaketime"
            "lvm2"
            "mariadb"
            "nix"
            "nixfmt"
            "nixfmt-tree"
            "openssh"
            "openssl"
            "podman"
            "postgresql"
            "prometheus"
            "prometheus-alertmanager"
            "python3"
            "redis"
            "restic"
            "rsync"
            "rustc"
            "rustfmt"
            "sqlite"
            "strace"
            "systemd"
            "util-linux"
            "versitygw"
            "yq-go"
            "zfs"
            "zstd"
          ] (package system);
          pkgs = names // {
            inherit lib;
            stdenv = {
              hostPlatform = { inherit system; };
              buildPlatform.canExecute = _: true;
            };
            callPackage =
              f: args:
              (if builtins.isFunction f then f else import f) (
                builtins.intersectAttrs (builtins.functionArgs (if builtins.isFunction f then f else import f)) pkgs
                // args
              );
            rustPlatform.buildRustPackage = args: package system args.pname // { inherit (args) version src; };
            mkShell = args: builtins.deepSeq (map (p: "${p}") args.packages) (package system "shell");
            writeText = name: text: builtins.seq (builtins.stringLength text) (package system name);
            runCommandLocal =
              name: _: script:
              builtins.seq (builtins.stringLength script) (package system name);
            # Evaluated as far as its form goes; tests/nix/nixos.nix evaluates the machines.
            testers.runNixOSTest =
              test: builtins.seq (builtins.stringLength test.name) (package system "vm-test-${test.name}");
          };
        in
        pkgs;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] legacyPackages;
    };
}
