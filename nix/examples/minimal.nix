# Files of one host to a disk that is mounted for backups. This is all there is to write; see docs/nixos.md for the rest.
{
  services.keepwatch = {
    enable = true;
    repositories.disk = {
      backend.local = {
        path = "/mnt/backup/web1";
        requireMount = "/mnt/backup";
      };
      # `keepwatch key generate -o me.txt` on another machine prints it.
      recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
    };
    backups.files.source.paths.include = [
      "/etc"
      "/home"
    ];
  };
}
