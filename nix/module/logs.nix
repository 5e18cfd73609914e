# How long the journal is kept, and shipping it to Loki by Grafana Alloy.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.keepwatch;
  inherit (cfg) logging;
  limits =
    lib.optionalString (logging.retention != null) "MaxRetentionSec=${logging.retention}\n"
    + lib.optionalString (logging.maxUse != null) "SystemMaxUse=${logging.maxUse}\n";
in
{
  config = lib.mkIf cfg.enable {
    services.journald.extraConfig = lib.mkIf (limits != "") limits;

    environment.etc."alloy/keepwatch.alloy" = lib.mkIf logging.alloy.enable {
      text = ''
        // Keepwatch's journal, with the fields by which it is asked for as labels.
        loki.relabel "keepwatch" {
          forward_to = []
          rule {
            source_labels = ["__journal__systemd_unit"]
            regex         = "keepwatch.*"
            action        = "keep"
          }
          rule {
            source_labels = ["__journal__systemd_unit"]
            target_label  = "unit"
          }
          rule {
            source_labels = ["__journal__hostname"]
            target_label  = "host"
          }
          rule {
            source_labels = ["__journal_priority_keyword"]
            target_label  = "level"
          }
          rule {
            source_labels = ["__journal_keepwatch_job"]
            target_label  = "keepwatch_job"
          }
        }

        loki.source.journal "keepwatch" {
          relabel_rules = loki.relabel.keepwatch.rules
          labels        = { job = "keepwatch" }
          forward_to    = [${logging.alloy.forwardTo}]
        }
      '';
    };
    systemd.services.alloy = lib.mkIf (logging.alloy.enable && config.services.alloy.enable or false) {
      reloadTriggers = [ config.environment.etc."alloy/keepwatch.alloy".source ];
    };
  };
}
