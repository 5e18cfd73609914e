# Prometheus: targets and rules. `ruleFiles` and `scrapeConfigs` merge with those of others.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  files = import ./files.nix { inherit lib; };
  cfg = config.services.keepwatch.prometheus;

  credential = "keepwatch-token";
  changed =
    name: file:
    pkgs.runCommandLocal "keepwatch-${name}.yml" { nativeBuildInputs = [ pkgs.yq-go ]; } ''
      cp ${file} $out
      chmod +w $out
      ${lib.concatStrings (lib.mapAttrsToList change cfg.rules)}
    '';
  # A rule of another file is left alone; that none has it is said below.
  change =
    alert: r:
    let
      select = ''.groups[].rules[] | select(.alert == "${alert}")'';
      edit = expression: "yq --inplace ${lib.escapeShellArg expression} $out\n";
    in
    if !r.enable then
      edit "del(${select})"
    else
      lib.optionalString (r.for != null) (edit ''(${select} | .for) = "${r.for}"'')
      + lib.optionalString (r.severity != null) (
        edit ''(${select} | .labels.severity) = "${r.severity}"''
      );

  # Fails the build when a change names an alert that no file has.
  known = pkgs.runCommandLocal "keepwatch-alerts-known" { } ''
    for alert in ${lib.escapeShellArgs (lib.attrNames cfg.rules)}; do
      grep -qE "alert: ['\"]?$alert['\"]?\$" ${
        lib.concatMapStringsSep " " (n: "${files.ruleFile n}") cfg.ruleGroups
      } || {
        echo "services.keepwatch.prometheus.rules.$alert: there is no such alert in the groups that are used" >&2
        exit 1
      }
    done
    touch $out
  '';

  rule = name: if cfg.rules == { } then files.ruleFile name else changed name (files.ruleFile name);

  # `up == 0` misses a host that is gone altogether, and one `absent` for all hosts misses all but the last.
  hosts = pkgs.writeText "keepwatch-hosts.yml" (
    builtins.toJSON {
      groups = [
        {
          name = "keepwatch-hosts";
          rules = map (target: {
            alert = "KeepwatchAbsent";
            expr = ''absent(up{job="keepwatch",instance="${target}"})'';
            for = "5m";
            labels = {
              severity = "critical";
              instance = target;
            };
            annotations = {
              summary = "Keepwatch on ${target} is not asked any more";
              description = "Prometheus has no target ${target}: nobody would notice whether its backups and services fail.";
              dashboard = "/d/keepwatch-agent";
              runbook_url = "https://github.com/keepwatch/keepwatch/blob/main/docs/runbooks.md#keepwatchabsent";
            };
          }) cfg.targets;
        }
      ];
    }
  );
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.targets != [ ];
        message = "services.keepwatch.prometheus.targets: it is empty, and there is no agent on this host; name the hosts, such as \"web1:9847\".";
      }
    ];

    services.prometheus = {
      enable = lib.mkDefault true;
      checkConfig = lib.mkIf (cfg.bearerTokenFile != null) (lib.mkDefault "syntax-only");
      scrapeConfigs = [
        (
          {
            job_name = "keepwatch";
            scrape_interval = cfg.scrapeInterval;
            static_configs = [ { inherit (cfg) targets; } ];
          }
          // lib.optionalAttrs (cfg.bearerTokenFile != null) {
            authorization.credentials_file = "/run/credentials/prometheus.service/${credential}";
          }
        )
      ];
      ruleFiles = map rule cfg.ruleGroups ++ [ hosts ] ++ cfg.extraRuleFiles;
    };

    system.checks = lib.mkIf (cfg.rules != { }) [ known ];

    systemd.services.prometheus = lib.mkIf (cfg.bearerTokenFile != null) {
      serviceConfig.LoadCredential = [ "${credential}:${toString cfg.bearerTokenFile}" ];
    };
  };
}
