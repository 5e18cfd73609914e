# Just enough of nixpkgs to evaluate the modules with nixpkgs' `lib` alone. Packages lie where Debian has them, so that the units that are
# rendered with them run in a Debian container (tests/nix/boot).
{ lib }:
let
  package = name: outPath: {
    type = "derivation";
    pname = name;
    inherit name outPath;
    version = "1";
    outputs = [ "out" ];
    meta.mainProgram = name;
  };
  json = lib.types.json or jsonValue;
  jsonValue = lib.types.nullOr (
    lib.types.oneOf [
      lib.types.bool
      lib.types.int
      lib.types.float
      lib.types.str
      lib.types.path
      (lib.types.attrsOf jsonValue)
      (lib.types.listOf jsonValue)
    ]
  );
  anything = _: { type = json; };
  text = name: content: builtins.toFile name content;
in
{
  inherit lib;
  formats = {
    json = anything;
    yaml = anything;
    toml = anything;
  };
  stdenv = {
    # Nothing is built here; tests/nix/run feeds the document to the program itself.
    buildPlatform.canExecute = _: false;
    hostPlatform.system = "x86_64-linux";
  };
  writeText = text;
  # Not executable, as nothing in a store made by `toFile` is: who boots the units sees to that.
  writeShellScript = name: content: text name "#!/bin/bash\n${content}";
  writeShellScriptBin =
    name: content: package name "/opt/wrappers" // { script = "#!/bin/bash\n${content}"; };
  runCommandLocal =
    name: _: _:
    package name "/built/${name}";
  linkFarm = name: _: package name "/built/${name}";
  keepwatch = package "keepwatch" "/opt/keepwatch";
  coreutils = package "coreutils" "/usr";
  systemd = package "systemctl" "/usr";
  postgresql = package "postgresql" "/usr/lib/postgresql/15";
  mariadb = package "mariadb" "/usr";
  redis = package "redis-server" "/usr";
  qdrant = package "qdrant" "/usr";
  sqlite = package "sqlite3" "/usr";
  yq-go = package "yq" "/usr";
  curl = package "curl" "/usr";
}
