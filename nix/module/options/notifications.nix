# services.keepwatch.notifications: telling people from a host without Prometheus.
{ lib, ... }:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  inherit (k)
    opt
    need
    maybe
    kind
    ;
  caFile = maybe types.path "Trust only the certificates of this PEM file.";
  severity = types.enum [
    "critical"
    "warning"
    "info"
  ];
in
{
  options.services.keepwatch.notifications = {
    receivers = mkOption {
      default = { };
      description = "Who can be told, by name. With a Prometheus, its Alertmanager tells people: see `services.keepwatch.alertmanager`.";
      type = types.attrsOf (
        types.attrTag {
          telegram = kind {
            botTokenFile = k.needFile "The bot's token.";
            chatId = need (types.either types.int types.str) "The chat: a number, or the name of a channel with `@`.";
            messageThreadId = maybe types.ints.positive "The topic within the chat.";
            silent = opt types.bool false "Without a sound.";
            apiUrl = opt types.str "https://api.telegram.org" "The server of the API.";
          } "A chat of Telegram.";
          email = kind {
            to = need (types.nonEmptyListOf types.str) "To whom.";
            from = need types.str "From whom.";
            smarthost = need types.str "The server that takes mail: `host:port`.";
            username = maybe types.str "The user there.";
            passwordFile = k.file "The password there.";
            tls = opt (types.enum [
              "implicit"
              "starttls"
              "off"
            ]) "starttls" "How the connection is made secret; `off` only for a server on this host.";
            inherit caFile;
          } "Mail.";
          webhook = kind {
            urlFile = k.needFile "Where to. The URL is a secret, because it often lets anybody write.";
            bearerTokenFile = k.file "A bearer token.";
            signingKeyFile = k.file "A key with which each body is signed (HMAC-SHA-256, header `Keepwatch-Signature`).";
            inherit caFile;
          } "A POST request with JSON.";
          ntfy = kind {
            baseUrl = opt types.str "https://ntfy.sh" "The server.";
            topic = need types.str "The topic. On a public server whoever knows it can read it.";
            tokenFile = k.file "An access token.";
            inherit caFile;
          } "A topic of ntfy.";
          alertmanager = kind {
            urls = need (types.nonEmptyListOf types.str) "The servers; each gets every alert.";
            bearerTokenFile = k.file "A bearer token.";
            basicUser = maybe types.str "User for basic authentication, with `passwordFile`.";
            passwordFile = k.file "Its password.";
            inherit caFile;
          } "The API of an Alertmanager (version 2), which then groups and routes by itself.";
        }
      );
    };
    defaultReceiver = maybe (k.nameOf "a receiver") "Who is told what no route takes; nobody when it is null.";
    routes = opt (types.listOf (
      types.submodule {
        options = {
          receiver = need (k.nameOf "a receiver") "Who.";
          severity = opt (types.listOf severity) [ ] "Of these severities; of any when it is empty.";
          checks = opt (types.listOf (k.nameOf "a check")) [ ] "Of these checks; of any when it is empty.";
          backups = opt (types.listOf (k.nameOf "a backup")) [ ] "Of these backups; of any when it is empty.";
          continueMatching = opt types.bool false "Go on: who fits later is told too.";
          repeatInterval = maybe k.duration "After how long this receiver is told again; as for all when it is null.";
        };
      }
    )) [ ] "Who is told what. The first that fits is taken.";
    groupBy =
      opt
        (types.listOf (
          types.enum [
            "alertname"
            "instance"
            "severity"
            "check"
            "backup"
            "repository"
            "unit"
          ]
        ))
        [
          "alertname"
          "instance"
        ]
        "Alerts that are alike in these are told together.";
    groupWait = opt k.duration "30s" "How long more of a group is waited for before the first message.";
    groupInterval = opt k.duration "5m" "At least so long between two messages about a group.";
    repeatInterval = opt k.duration "4h" "After how long a person is told again of what goes on.";
    sendResolved = opt types.bool true "Also tell when it is over.";
    maxPerHour =
      opt (types.ints.between 1 1000) 60
        "At most so many messages an hour to each receiver, and half as many again about what is critical. One then says that further ones are held back, and one how many were left out, when half of the hour is free again. Critical alerts that begin meanwhile are told even so, together, every five minutes at most.";
    deadManSwitch = maybe (types.submodule {
      options = {
        urlFile = k.needFile "Where to. The URL is a secret, because whoever knows it can pretend that all is well.";
        interval = opt k.duration "5m" "How often.";
        inherit caFile;
      };
    }) "Somebody elsewhere who notices when this host falls silent: a request in each interval.";
  };
}
