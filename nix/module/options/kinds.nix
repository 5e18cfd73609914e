# Tables that stand in several sections.
{ lib, k }:
let
  inherit (lib) types;
  inherit (k) opt maybe;
  count = types.either types.ints.unsigned (types.enum [ "unlimited" ]);
in
{
  retention = types.submodule {
    options =
      lib.mapAttrs (_: maybe count) {
        last = "The newest so many.";
        hourly = "The newest of each of so many hours.";
        daily = "The newest of each of so many days.";
        weekly = "The newest of each of so many weeks.";
        monthly = "The newest of each of so many months.";
        yearly = "The newest of each of so many years.";
      }
      // lib.mapAttrs (_: maybe k.span) {
        within = "All that are younger than this, counted back from the newest.";
        withinHourly = "The newest of each hour among those younger than this.";
        withinDaily = "The newest of each day among those younger than this.";
        withinWeekly = "The newest of each week among those younger than this.";
        withinMonthly = "The newest of each month among those younger than this.";
        withinYearly = "The newest of each year among those younger than this.";
      }
      // {
        tags = opt (types.listOf (
          types.nonEmptyListOf types.str
        )) [ ] "Lists of tags: all snapshots that have every tag of one list.";
      };
  };

  retry = types.submodule {
    options = {
      attempts = opt (types.ints.between 0 20) 3 "How often, besides the first time.";
      delay = opt k.duration "5m" "After how long; twice as long each time.";
    };
  };

  resources = types.submodule {
    options = {
      nice = opt (types.ints.between (-20) 19) 10 "Niceness: 19 gives way to everybody.";
      ioSchedulingClass = opt (types.enum [
        "idle"
        "best-effort"
        "realtime"
      ]) "idle" "Class of input and output.";
      ioWeight = maybe (types.ints.between 1 10000) "Weight of input and output, 100 as others have.";
      cpuQuota = maybe types.str "Share of one processor at most, such as `50%`.";
      memoryMax = maybe types.str "More memory than this ends the run, such as `1G`.";
    };
  };

  tls = k.sub {
    caFile = maybe types.path "Trust only the certificates of this PEM file instead of the host's.";
    serverName = maybe types.str "The name that the certificate must have, when it is not the host of the target.";
  } "Whom to trust.";

  maybeTls =
    description:
    maybe (types.submodule {
      options = {
        caFile = maybe types.path "Trust only the certificates of this PEM file instead of the host's.";
        serverName = maybe types.str "The name that the certificate must have, when it is not the host of the target.";
      };
    }) description;
}
