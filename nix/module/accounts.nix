# The account, and what polkit lets it do: restart the units that checks name, stop and start those that backups name, keep the machine awake.
# Nothing else, and nobody else.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.keepwatch;
  enabled = lib.filterAttrs (_: v: v.enable);
  checks = lib.attrValues (enabled cfg.checks);
  backups = lib.attrValues (enabled cfg.backups);

  rules = lib.attrValues cfg.restarts;
  steps = lib.concatMap (r: lib.filter builtins.isAttrs r.escalation) rules;
  restarts = lib.unique (
    lib.filter (u: u != null) (map (c: c.onFailure.restartUnit) checks)
    ++ lib.concatMap (s: s.dependants or [ ]) steps
  );
  stops = lib.unique (lib.concatMap (b: b.stopUnits) backups);
  # `reboot` is a start of this unit.
  starts = lib.optional (lib.any (
    r: r.allowReboot && lib.elem "reboot" r.escalation
  ) rules) "reboot.target";
  awake = lib.any (b: b.inhibitsSleep) backups;

  allowed = lib.foldl' (
    all: unit:
    all
    // {
      ${unit} = lib.unique (
        lib.optionals (lib.elem unit restarts) [
          "restart"
          "reset-failed"
        ]
        ++ lib.optionals (lib.elem unit stops) [
          "stop"
          "start"
        ]
        ++ lib.optional (lib.elem unit starts) "start"
      );
    }
  ) { } (restarts ++ stops ++ starts);

  manage = ''
    polkit.addRule(function (action, subject) {
      var allowed = ${builtins.toJSON allowed};
      if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == ${builtins.toJSON cfg.user}) {
        var verbs = allowed[action.lookup("unit")];
        if (verbs && verbs.indexOf(action.lookup("verb")) >= 0) {
          return polkit.Result.YES;
        }
      }
    });
  '';
  inhibit = ''
    polkit.addRule(function (action, subject) {
      if (action.id == "org.freedesktop.login1.inhibit-block-sleep" && subject.user == ${builtins.toJSON cfg.user}) {
        return polkit.Result.YES;
      }
    });
  '';
in
{
  config = lib.mkIf cfg.enable {
    users.users = lib.mkIf (cfg.user == "keepwatch") {
      keepwatch = {
        isSystemUser = true;
        inherit (cfg) group;
        home = "/var/lib/keepwatch";
        description = "Keepwatch";
      };
    };
    users.groups = lib.mkIf (cfg.group == "keepwatch") { keepwatch = { }; };

    security.polkit = lib.mkIf (allowed != { } || awake) {
      enable = true;
      extraConfig = lib.optionalString (allowed != { }) manage + lib.optionalString awake inhibit;
    };
  };
}
