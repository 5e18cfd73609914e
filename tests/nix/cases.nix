# All good cases, or one bad one, evaluated; called by tests/nix/run.
{
  # The name of a bad case; null: all good ones.
  bad ? null,
}:
let
  lib = import <nixpkgs/lib>;
  evaluate = modules: import ./eval.nix { inherit modules; };
  good = import ./cases/good.nix;
  examples = import ./examples.nix;
in
if bad != null then
  evaluate (import ./cases/bad.nix).${bad}.modules
else
  {
    good = lib.mapAttrs (
      _: case: removeAttrs case [ "modules" ] // { result = evaluate case.modules; }
    ) good;
    bad = lib.mapAttrs (_: case: case.message) (import ./cases/bad.nix);
    examples = lib.mapAttrs (_: module: evaluate [ module ]) examples;
    stubs =
      let
        pkgs = import ./pkgs-stub.nix { inherit lib; };
        utils = import ./utils-stub.nix { inherit lib; };
        inherit (lib.evalModules { modules = [ (import ./stubs.nix { inherit lib pkgs utils; }) ]; })
          options
          ;
      in
      map (o: { inherit (o) name type; }) (
        lib.filter (o: !lib.hasPrefix "_module" o.name) (lib.optionAttrSetToDocList options)
      );
    options =
      let
        system = lib.evalModules {
          modules = [
            ../../nix/module
            (import ./stubs.nix {
              inherit lib;
              pkgs = import ./pkgs-stub.nix { inherit lib; };
              utils = import ./utils-stub.nix { inherit lib; };
            })
            {
              _module.args = {
                pkgs = import ./pkgs-stub.nix { inherit lib; };
                utils = import ./utils-stub.nix { inherit lib; };
              };
            }
          ];
        };
      in
      map (o: o.name) (lib.optionAttrSetToDocList system.options.services.keepwatch);
  }
