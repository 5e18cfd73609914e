# What a check can ask, by kind.
{
  lib,
  utils,
  pkgs,
  user,
}:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  kinds = import ./kinds.nix { inherit lib k; };
  inherit (k)
    opt
    need
    maybe
    kind
    ;
  lines = description: opt (types.listOf types.str) [ ] description;
  texts = description: opt (types.attrsOf types.str) { } description;
  unit = utils.systemdUtils.lib.unitNameType;
  role =
    description:
    mkOption {
      type = types.str;
      default = user;
      defaultText = lib.literalExpression "config.services.keepwatch.user";
      inherit description;
    };
in
{
  http = kind {
    url = need types.str "`http://…` or `https://…`, without user and password.";
    unixSocket = maybe types.str "Connect to this socket instead of the URL's host.";
    method = opt (types.enum [
      "GET"
      "HEAD"
      "POST"
      "PUT"
      "OPTIONS"
    ]) "GET" "The method.";
    headers = texts "Headers that are no secret.";
    body = maybe types.str "Body to send.";
    status = lines "Codes that are right: `\"200\"`, `\"200-299\"`; 200–299 when it is empty.";
    bodyMatches = lines "Regular expressions that must match the body.";
    bodyDoesNotMatch = lines "Regular expressions that must not.";
    headerMatches = texts "Regular expressions that headers of the answer must match.";
    json = opt (types.listOf (
      types.submodule {
        options = {
          pointer = need types.str "Where: `/status`, `/items/0/name`; empty for the whole document.";
          equals = maybe (types.oneOf [
            types.str
            types.bool
            types.number
          ]) "It must be this.";
          min = maybe types.number "The number must be at least this.";
          max = maybe types.number "The number must be at most this.";
        };
      }
    )) [ ] "What the body must say in JSON.";
    basicUser = maybe types.str "User for basic authentication, with `passwordFile`.";
    passwordFile = k.file "Its password.";
    bearerTokenFile = k.file "A bearer token.";
    inherit (kinds) tls;
  } "An HTTP or HTTPS request. Redirects are not followed.";

  tcp = kind {
    target = need types.str "Where: `host:port` or `unix:/path`.";
    tls = kinds.maybeTls "Speak TLS, and whom to trust.";
    send = maybe types.str "Text to send first, with its line end.";
    expect = maybe types.str "Regular expression that the first 4 KiB of the answer must match.";
  } "A TCP connection, and a greeting if one is expected.";

  postgresql = kind {
    target = opt types.str "unix:/run/postgresql/.s.PGSQL.5432" "Where: `host:port` or `unix:/path`.";
    tls = kinds.maybeTls "Insist on TLS, and whom to trust.";
    user = role "The role; for a server of this host with peer authentication the module makes it.";
    database =
      opt (types.nullOr types.str) "postgres"
        "The database; that of the user's name when it is null.";
    passwordFile = k.file "The password; not needed with peer authentication.";
    query = maybe types.str "What to ask besides, in a transaction that only reads; the first column of the first row is the answer.";
    expect = maybe types.str "What the answer must be, as text.";
    role = opt (types.enum [
      "any"
      "primary"
      "standby"
    ]) "any" "What the server must be.";
  } "A question to PostgreSQL.";

  mysql = kind {
    target = opt types.str "unix:/run/mysqld/mysqld.sock" "Where: `host:port` or `unix:/path`.";
    tls = kinds.maybeTls "Insist on TLS, and whom to trust.";
    user = role "The user; for a server of this host with its socket the module makes it.";
    database = maybe types.str "The database.";
    passwordFile = k.file "The password.";
    query = maybe types.str "What to ask; `SELECT 1` when it is null.";
    expect = maybe types.str "What the answer must be, as text.";
  } "A question to MySQL or MariaDB.";

  redis = kind {
    target = opt types.str "127.0.0.1:6379" "Where: `host:port` or `unix:/path`.";
    tls = kinds.maybeTls "Speak TLS, and whom to trust.";
    user = maybe types.str "User of an ACL, with `passwordFile`.";
    passwordFile = k.file "The password.";
  } "PING and INFO to Redis.";

  qdrant = kind {
    url = opt types.str "http://127.0.0.1:6333" "The server.";
    apiKeyFile = k.file "API key; the read-only one is enough.";
    minCollections = opt types.ints.unsigned 0 "At least so many collections.";
    collections = lines "Collections that must be there and green.";
    inherit (kinds) tls;
  } "Readiness and collections of Qdrant.";

  ollama = kind {
    url = opt types.str "http://127.0.0.1:11434" "The server.";
    models = lines "Models that must be there; without a tag `:latest` is meant.";
    inherit (kinds) tls;
  } "Models of Ollama.";

  systemd = kind {
    unit = need unit "The unit.";
    states =
      opt
        (types.nonEmptyListOf (
          types.enum [
            "active"
            "reloading"
            "inactive"
            "activating"
            "deactivating"
            "maintenance"
            "refreshing"
          ]
        ))
        [ "active" ]
        "States that are right; for a one-shot job that a timer starts, `active`, `activating` and `inactive`.";
  } "The state of a systemd unit.";

  disk = kind {
    path = need types.str "Any path on the file system.";
    writable = opt types.bool false "Fail when it is mounted read-only.";
  } "Bytes and inodes of a file system.";

  memory = kind { } "Available memory of the host.";
  pressure = kind { } "Pressure stall information of the host.";
  load = kind { } "Load average of the host.";

  tls = kind {
    target = maybe types.str "A server that speaks TLS at once: `host:port`.";
    file = maybe types.str "A PEM or DER file, instead of a server.";
    verify =
      opt types.bool true
        "Whether the server's certificate must also be trusted and for its name.";
    inherit (kinds) tls;
  } "How long a certificate is valid.";

  dns = kind {
    name = need types.str "The name.";
    server = maybe types.str "Ask this server, an address with or without a port, instead of the host's resolver.";
    record = opt (types.enum [
      "A"
      "AAAA"
      "MX"
      "TXT"
      "NS"
      "CNAME"
      "SOA"
    ]) "A" "The type; other than `A` only with a server.";
    expect = lines "Addresses of which at least one must be in the answer.";
  } "A name that must resolve.";

  command = kind {
    argv = need (types.nonEmptyListOf types.str) "The program, an absolute path, and its arguments. No secrets.";
    env = texts "Variables added to the minimal environment. No secrets either: name a file.";
    directory = maybe types.str "Where it runs; `/` when it is null.";
    success = opt (types.listOf (types.ints.between 0 255)) [ ] "Codes besides 0 that are a success.";
    degraded = opt (types.listOf (
      types.ints.between 0 255
    )) [ ] "Codes that are degraded; 1 as plugins of Nagios use it.";
  } "A command and its exit code. It runs as Keepwatch's user in the agent's sandbox.";

  sqlite = kind {
    path = need types.str "The database file.";
    full =
      opt types.bool false
        "`integrity_check`, which also compares indexes with their tables, instead of `quick_check`.";
    program = mkOption {
      type = types.str;
      default = lib.getExe pkgs.sqlite;
      defaultText = lib.literalExpression "lib.getExe pkgs.sqlite";
      description = "The `sqlite3` program.";
    };
  } "Integrity of a file of SQLite.";

  heartbeat = kind {
    period = need k.duration "How often the job runs.";
    grace = opt k.duration "5m" "How much later it may be.";
    runGrace = opt k.duration "1h" "How long a started job may go on without a sign of life.";
  } "A job that must report in time.";

  group = kind {
    members = need (types.nonEmptyListOf (k.nameOf "a check")) "The checks in it.";
    need = opt (types.either
      (types.enum [
        "all"
        "any"
      ])
      (types.attrTag { atLeast = k.need (types.ints.between 1 256) "So many."; })
    ) "all" "How many of them must be up.";
  } "Other checks taken together.";
}
