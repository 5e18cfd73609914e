# What lies in `alerts/` and `dashboards/`: files that the agent's own metric declarations are the source of. Read from the directories, so
# that a new file is wired without an edit here.
{ lib }:
let
  inDirectory =
    directory: suffix:
    if builtins.pathExists directory then
      lib.pipe (builtins.readDir directory) [
        (lib.filterAttrs (name: type: type == "regular" && lib.hasSuffix suffix name))
        lib.attrNames
        (map (lib.removeSuffix suffix))
      ]
    else
      [ ];
  alerts = ../../alerts;
  boards = ../../dashboards;
in
{
  ruleGroups = inDirectory alerts ".yml";
  ruleFile = name: alerts + "/${name}.yml";
  dashboards = inDirectory boards ".json";
  dashboard = name: boards + "/${name}.json";
  # Templates that ntfy renders.
  ntfyTitle = lib.fileContents (alerts + "/alertmanager/ntfy-title.txt");
  ntfyMessage = lib.fileContents (alerts + "/alertmanager/ntfy-message.txt");
  # Texts of messages. What differs from site to site (`site.tmpl`) is made of options.
  templates = map (name: alerts + "/alertmanager/${name}.tmpl") (
    lib.remove "site" (inDirectory (alerts + "/alertmanager") ".tmpl")
  );
}
