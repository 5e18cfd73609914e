# The sandbox of every unit, and the exceptions, each beside its reason. `systemd-analyze security` is held to limits by a test.
{ lib }:
{
  # Capabilities that the process has, and no other one.
  capabilities ? [ ],
  # Files outside of the state that are written.
  writes ? [ ],
  # Whether it reads what lies in /home and /root.
  readsHomes ? false,
  # Whether it reads what lies in /tmp and /var/tmp of the host.
  readsTmp ? false,
  # Whether it writes runs into the catalog. A run is known by its boot and its process, and one whose process is gone is lost: so they see
  # each other's processes (not with ProtectProc=, which closes those in another user namespace) and /proc/sys/kernel/random/boot_id.
  records ? false,
  # Whether programs of others run in it, which may compile at run time.
  runsOthers ? false,
  # Whether it talks to other hosts.
  network ? true,
  # Whether it talks to itself by addresses of 127.0.0.0/8.
  loopback ? false,
  # Whether it may talk to many hosts at once, as programs of others do.
  multicast ? false,
  # Groups besides its own, such as that of a server's socket.
  groups ? [ ],
  # Changes owners of files, so that it must see all users.
  seesUsers ? false,
}:
{
  UMask = "0077";
  LimitCORE = 0;
  NoNewPrivileges = true;

  CapabilityBoundingSet = if capabilities == [ ] then "" else capabilities;
  AmbientCapabilities = if capabilities == [ ] then "" else capabilities;
  # A capability over files counts for nothing in a user namespace of one's own.
  PrivateUsers = capabilities == [ ] && !seesUsers;
  SupplementaryGroups = groups;

  ProtectSystem = "strict";
  ReadWritePaths = writes;
  ProtectHome = if readsHomes then "read-only" else true;
  PrivateTmp = !readsTmp;
  PrivateDevices = true;
  PrivateMounts = true;
  DevicePolicy = "closed";
  PrivateIPC = true;
  RemoveIPC = true;
  KeyringMode = "private";

  ProtectClock = true;
  ProtectControlGroups = true;
  ProtectHostname = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectProc = if records then "default" else "invisible";
  ProcSubset = if records then "all" else "pid";

  LockPersonality = true;
  MemoryDenyWriteExecute = !runsOthers;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  # AF_UNIX: the journal, the bus, sockets of databases.
  RestrictAddressFamilies = [
    "AF_UNIX"
  ]
  ++ lib.optionals (network || loopback) [
    "AF_INET"
    "AF_INET6"
  ];
  PrivateNetwork = !network;
  # Only single hosts are asked and answered. What is allowed counts more than what is denied, so it is all but 224.0.0.0/4 and ff00::/8.
  IPAddressDeny = lib.optional (!network || !multicast) "any";
  IPAddressAllow =
    lib.optional (!network && loopback) "localhost"
    ++ lib.optionals (network && !multicast) [
      "0.0.0.0/1"
      "128.0.0.0/2"
      "192.0.0.0/3"
      "240.0.0.0/4"
      "::/1"
      "8000::/2"
      "c000::/3"
      "e000::/4"
      "f000::/5"
      "f800::/6"
      "fc00::/7"
      "fe00::/8"
    ];
  SystemCallArchitectures = "native";
  SystemCallFilter = [
    "@system-service"
    # What is refused is an error that the program tells, not its death.
    "~@privileged @resources"
  ]
  ++ lib.optional (lib.elem "CAP_CHOWN" capabilities) "@chown";
  SystemCallErrorNumber = "EPERM";
}
