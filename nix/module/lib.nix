# What the modules share and what needs no configuration: types, the way from options to the agent's TOML, credentials, units.
#
# The agent's keys are the options' names with `_` before each capital (`failureThreshold` is `failure_threshold`), so one function turns
# a section's options into its table. An option whose name ends in `File` names a secret: in the document stands `credential:NAME`, and the
# units that need it load it from its path (`LoadCredential=`). `caFile` is no secret.
{ lib }:
let
  inherit (lib) types mkOption;

  bare = key: builtins.match "[A-Za-z0-9_-]+" key != null;
  key = name: if bare name then name else builtins.toJSON name;

  # JSON's strings and numbers are TOML's, too.
  inline =
    value:
    if builtins.isAttrs value then
      "{ "
      + lib.concatStringsSep ", " (lib.mapAttrsToList (name: v: "${key name} = ${inline v}") value)
      + " }"
    else if builtins.isList value then
      "[" + lib.concatMapStringsSep ", " inline value + "]"
    else
      builtins.toJSON value;

  table =
    path: value:
    let
      isTable = v: builtins.isAttrs v;
      here = lib.filterAttrs (_: v: !isTable v) value;
      below = lib.filterAttrs (_: isTable) value;
      header =
        lib.optionalString (path != [ ] && (here != { } || below == { }))
          "[${lib.concatMapStringsSep "." key path}]\n";
      lines = lib.concatStrings (lib.mapAttrsToList (name: v: "${key name} = ${inline v}\n") here);
      section = header + lines;
    in
    lib.optional (section != "") section
    ++ lib.concatLists (lib.mapAttrsToList (name: v: table (path ++ [ name ]) v) below);
in
rec {
  isLoopback = address: lib.hasPrefix "127." address || address == "::1" || address == "localhost";

  # ---- types -------------------------------------------------------------------------------------------------------------------------

  secret = types.nullOr types.externalPath;

  duration = types.strMatching "([0-9]+(ms|s|m|h|d|w))+" // {
    description = "duration such as 90s, 2h30m or 7d";
    descriptionClass = "noun";
  };

  size = types.strMatching "[0-9]+(\\.[0-9]+)? ?([KMGTPE](i?B)?|B)?" // {
    description = "size such as 10M or 1.5GiB";
    descriptionClass = "noun";
  };

  span = types.strMatching "([0-9]+[hdwmy])+" // {
    description = "span such as 7d or 1y6m (m: months)";
    descriptionClass = "noun";
  };

  # The user of a server's client: by default the one that the agent runs as.
  clientUser =
    cfg: description:
    mkOption {
      type = types.str;
      default = cfg.user;
      defaultText = lib.literalExpression "config.services.keepwatch.user";
      inherit description;
    };

  calendars = types.nullOr (types.either types.str (types.listOf types.str));

  # The name of something that is configured elsewhere; an assertion says which there are.
  nameOf =
    what:
    types.str
    // {
      description = "name of ${what}";
      descriptionClass = "noun";
    };

  # ---- options -----------------------------------------------------------------------------------------------------------------------

  opt =
    type: default: description:
    mkOption { inherit type default description; };
  need = type: description: mkOption { inherit type description; };
  maybe =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };
  file =
    description:
    mkOption {
      type = secret;
      default = null;
      example = "/run/secrets/keepwatch";
      description = description + " A path outside the Nix store; systemd hands its content to the unit.";
    };
  needFile =
    description:
    mkOption {
      type = types.externalPath;
      example = "/run/secrets/keepwatch";
      description = description + " A path outside the Nix store; systemd hands its content to the unit.";
    };
  # A table of options.
  sub =
    options: description:
    mkOption {
      type = types.submodule { inherit options; };
      default = { };
      inherit description;
    };
  # One of several kinds, each a table of options.
  kind =
    options: description:
    mkOption {
      type = types.submodule { inherit options; };
      inherit description;
    };

  # ---- from options to the document --------------------------------------------------------------------------------------------------

  snake =
    name:
    lib.concatStrings (
      map (c: if builtins.match "[A-Z]" c != null then "_" + lib.toLower c else c) (
        lib.stringToCharacters name
      )
    );
  kebab = name: lib.replaceStrings [ "_" ] [ "-" ] (snake name);

  isSecret = name: lib.hasSuffix "File" name && name != "caFile";

  # At most 64 letters, as the agent wants names to be.
  credential =
    scope: option:
    let
      name = "${scope}-${kebab (lib.removeSuffix "File" option)}";
    in
    if lib.stringLength name <= 64 then
      name
    else
      lib.substring 0 24 name + "-" + lib.substring 0 32 (builtins.hashString "sha256" name);

  # Tables whose names are the user's own.
  free = [
    "labels"
    "headers"
    "headerMatches"
    "env"
  ];

  # A section's options as its table of the document.
  document =
    scope: value:
    if builtins.isAttrs value && !lib.isDerivation value then
      lib.mapAttrs' (
        name: v:
        lib.nameValuePair (snake name) (
          if isSecret name then
            "credential:${credential scope name}"
          else if lib.elem name free then
            v
          else
            document scope v
        )
      ) (lib.filterAttrs (_: v: v != null) value)
    else if builtins.isList value then
      map (document scope) value
    else if lib.isDerivation value || builtins.isPath value then
      "${value}"
    else
      value;

  # The secrets of a section: `NAME:PATH`, as LoadCredential wants them.
  credentials =
    scope: value:
    if builtins.isAttrs value && !lib.isDerivation value then
      lib.concatLists (
        lib.mapAttrsToList (
          name: v:
          if v == null then
            [ ]
          else if isSecret name then
            [ "${credential scope name}:${toString v}" ]
          else
            credentials scope v
        ) value
      )
    else if builtins.isList value then
      lib.concatMap (credentials scope) value
    else
      [ ];

  # The parts of a source, each with a scope of its own for its secrets.
  partsOf =
    scope: source:
    if source ? several then
      lib.imap0 (n: part: {
        scope = "${scope}-${toString n}";
        inherit part;
      }) source.several.parts
    else
      [
        {
          inherit scope;
          part = source;
        }
      ];

  # When: nothing is "by hand only".
  calendar = startAt: if startAt == null then [ ] else startAt;

  # The document as TOML.
  toml = value: lib.concatStringsSep "\n" (table [ ] value);

  # The only or first name of an attrTag's value.
  tagOf = value: lib.head (lib.attrNames value);

  # ---- command lines -----------------------------------------------------------------------------------------------------------------

  # Where a repository lies, as `--repo` and KEEPWATCH_REPOSITORY take it. `secretPath` says where a secret's file is.
  place =
    secretPath: repository:
    let
      s3 = repository.backend.s3;
      options = lib.filterAttrs (_: v: v != null) {
        inherit (s3) endpoint region profile;
        path-style = if s3.pathStyle == null then null else lib.boolToString s3.pathStyle;
        ca-file = if s3.caFile == null then null else toString s3.caFile;
        storage-class = s3.storageClass;
        access-key-file = secretPath "accessKeyIdFile" s3.accessKeyIdFile;
        secret-key-file = secretPath "secretAccessKeyFile" s3.secretAccessKeyFile;
        session-token-file = secretPath "sessionTokenFile" s3.sessionTokenFile;
        credentials-file = secretPath "credentialsFile" s3.credentialsFile;
        object-lock =
          if s3.objectLock.mode == "off" then
            null
          else
            "${s3.objectLock.mode}:${lib.removeSuffix "d" s3.objectLock.retain}";
      };
      prefix = lib.removePrefix "/" (lib.removeSuffix "/" s3.prefix);
    in
    if repository.backend ? local then
      repository.backend.local.path
    else
      "s3://${s3.bucket}${lib.optionalString (prefix != "") "/${prefix}"}?"
      + lib.concatStringsSep "&" (lib.mapAttrsToList (name: v: "${name}=${v}") options);

  # Words for ExecStart=. `%` and `$` mean nothing there, except `%d` where `credentialsIn` is meant.
  words = lib.concatMapStringsSep " " (
    word:
    lib.replaceStrings [ "%" "$" "@CREDENTIALS@" ] [ "%%" "$$" "%d" ] (builtins.toJSON (toString word))
  );
}
