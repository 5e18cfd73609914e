# The configurations under nix/examples, one for each host, by name.
let
  directory = ../../nix/examples;
  files = builtins.filter (name: builtins.match ".*\\.nix" name != null) (
    builtins.attrNames (builtins.readDir directory)
  );
  hosts =
    file:
    let
      name = builtins.head (builtins.match "(.*)\\.nix" file);
      content = import (directory + "/${file}");
      # A module, or a set of hosts.
      isModule = builtins.isFunction content || content ? services || content ? imports;
    in
    if isModule then
      [
        {
          inherit name;
          value = directory + "/${file}";
        }
      ]
    else
      map (host: {
        name = "${name}-${host}";
        value = content.${host};
      }) (builtins.attrNames content);
in
builtins.listToAttrs (builtins.concatMap hosts files)
