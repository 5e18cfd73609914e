# services.keepwatch.checks: watched promises. What can be asked is in probes.nix.
{
  lib,
  utils,
  pkgs,
  config,
  ...
}:
let
  inherit (lib) types mkOption;
  k = import ../lib.nix { inherit lib; };
  inherit (k)
    opt
    need
    maybe
    sub
    ;
in
{
  options.services.keepwatch.checks = mkOption {
    default = { };
    description = "Watched promises, by name.";
    example = {
      web = {
        probe.http.url = "http://127.0.0.1:8080/health";
        severity = "critical";
        onFailure.restartUnit = "shop.service";
      };
    };
    type = types.attrsOf (
      types.submodule {
        options = {
          enable = opt types.bool true "Whether it runs.";
          description = opt types.str "" "What it promises, for people.";
          probe = mkOption {
            description = "What is asked: exactly one of these.";
            type = types.attrTag (
              import ./probes.nix {
                inherit lib utils pkgs;
                user = config.services.keepwatch.user;
              }
            );
          };
          interval = opt k.duration "30s" "Time between two runs.";
          timeout = maybe k.duration "Deadline of one run, shorter than the interval; null: 10 s, or 0.8 of the interval when that is less.";
          retryInterval = maybe k.duration "When to ask again while a failure is not decided; null: 10 s, or the interval when that is less.";
          failureThreshold = opt (types.ints.between 1 64) 3 "Failures in a row that make it unhealthy.";
          successThreshold = opt (types.ints.between 1 64) 2 "Successes in a row that make it healthy again.";
          failWithin = maybe (types.submodule {
            options = {
              failures = need (types.ints.between 1 64) "Failures that are too many.";
              of = need (types.ints.between 1 64) "Among so many runs.";
            };
          }) "A second way to become unhealthy: so many failures among the last runs.";
          severity =
            opt
              (types.enum [
                "critical"
                "warning"
                "info"
              ])
              "warning"
              "How much it matters: a person must act now (and the host is not ready); today; worth a look.";
          group = maybe types.str "The group that it is shown in.";
          labels = opt (types.attrsOf types.str) { } "Labels for alerts about it.";
          dependsOn = opt (types.listOf (k.nameOf "a check")) [ ] ''
            Checks that it needs: while one of them is down, nobody is told about this one and nothing is restarted for it.
          '';
          limits = maybe (types.listOf (
            types.submodule {
              options = {
                quantity = need types.str "What is limited, such as `duration_seconds` or `disk_used_ratio`; docs/configuration.md lists all.";
                side = need (types.enum [
                  "above"
                  "below"
                ]) "Which side is bad.";
                warn = maybe types.number "Beyond this the check is degraded.";
                clear = maybe types.number "A warning ends when the value is back at this or better; null: 5 % of `warn` away from it.";
                fail = maybe types.number "Beyond this the run fails.";
              };
            }
          )) "Limits on what is measured. Given, they replace those of the kind of probe as a whole.";
          onFailure = sub {
            restartUnit = maybe utils.systemdUtils.lib.unitNameType ''
              The unit that is restarted, within the limits of `services.keepwatch.restarts`. The agent may restart exactly the units that
              are named so, by a rule for polkit.
            '';
          } "What is done when it is unhealthy.";
        };
      }
    );
  };
}
