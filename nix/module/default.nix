# services.keepwatch: options apart from what they do.
{
  imports = [
    ./options/agent.nix
    ./options/repositories.nix
    ./options/backups.nix
    ./options/checks.nix
    ./options/notifications.nix
    ./document.nix
    ./daemon.nix
    ./jobs.nix
    ./restore.nix
    ./accounts.nix
    ./databases.nix
    ./logs.nix
    ./assertions.nix
    ./monitoring.nix
  ];
}
