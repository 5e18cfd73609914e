# Everything that `tests/run` wants, so that `nix develop -c tests/run` skips nothing that a user's machine can do.
{
  mkShell,
  acl,
  age,
  attr,
  b3sum,
  btrfs-progs,
  cargo,
  clippy,
  crun,
  debootstrap,
  e2fsprogs,
  gcc,
  go,
  jq,
  libcap,
  libfaketime,
  lvm2,
  mariadb,
  nix,
  nixfmt,
  openssh,
  openssl,
  podman,
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
  util-linux,
  versitygw,
  yq-go,
  zfs,
  zstd,
}:
mkShell {
  packages = [
    # To build.
    cargo
    clippy
    gcc
    go
    rustc
    rustfmt
    # To compare with, and to damage.
    acl
    age
    attr
    b3sum
    btrfs-progs
    e2fsprogs
    jq
    libcap
    libfaketime
    lvm2
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
    zfs
    zstd
    # Servers.
    crun
    mariadb
    podman
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
    util-linux
    # Nix files.
    nix
    nixfmt
  ];
  # The shell brings all of it.
  KEEPWATCH_NO_INSTALL = "1";
}
