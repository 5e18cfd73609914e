# The program, with completions and manual pages. Tests stay out: `tests/run` runs them all, with servers that no build has.
{
  lib,
  rustPlatform,
  installShellFiles,
  stdenv,
}:
let
  inherit (lib) fileset;
  root = ../.;
  workspace = (lib.importTOML (root + "/Cargo.toml")).workspace.package;
in
rustPlatform.buildRustPackage {
  pname = "keepwatch";
  inherit (workspace) version;

  # What cargo reads and nothing else: an edit of a README or of a module rebuilds nothing. cargo wants every member of the workspace,
  # therefore the Rust of `tests/` is here too.
  src = fileset.toSource {
    inherit root;
    fileset = fileset.unions [
      (root + "/Cargo.toml")
      (root + "/Cargo.lock")
      (fileset.fileFilter (file: !file.hasExt "md") (root + "/agent"))
      (fileset.fileFilter (file: file.hasExt "rs" || file.name == "Cargo.toml") (root + "/tests"))
    ];
  };

  cargoLock.lockFile = root + "/Cargo.lock";
  cargoBuildFlags = [
    "--package"
    "keepwatch"
  ];
  doCheck = false;

  # The glibc that it will run with is that of the same nixpkgs, and knows them.
  env.KEEPWATCH_PACKED_RELOCATIONS = "1";

  nativeBuildInputs = [ installShellFiles ];

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd keepwatch \
      --bash <($out/bin/keepwatch completions bash) \
      --fish <($out/bin/keepwatch completions fish) \
      --zsh <($out/bin/keepwatch completions zsh)
    $out/bin/keepwatch man --dir $out/share/man/man1
  '';

  meta = {
    description = "Encrypted backups that come back, health checks and monitoring for NixOS hosts";
    homepage = workspace.repository;
    license = lib.licenses.asl20;
    mainProgram = "keepwatch";
    platforms = lib.platforms.linux;
  };
}
