# keepwatch-restore-NAME.service, where the repository's identity is: brings the newest snapshot of a backup back into
# /var/lib/keepwatch-restore/NAME. By hand only.
{
  config,
  lib,
  ...
}:
let
  k = import ./lib.nix { inherit lib; };
  cfg = config.services.keepwatch;
  inherit (import ./unit.nix { inherit config lib; }) repositoryOf ofRepositories run;

  # The first repository of the backup that can be read here.
  readable = b: lib.findFirst (r: (repositoryOf r).identityFile or null != null) null b.repositories;

  restore =
    name: b:
    let
      repository = readable b;
      r = repositoryOf repository;
      secret =
        option: path:
        if path == null then null else "@CREDENTIALS@/${k.credential "repository-${repository}" option}";
      uses = ofRepositories {
        names = [ repository ];
        withIdentity = true;
      };
    in
    lib.nameValuePair "keepwatch-restore-${name}" (run {
      inherit name;
      kind = "restore";
      what = "restore ${name}";
      records = false;
      uses = uses // {
        directories = [ ];
        # It reads the repository and writes nothing into it.
        writes = [ ];
      };
      commands = [
        (
          [
            "restore"
            "--repo=${k.place secret r}"
            "--identity=${secret "identityFile" r.identityFile}"
            "--cache-dir=/var/cache/keepwatch"
            "--target=/var/lib/keepwatch-restore/${name}"
            "--job=${name}"
          ]
          ++ lib.optional (cfg.host != null) "--host=${cfg.host}"
          ++ [ "latest" ]
        )
      ];
      sandbox = {
        # What is restored gets its owners and modes back, also in directories that are closed to their own owner.
        capabilities = [
          "CAP_CHOWN"
          "CAP_DAC_OVERRIDE"
          "CAP_FOWNER"
        ];
        seesUsers = true;
      };
      serviceConfig = {
        StateDirectory = "keepwatch keepwatch-restore";
      };
    });
in
{
  config = lib.mkIf cfg.enable {
    systemd.services = lib.listToAttrs (
      lib.mapAttrsToList restore (lib.filterAttrs (_: b: b.enable && readable b != null) cfg.backups)
    );
  };
}
