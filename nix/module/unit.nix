# What the units of all runs have in common: account, credentials, sandbox, resources, order. Beneath jobs.nix and restore.nix.
{
  config,
  lib,
}:
let
  k = import ./lib.nix { inherit lib; };
  hardening = import ./hardening.nix { inherit lib; };
  cfg = config.services.keepwatch;
  program = lib.getExe cfg.package;
in
rec {
  repositoryOf = name: cfg.repositories.${name} or null;

  # ---- what a unit needs because of the repositories that it uses ------------------------------------------------------------------------

  ofRepositories =
    {
      names,
      withIdentity ? false,
    }:
    let
      known = lib.filter (r: r.value != null) (
        map (name: lib.nameValuePair name (repositoryOf name)) names
      );
      locals = lib.filter (r: r ? local) (map (r: r.value.backend) known);
    in
    {
      secrets = lib.concatMap (
        r:
        k.credentials "repository-${r.name}" (
          if withIdentity then r.value else removeAttrs r.value [ "identityFile" ]
        )
      ) known;
      # `-`: that the disk is absent is said by the program, which writes the failure down.
      writes = map (r: "-${r.local.path}") locals;
      # What is mounted by fstab is mounted before; nothing is required where a person plugs the disk in.
      mounts = map (r: r.local.path) locals;
      network = lib.any (r: r.value.backend ? s3) known;
      inHomes = lib.any (r: within "/home" r.local.path || within "/root" r.local.path) locals;
      inTmp = lib.any (r: within "/tmp" r.local.path || within "/var/tmp" r.local.path) locals;
      directories = map (r: "keepwatch-directory-${r.name}.service") (
        lib.filter (r: needsDirectory r.value) known
      );
    };

  # Whether one of the two lies in the other.
  within =
    root: path:
    path == "/" || path == root || lib.hasPrefix "${root}/" path || lib.hasPrefix "${path}/" root;

  # On a disk that is mounted; elsewhere systemd-tmpfiles makes it.
  needsDirectory =
    r: r.backend ? local && r.backend.local.createDirectory && r.backend.local.requireMount != null;

  # The catalog, for every run. Its password is no secret of the repository's kind, so each run has it.
  catalog = {
    secrets = k.credentials "catalog" cfg.catalog;
    isRemote =
      cfg.catalog.database ? postgresql && !lib.hasInfix "host=/" cfg.catalog.database.postgresql.url;
  };

  # ---- a unit ------------------------------------------------------------------------------------------------------------------------------

  run =
    {
      name,
      kind,
      what,
      commands,
      uses,
      secrets ? [ ],
      sandbox ? { },
      # Whether it writes down what it did.
      records ? true,
      resources ? cfg.defaults.resources,
      onFailure ? [ ],
      onSuccess ? [ ],
      after ? [ ],
      path ? [ ],
      inhibitsSleep ? false,
      serviceConfig ? { },
      unitConfig ? { },
    }:
    let
      isRemote = uses.network || catalog.isRemote || sandbox.network or false;
      inhibited = "${lib.getExe' config.systemd.package "systemd-inhibit"} --what=sleep --mode=block --who=keepwatch --why=${k.words [ what ]} ";
    in
    {
      description = "Keepwatch: ${what}";
      documentation = [ "man:keepwatch(1)" ];
      wants = uses.directories ++ lib.optional isRemote "network-online.target";
      after =
        uses.directories
        ++ after
        ++ [ "keepwatch-postgresql.service" ]
        ++ lib.optional isRemote "network-online.target";
      inherit onFailure onSuccess path;
      enableDefaultPath = path != [ ];
      # A switch ends no backup, and begins none.
      restartIfChanged = false;
      unitConfig = {
        RequiresMountsFor = uses.mounts;
      }
      // unitConfig;
      serviceConfig = {
        Type = "oneshot";
        ExecStart = lib.imap0 (
          n: words: lib.optionalString (n == 0 && inhibitsSleep) inhibited + k.words ([ program ] ++ words)
        ) commands;
        # Partial: some files could not be read. It is counted and told as a warning.
        SuccessExitStatus = 3;
        # The run has its own time limit, and is asked before its children are.
        TimeoutStartSec = "infinity";
        TimeoutStopSec = "3min";
        # The supervisor is asked, and asks its children; behind systemd-inhibit it is not the main process.
        KillMode = if inhibitsSleep then "control-group" else "mixed";
        User = cfg.user;
        Group = cfg.group;
        StateDirectory = "keepwatch";
        StateDirectoryMode = "0700";
        CacheDirectory = "keepwatch";
        CacheDirectoryMode = "0700";
        LoadCredential = lib.unique (uses.secrets ++ lib.optionals records catalog.secrets ++ secrets);
        LogExtraFields = [
          "KEEPWATCH_UNIT=${kind}"
          "KEEPWATCH_${if kind == "prune" || kind == "verify" then "REPOSITORY" else "JOB"}=${name}"
        ];
        Nice = resources.nice;
        IOSchedulingClass = resources.ioSchedulingClass;
        CPUSchedulingPolicy = "batch";
      }
      // lib.filterAttrs (_: v: v != null) {
        IOWeight = resources.ioWeight;
        CPUQuota = resources.cpuQuota;
        MemoryMax = resources.memoryMax;
      }
      // hardening (
        sandbox
        // {
          inherit records;
          network = isRemote;
          writes = uses.writes ++ sandbox.writes or [ ];
          readsHomes = sandbox.readsHomes or false || uses.inHomes;
          readsTmp = sandbox.readsTmp or false || uses.inTmp;
        }
      )
      // serviceConfig;
    };

  timer = startAt: delay: defaults: timerConfig: {
    wantedBy = [ "timers.target" ];
    timerConfig = {
      OnCalendar = startAt;
      # What was missed while the machine was off is done when it is on again…
      Persistent = true;
      RandomizedDelaySec = delay;
      FixedRandomDelay = true;
    }
    // defaults
    // timerConfig;
    # …but not because of a rebuild.
    unitConfig.X-OnlyManualStart = true;
  };
}
