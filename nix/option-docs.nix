# docs/options.md, made of the options themselves. Evaluated with `lib` alone, so that it is the same wherever it is made:
#   nix-instantiate --eval --strict --json -E 'import ./nix/option-docs.nix { lib = import <nixpkgs/lib>; }' | jq -r .
# tests/nix/run compares it with the file; `tests/nix/run --update` writes it.
{ lib }:
let
  inherit (lib) types;
  named = description: type: type // { inherit description; };
  inherit
    (lib.evalModules {
      modules = [
        { _module.check = false; }
        ./module/options/agent.nix
        ./module/options/repositories.nix
        ./module/options/backups.nix
        ./module/options/checks.nix
        ./module/options/notifications.nix
        ./module/options/monitoring.nix
      ];
      specialArgs = {
        pkgs.formats.json = _: { type = named "table of JSON values" (types.attrsOf types.anything); };
        utils.systemdUtils = {
          lib.unitNameType = named "name of a systemd unit" types.str;
          unitOptions.unitOption = named "systemd option" types.anything;
        };
      };
    })
    options
    ;

  # The parts of `source.several` have the options of `source` again.
  isAgain = o: lib.hasInfix ".several.parts.*." o.name;
  list = lib.filter (o: o.visible && !o.internal && !isAgain o) (
    lib.optionAttrSetToDocList options.services.keepwatch
  );
  # `backups.<name>.startAt`
  path = o: lib.drop 2 o.loc;

  # One table for each of these and what is beneath it, up to the next one that is longer.
  sections = [
    [ ]
    [ "logging" ]
    [ "defaults" ]
    [
      "repositories"
      "<name>"
    ]
    [
      "backups"
      "<name>"
    ]
    [
      "backups"
      "<name>"
      "source"
    ]
    [
      "copies"
      "<name>"
    ]
    [
      "drills"
      "<name>"
    ]
    [
      "checks"
      "<name>"
    ]
    [
      "checks"
      "<name>"
      "probe"
    ]
    [
      "restarts"
      "<name>"
    ]
    [
      "commands"
      "<name>"
    ]
    [
      "maintenance"
      "<name>"
    ]
    [ "metrics" ]
    [ "health" ]
    [ "catalog" ]
    [ "notifications" ]
    [ "prometheus" ]
    [ "alertmanager" ]
    [ "grafana" ]
  ];
  isUnder =
    section: o:
    lib.take (lib.length section) (path o) == section && lib.length (path o) > lib.length section;
  sectionOf =
    o:
    lib.foldl' (
      found: s: if isUnder s o && lib.length s >= lib.length found then s else found
    ) [ ] sections;

  line = text: lib.replaceStrings [ "\n" "|" ] [ " " "\\|" ] (lib.trim text);
  code = text: "`${line text}`";
  literal = v: if v._type or "" == "literalMD" then line v.text else code v.text;
  squeezed =
    text: lib.concatStringsSep " " (lib.filter (word: word != "") (lib.splitString " " (line text)));
  default =
    o:
    if o ? default then
      literal (o.default // { text = squeezed o.default.text; })
    else if o.readOnly then
      "made of the others"
    # One of several kinds: that it is there is the choice.
    else if o.type == "submodule" then
      "–"
    else
      "**required**";
  row =
    section: o:
    "| ${code (lib.concatStringsSep "." (lib.drop (lib.length section) (path o)))} | ${line o.type} | ${default o} | ${
      line (o.description.text or (toString o.description))
    } |\n";

  text =
    section:
    let
      rows = lib.filter (o: sectionOf o == section) list;
      own = lib.findFirst (o: path o == lib.remove "<name>" section) null list;
      title = lib.concatStringsSep "." ([ "services.keepwatch" ] ++ section);
    in
    ''

      ## `${title}`

      ${
        lib.optionalString (own != null) "${line (own.description.text or (toString own.description))}\n\n"
      }| option | type | default | what it is for |
      |---|---|---|---|
    ''
    + lib.concatMapStrings (row section) rows;
in
''
  # Options of the NixOS module

  Made of the modules by `nix/option-docs.nix`; do not edit. [nixos.md](nixos.md) says how to begin.

  - Every option that ends in `File` takes a path outside of the Nix store. systemd hands its content to the one unit that needs it.
  - Durations are written `90s`, `2h30m`, `7d`, sizes `10M` or `1.5GiB`, calendars as systemd does: `daily`, `Mon..Fri 22:30`.
  - `attribute-tagged union` is a choice: exactly one of the named, such as `source.postgresql.databases = [ "app" ];`.
''
+ lib.concatMapStrings text sections
