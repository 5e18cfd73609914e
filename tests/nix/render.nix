# Units as NixOS renders them (nixos/lib/systemd-lib.nix), without the three lines of environment that NixOS adds everywhere.
{ lib }:
let
  show =
    v:
    if v == true then
      "true"
    else if v == false then
      "false"
    else
      toString v;
  section =
    values:
    lib.concatStrings (
      lib.mapAttrsToList (
        name: v: lib.concatMapStrings (x: "${name}=${show x}\n") (if builtins.isList v then v else [ v ])
      ) values
    );
  join = lib.concatStringsSep " ";
  unitSection =
    u:
    "[Unit]\n"
    + section (
      lib.filterAttrs (_: v: v != "" && v != [ ]) {
        Description = u.description;
        Documentation = join u.documentation;
        Requires = join u.requires;
        Wants = join u.wants;
        After = join u.after;
        Before = join u.before;
        BindsTo = join u.bindsTo;
        PartOf = join u.partOf;
        OnFailure = join u.onFailure;
        OnSuccess = join u.onSuccess;
      }
      // u.unitConfig
    );
  install = u: lib.optionalString (u.wantedBy != [ ]) "\n[Install]\nWantedBy=${join u.wantedBy}\n";
  bins = lib.concatMapStringsSep ":" (p: "${p}/bin:${p}/sbin");
in
{
  service =
    name: u:
    let
      path = u.path ++ lib.optional u.enableDefaultPath "/usr";
      environment = u.environment // lib.optionalAttrs (path != [ ]) { PATH = bins path; };
    in
    unitSection u
    + "\n[Service]\n"
    + lib.concatStrings (
      lib.mapAttrsToList (n: v: "Environment=${builtins.toJSON "${n}=${toString v}"}\n") (
        lib.filterAttrs (_: v: v != null) environment
      )
    )
    + lib.optionalString (!u.restartIfChanged) "X-RestartIfChanged=false\n"
    + lib.optionalString (
      u.script != ""
    ) "ExecStart=${builtins.toFile "${name}-start" "#!/bin/bash\nset -e\n${u.script}"}\n"
    + section u.serviceConfig
    + install u;
  timer = u: unitSection u + "\n[Timer]\n" + section u.timerConfig + install u;
}
