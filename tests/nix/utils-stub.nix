# The parts of NixOS' `utils` that the modules use, with the same types.
{ lib }:
let
  inherit (lib) types;
in
{
  systemdUtils = {
    lib.unitNameType = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
    unitOptions.unitOption = lib.mkOptionType {
      name = "systemd option";
      # When one definition is a list all are put together, else they must be equal.
      merge =
        loc: defs:
        let
          values = lib.getValues defs;
        in
        if lib.any builtins.isList values then
          lib.concatMap lib.toList values
        else
          lib.mergeEqualOption loc defs;
    };
  };
}
