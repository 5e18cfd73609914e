# The NixOS options that the modules set or read, with the types that NixOS gives them. An option that is not here is an error when a module
# sets it, which is the alarm that is wanted; tests/nix/run compares names and types with nixos-options.json.
{
  lib,
  pkgs,
  utils,
}:
{ config, ... }:
let
  inherit (lib) types mkOption;
  opt = type: default: mkOption { inherit type default; };
  need = type: mkOption { inherit type; };
  units = opt (types.listOf utils.systemdUtils.lib.unitNameType) [ ];
  settings = opt (types.attrsOf utils.systemdUtils.unitOptions.unitOption) { };
  unit = {
    enable = opt types.bool true;
    description = opt types.singleLineStr "";
    documentation = opt (types.listOf types.str) [ ];
    requires = units;
    wants = units;
    after = units;
    before = units;
    bindsTo = units;
    partOf = units;
    onFailure = units;
    onSuccess = units;
    wantedBy = units;
    unitConfig = settings;
    restartTriggers = opt (types.listOf types.unspecified) [ ];
    reloadTriggers = opt (types.listOf utils.systemdUtils.unitOptions.unitOption) [ ];
  };
  path = types.either types.package types.str;
  user = types.submodule {
    options = {
      isSystemUser = opt types.bool false;
      group = opt types.str "";
      home = opt (types.passwdEntry types.path) "/var/empty";
      description = opt (types.passwdEntry types.str) "";
      extraGroups = opt (types.listOf types.str) [ ];
    };
  };
  # As sops-nix and agenix have it: a secret is a file somewhere in /run.
  secrets =
    directory:
    opt (types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options.file = opt (types.nullOr types.path) null;
          options.path = opt types.str "${directory}/${name}";
        }
      )
    )) { };
  redis = types.submodule (
    { name, config, ... }:
    {
      options = {
        enable = opt types.bool false;
        user = opt types.str (if name == "" then "redis" else "redis-${name}");
        group = opt types.str config.user;
        port = opt types.port (if name == "" then 6379 else 0);
        unixSocket = opt (types.nullOr types.path) (
          if name == "" then "/run/redis/redis.sock" else "/run/redis-${name}/redis.sock"
        );
      };
    }
  );
  open = types.attrsOf types.anything;
in
{
  options = {
    assertions = opt (types.listOf types.unspecified) [ ];
    warnings = opt (types.listOf types.str) [ ];

    environment.systemPackages = opt (types.listOf types.package) [ ];
    environment.etc = mkOption {
      default = { };
      type = types.attrsOf (
        types.submodule (
          { name, config, ... }:
          {
            options = {
              text = opt (types.nullOr types.lines) null;
              source = mkOption {
                type = types.path;
                default = builtins.toFile (baseNameOf name) config.text;
              };
            };
          }
        )
      );
    };

    networking.hostName = opt (types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$") "web1";
    networking.firewall.allowedTCPPorts = opt (types.listOf types.port) [ ];

    security.polkit.enable = opt types.bool false;
    security.polkit.extraConfig = opt types.lines "";

    services.alloy.enable = opt types.bool false;
    services.journald.extraConfig = opt types.lines "";
    services.qdrant.enable = opt types.bool false;
    services.ollama.enable = opt types.bool false;
    services.ollama.loadModels = opt (types.listOf types.str) [ ];
    services.redis.servers = opt (types.attrsOf redis) { };

    services.mysql = {
      enable = opt types.bool false;
      package = need types.package;
      ensureUsers = opt (types.listOf (
        types.submodule {
          options = {
            name = need types.str;
            ensurePermissions = opt (types.attrsOf types.str) { };
          };
        }
      )) [ ];
    };

    services.postgresql = {
      enable = opt types.bool false;
      package = opt types.package pkgs.postgresql;
      ensureDatabases = opt (types.listOf types.str) [ ];
      settings = opt open { };
      ensureUsers = opt (types.listOf (
        types.submodule {
          options = {
            name = need types.str;
            ensureDBOwnership = opt types.bool false;
            ensureClauses = opt open { };
          };
        }
      )) [ ];
    };

    services.prometheus = {
      enable = opt types.bool false;
      port = opt types.port 9090;
      checkConfig = opt (types.either types.bool (types.enum [ "syntax-only" ])) true;
      scrapeConfigs = opt (types.listOf (
        types.submodule {
          freeformType = open;
          options.job_name = need types.str;
        }
      )) [ ];
      ruleFiles = opt (types.listOf types.path) [ ];
      alertmanagers = opt (types.listOf types.attrs) [ ];
      alertmanager = {
        enable = opt types.bool false;
        port = opt types.port 9093;
        # It does not merge: one definition of a key silently wins.
        configuration = opt (types.nullOr types.attrs) null;
      };
    };

    services.grafana = {
      enable = opt types.bool false;
      settings = opt open { };
      provision = {
        enable = opt types.bool false;
        dashboards.path = opt (types.nullOr types.path) null;
        dashboards.settings = opt (types.nullOr (
          types.submodule {
            options.providers = opt (types.listOf (
              types.submodule {
                freeformType = open;
                options.name = opt types.str "default";
                options.type = opt types.str "file";
                options.options.path = need types.path;
              }
            )) [ ];
          }
        )) null;
        datasources.path = opt (types.nullOr types.path) null;
        datasources.settings = opt (types.nullOr (
          types.submodule {
            options.datasources = opt (types.listOf (
              types.submodule {
                freeformType = open;
                options.name = need types.str;
                options.type = need types.str;
              }
            )) [ ];
          }
        )) null;
      };
    };

    system.checks = opt (types.listOf types.package) [ ];

    systemd.package = opt types.package pkgs.systemd;
    systemd.services = opt (types.attrsOf (
      types.submodule {
        options = unit // {
          environment = opt (types.attrsOf (
            types.nullOr (
              types.oneOf [
                types.str
                types.path
                types.package
              ]
            )
          )) { };
          path = opt (types.listOf path) [ ];
          enableDefaultPath = opt types.bool true;
          script = opt types.lines "";
          restartIfChanged = opt types.bool true;
          serviceConfig = settings;
        };
      }
    )) { };
    systemd.timers = opt (types.attrsOf (
      types.submodule {
        options = unit // {
          timerConfig = settings;
        };
      }
    )) { };
    systemd.tmpfiles.settings = opt (types.attrsOf (
      types.attrsOf (
        types.attrsOf (
          types.submodule {
            options = {
              mode = opt types.str "-";
              user = opt types.str "-";
              group = opt types.str "-";
            };
          }
        )
      )
    )) { };

    users.users = opt (types.attrsOf user) { };
    users.groups = opt (types.attrsOf (
      types.submodule { options.members = opt (types.listOf (types.passwdEntry types.str)) [ ]; }
    )) { };

    # What examples use besides; the modules themselves set none of it.
    fileSystems = opt open { };
    virtualisation = opt open { };
    sops.secrets = secrets "/run/secrets";
    age.secrets = secrets "/run/agenix";
  };

  # The units that NixOS makes for what examples switch on, by their names alone.
  config.systemd.services =
    let
      inherit (config) services;
      redis = lib.filterAttrs (_: server: server.enable) services.redis.servers;
      names =
        lib.optional services.postgresql.enable "postgresql"
        ++ lib.optional services.qdrant.enable "qdrant"
        ++ lib.optional services.ollama.enable "ollama"
        ++ map (name: if name == "" then "redis" else "redis-${name}") (lib.attrNames redis)
        ++ map (name: "podman-${name}") (
          lib.attrNames (config.virtualisation.oci-containers.containers or { })
        );
    in
    lib.genAttrs names (_: { });
}
