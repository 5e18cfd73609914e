# Two places: a disk here, and a bucket elsewhere that nobody can empty. Backups go to the disk; once a day what is new there is copied, as it
# is encrypted, into a bucket with Object Lock, by credentials that may not delete. docs/s3 has the policies.
{
  services.keepwatch = {
    enable = true;
    repositories = {
      disk = {
        backend.local = {
          path = "/mnt/backup/web1";
          requireMount = "/mnt/backup";
        };
        recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
        verify.readData = 10;
      };

      # Made once, by hand and where the identity is, as a twin of the first, so that copying needs no identity:
      #   keepwatch init --repo s3://offsite-backups/web1 --from /mnt/backup/web1 --from-identity me.txt --writer-key-out offsite.key
      offsite = {
        backend.s3 = {
          bucket = "offsite-backups";
          prefix = "web1";
          region = "eu-central-1";
          accessKeyIdFile = "/run/secrets/offsite-access-key";
          secretAccessKeyFile = "/run/secrets/offsite-secret-key";
          objectLock = {
            mode = "compliance";
            retain = "90d";
          };
        };
        recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
        writerKeyFile = "/run/secrets/offsite-writer-key";
        # These credentials may not delete; what is locked could not be deleted anyway.
        prune.enable = false;
        limits.uploadRate = "4M";
      };
    };

    defaults.repositories = [ "disk" ];
    backups.files.source.paths.include = [
      "/etc"
      "/home"
      "/srv"
    ];

    copies.offsite = {
      from = "disk";
      to = "offsite";
      startAt = "06:00";
    };
  };
}
