# Everything that `tests/run` wants, so that `nix develop -c tests/run` skips nothing that a user's machine can do.
{
  mkShell,
  acl,
  age,
  attr,
  cargo,
  clippy,
  debootstrap,
  gcc,
  jq,
  libcap,
  libfaketime,
  mariadb,
  nixfmt,
  openssh,
  openssl,
  postgresql,
  prometheus,
  prometheus-alertmanager,
  python3,
  redis,
  restic,
  rsync,
  rustc,
  rustfmt,
  sqlite,
  strace,
  systemd,
  versitygw,
  yq-go,
  zstd,
}:
mkShell {
  packages = [
    # To build.
    cargo
    clippy
    gcc
    rustc
    rustfmt
    # To compare with, and to damage.
    acl
    age
    attr
    jq
    libcap
    libfaketime
    openssh
    openssl
    (python3.withPackages (p: [
      p.aiosmtpd
      p.jsonschema
    ]))
    restic
    rsync
    strace
    yq-go
    zstd
    # Servers.
    mariadb
    postgresql
    prometheus
    prometheus.cli
    prometheus-alertmanager
    redis
    sqlite
    versitygw
    # Units in a container.
    debootstrap
    systemd
    # Nix files.
    nixfmt
  ];
  # The shell brings all of it.
  KEEPWATCH_NO_INSTALL = "1";
}
