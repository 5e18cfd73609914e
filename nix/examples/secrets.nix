# Three ways to keep secrets. Every option that ends in `File` takes a path outside the Nix store; systemd (PID 1, as root) reads it and hands
# the content to the one unit that needs it, so owner and mode of the file do not matter, and no secret is in an environment or on a command
# line.
let
  repository = id: secret: {
    backend.s3 = {
      bucket = "backups";
      prefix = "web1";
      endpoint = "https://s3.example.org";
      accessKeyIdFile = id;
      secretAccessKeyFile = secret;
    };
    recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
  };
  backup.services.keepwatch = {
    enable = true;
    backups.files.source.paths.include = [ "/home" ];
  };
in
{
  # sops-nix: https://github.com/Mic92/sops-nix
  sops-nix =
    { config, ... }:
    {
      imports = [ backup ];
      sops.secrets = {
        "s3/access-key" = { };
        "s3/secret-key" = { };
      };
      services.keepwatch.repositories.far =
        repository config.sops.secrets."s3/access-key".path
          config.sops.secrets."s3/secret-key".path;
    };

  # agenix: https://github.com/ryantm/agenix
  agenix =
    { config, ... }:
    {
      imports = [ backup ];
      age.secrets = {
        s3-access-key.file = ./s3-access-key.age;
        s3-secret-key.file = ./s3-secret-key.age;
      };
      services.keepwatch.repositories.far = repository config.age.secrets.s3-access-key.path config.age.secrets.s3-secret-key.path;
    };

  # Files that somebody puts there, mode 0400, owner root.
  files = {
    imports = [ backup ];
    services.keepwatch.repositories.far = repository "/etc/secrets/s3-access-key" "/etc/secrets/s3-secret-key";
  };
}
