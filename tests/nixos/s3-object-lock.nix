# Backups in a bucket with versions and Object Lock, on a real S3 server: credentials reach the unit and nothing else, what is locked cannot be
# deleted with the host's own credentials, and another machine restores with the identity.
{
  module,
  lib,
  pkgs,
  ...
}:
let
  access = "keepwatch-test-id";
  secret = "keepwatch-test-secret-key";
  files = {
    environment.etc = {
      "secrets/id" = {
        text = access;
        mode = "0400";
      };
      "secrets/key" = {
        text = secret;
        mode = "0400";
      };
    };
  };
  aws = "AWS_ACCESS_KEY_ID=${access} AWS_SECRET_ACCESS_KEY=${secret} AWS_DEFAULT_REGION=us-east-1 ${lib.getExe pkgs.awscli2} --endpoint-url http://store:7070";
  # The test's own pair, known to everybody who reads this.
  pair = pkgs.runCommand "identity" { nativeBuildInputs = [ pkgs.age ]; } ''
    mkdir $out
    age-keygen -o $out/identity 2>/dev/null
    age-keygen -y $out/identity > $out/recipient
  '';
in
{
  name = "keepwatch-s3-object-lock";

  nodes.store = {
    networking.firewall.enable = false;
    systemd.services.versitygw = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        StateDirectory = [
          "s3/data"
          "s3/versions"
        ];
        ExecStart = "${lib.getExe pkgs.versitygw} --access ${access} --secret ${secret} --port :7070 posix --versioning-dir /var/lib/s3/versions /var/lib/s3/data";
      };
    };
  };

  nodes.machine = {
    imports = [
      module
      files
    ];
    environment.systemPackages = [ pkgs.awscli2 ];
    services.keepwatch = {
      enable = true;
      repositories.far = {
        backend.s3 = {
          bucket = "backups";
          prefix = "machine";
          endpoint = "http://store:7070";
          accessKeyIdFile = "/etc/secrets/id";
          secretAccessKeyFile = "/etc/secrets/key";
          objectLock = {
            mode = "compliance";
            retain = "1d";
          };
        };
        # Made on the machine when the test begins: see testScript.
        recipients = [ "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p" ];
      };
      backups.files = {
        source.paths.include = [ "/etc/ssh" ];
        startAt = null;
      };
    };
    # The recipient of the configuration is nobody's; this one, with which the test makes the repository, can be opened by the other machine.
    environment.etc."recipient".source = "${pair}/recipient";
    services.openssh.enable = true;
  };

  nodes.rescue = {
    imports = [ files ];
    environment.systemPackages = [ (pkgs.keepwatch or (pkgs.callPackage ../../nix/package.nix { })) ];
    environment.etc."identity".source = "${pair}/identity";
  };

  testScript = ''
    start_all()
    store.wait_for_open_port(7070)
    machine.wait_for_unit("keepwatch.service")
    machine.succeed("${aws} s3api create-bucket --bucket backups --object-lock-enabled-for-bucket")

    s3 = "--repo s3://backups/machine --s3-endpoint http://store:7070"
    machine.succeed("install -m 600 /etc/secrets/id /root/id && install -m 600 /etc/secrets/key /root/key")
    machine.succeed(f"keepwatch init {s3} --s3-access-key-file /root/id --s3-secret-key-file /root/key --recipient /etc/recipient --writer-key-out /root/far.key")
    machine.succeed("install -D -m 600 -o keepwatch -g keepwatch /root/far.key /var/lib/keepwatch/writer-keys/far.key")
    machine.succeed("chown keepwatch:keepwatch /var/lib/keepwatch /var/lib/keepwatch/writer-keys")

    with subtest("a backup by its unit, with its credentials"):
        machine.succeed("systemctl start keepwatch-backup-files.service")
        machine.fail("grep -rF ${secret} /etc/keepwatch /etc/systemd/system/keepwatch*")

    machine.sleep(2)
    before = machine.succeed("date --utc +%Y-%m-%dT%H:%M:%SZ").strip()
    machine.sleep(2)

    with subtest("what is locked stays"):
        machine.succeed("${aws} s3 rm --recursive s3://backups/machine || true")
        machine.fail(
            "${aws} s3api delete-object --bucket backups "
            "--key $(${aws} s3api list-object-versions --bucket backups --query 'Versions[0].Key' --output text) "
            "--version-id $(${aws} s3api list-object-versions --bucket backups --query 'Versions[0].VersionId' --output text)"
        )

    with subtest("another machine restores what somebody deleted"):
        rescue.succeed("install -m 600 /etc/identity /root/identity && install -m 600 /etc/secrets/id /root/id && install -m 600 /etc/secrets/key /root/key")
        rescue.succeed(
            f"keepwatch restore {s3} --s3-access-key-file /root/id --s3-secret-key-file /root/key --s3-as-of '{before}' "
            "--identity /root/identity --target /root/back"
        )
        rescue.succeed("test -e /root/back/etc/ssh/sshd_config")
  '';
}
