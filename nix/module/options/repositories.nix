# services.keepwatch.repositories and .copies.
{
  lib,
  utils,
  config,
  ...
}:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  kinds = import ./kinds.nix { inherit lib k; };
  inherit (k)
    opt
    need
    maybe
    sub
    ;
  inherit (utils.systemdUtils.unitOptions) unitOption;
  units = types.listOf utils.systemdUtils.lib.unitNameType;
  cfg = config.services.keepwatch;
  schedule = startAt: {
    enable = opt types.bool true "Whether it is done.";
    startAt =
      opt k.calendars startAt
        "When, as a calendar expression of systemd or several; null: by hand only.";
    timerConfig = opt (types.attrsOf unitOption) { } ''
      Merged over `Persistent = true` and `RandomizedDelaySec = "1h"` in the timer.
    '';
    onFailure = mkOption {
      type = units;
      default = cfg.defaults.onFailure;
      defaultText = lib.literalExpression "config.services.keepwatch.defaults.onFailure";
      description = "Units that are started when it fails.";
    };
    serviceConfig =
      opt (types.attrsOf unitOption) { }
        "Straight to the service; it wins over what the module says.";
    unitConfig = opt (types.attrsOf unitOption) { } "Straight to the unit.";
  };
  generated =
    name: what:
    mkOption {
      type = types.str;
      readOnly = true;
      default = "keepwatch-${what}-${name}.service";
      defaultText = lib.literalMD "`keepwatch-${what}-‹name›.service`";
      description = "The unit that does it.";
    };
in
{
  options.services.keepwatch.repositories = mkOption {
    default = { };
    description = "Places of backups, by name: a local directory or a bucket that speaks S3.";
    example = {
      disk = {
        backend.local = {
          path = "/mnt/backup/web1";
          requireMount = "/mnt/backup";
        };
        recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
      };
    };
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = {
            backend = mkOption {
              description = "Where the objects lie: exactly one of these.";
              type = types.attrTag {
                local = k.kind {
                  path = need types.str "The directory.";
                  createDirectory = opt types.bool true "Create it, for Keepwatch's user, when it is absent.";
                  requireMount = maybe types.str ''
                    Refuse to write when nothing is mounted here, so that an absent disk does not fill the one beneath it.
                  '';
                } "In a directory of this host.";
                s3 = k.kind {
                  bucket = need types.str "The bucket.";
                  prefix = opt types.str "" "What stands before the names of all objects.";
                  endpoint = maybe types.str "The server; AWS when it is null.";
                  region = opt types.str "us-east-1" "The region.";
                  pathStyle = maybe types.bool "Name the bucket in the path instead of the host; null: with an `endpoint`, yes.";
                  caFile = maybe types.path "Trust only the certificates of this PEM file.";
                  storageClass = maybe types.str "Storage class of packs; one from which can be read at once.";
                  accessKeyIdFile = k.file "The access key id.";
                  secretAccessKeyFile = k.file "The secret access key.";
                  sessionTokenFile = k.file "The session token.";
                  credentialsFile = k.file "A credentials file of AWS, instead of the two.";
                  profile = maybe types.str "The profile in that file.";
                  objectLock = sub {
                    mode = opt (types.enum [
                      "off"
                      "governance"
                      "compliance"
                    ]) "off" "How strictly: not at all; who has a special right can take the lock away; nobody can.";
                    retain = opt (types.strMatching "[1-9][0-9]*d") "30d" "For how long; whole days.";
                  } "S3 Object Lock: what is locked cannot be deleted before its time.";
                } "In a bucket that speaks S3.";
              };
            };
            recipients = need (types.nonEmptyListOf types.str) ''
              Who can read the backups: public keys of age (`age1…`) or SSH (`ssh-ed25519 …`, `ssh-rsa …`). They are public and may stand in
              the store. Their private halves belong somewhere else.
            '';
            writerKeyFile = k.file ''
              The host's writing secrets, made by `keepwatch init` or `keepwatch key writer`; they cannot read what was written. When it is
              null, they lie in `/var/lib/keepwatch/writer-keys/‹name›.key`, where `initialize` puts them.
            '';
            identityFile = k.file ''
              An identity that can read. Drills and restores need it, and only their units get it; a host that does neither should not
              have it. A copy has an option of its own.
            '';
            initialize = opt types.bool true ''
              Create the repository before its first backup when it is absent, and this host's writer key with it. Done once: a repository
              that was there and is gone is never made anew behind your back. Without effect when `writerKeyFile` is given.
            '';
            prune = sub (
              schedule "weekly"
              // {
                graceDelete = opt k.duration "24h" ''
                  How long what was marked is kept before it is deleted; longer than the longest backup takes.
                '';
              }
            ) "Deleting what nothing needs any more, by a unit of its own.";
            verify = sub (
              schedule "monthly"
              // {
                readData =
                  opt
                    (types.either (types.enum [
                      "metadata"
                      "all"
                    ]) (types.ints.between 1 100))
                    "metadata"
                    ''
                      How much of the data is read: `"metadata"` (only whether all is there), `"all"`, or that many percent, other ones each time.
                    '';
              }
            ) "Looking for damage, by a unit of its own.";
            limits = sub {
              uploadRate = maybe k.size "Bytes a second that are sent at most, such as `2M`.";
              downloadRate = maybe k.size "Bytes a second that are received at most.";
            } "What a run may take from the line.";
            units = {
              prune = generated name "prune";
              verify = generated name "verify";
            };
          };
        }
      )
    );
  };

  options.services.keepwatch.copies = mkOption {
    default = { };
    description = "Copies of repositories, by name: snapshots replicated from one to another, so that there is one elsewhere.";
    example = {
      disk-to-far = {
        from = "disk";
        to = "far";
        startAt = "05:00";
      };
    };
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = schedule "daily" // {
            from = need (k.nameOf "a repository") "The repository copied from.";
            to = need (k.nameOf "a repository") "The repository copied to.";
            backups = opt (types.listOf (
              k.nameOf "a backup"
            )) [ ] "Only snapshots of these backups; of all when it is empty.";
            identityFile = k.file ''
              An identity that opens the repository copied from. Not needed, and so not given, where both have the same keys (the second was
              made by `keepwatch init --from` the first): then what is encrypted is copied as it is. Between repositories with different keys
              everything is opened and sealed anew; that is the one reason to set it, better on another machine than one that writes backups.
            '';
            retry = opt kinds.retry { } "How often and when a run that failed is tried again.";
            timeout = opt k.duration "12h" "A run that lasts longer is ended.";
            unit = generated name "copy";
          };
        }
      )
    );
  };
}
