{
  description = "A whole nixpkgs from NIX_PATH in place of the locked one, hence `--impure`. Instantiated, never built.";
  outputs =
    { self }:
    let
      lib = import <nixpkgs/lib>;
      # As in ../nixos.nix: what hangs on files that a copy of nixpkgs may lack.
      overlay =
        _: prev:
        if builtins.pathExists (<nixpkgs> + "/pkgs/development/haskell-modules/hackage-packages.nix") then
          { }
        else
          {
            shellcheck = prev.hello;
            shellcheck-minimal = prev.hello // {
              compiler.bootstrapAvailable = false;
            };
            nixfmt = prev.hello;
            nixfmt-tree = prev.hello;
            yq-go = prev.hello;
          };
    in
    {
      inherit lib;
      legacyPackages =
        lib.genAttrs
          [
            "x86_64-linux"
            "aarch64-linux"
          ]
          (
            system:
            import <nixpkgs> {
              inherit system;
              overlays = [ overlay ];
            }
          );
    };
}
