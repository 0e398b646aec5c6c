"""Run the benchmarks and print the table.

usage: python -m benchmarks [NAME...] [--quick]      (names: see BENCHMARKS)
"""

from __future__ import annotations

import argparse
import os
import platform

from benchmarks.figures import Figure, in_child, table

BENCHMARKS = {
    "single-step": (
        ("rollouts", "mcqa", "20000", "16", "128", "1024"),
        ("rollouts", "mcqa", "4000", "16", "128", "1024"),
    ),
    "tool": (
        ("rollouts", "example_session_state", "10000", "16", "128", "1024"),
        ("rollouts", "example_session_state", "2000", "16", "128"),
    ),
    "workplace": (("workplace", "2000"), ("workplace", "500")),
    "in-flight-1024": (("memory", "in-flight", "1024"), ("memory", "in-flight", "1024")),
    "in-flight-10000": (("memory", "in-flight", "10000"), ("memory", "in-flight", "10000")),
    "split": (("split", "mcqa", "10000", "16", "128", "1024"), ("split", "mcqa", "2000", "16", "128", "1024")),
    "split-tool": (
        ("split", "example_session_state", "5000", "16", "128", "1024"),
        ("split", "example_session_state", "1000", "16", "128", "1024"),
    ),
    "latency": (("latency", "2000", "20"), ("latency", "2000", "5")),
    "start": (("start",), ("start",)),
    "slots": (("slots", "4000"), ("slots", "1000")),
    "workers": (("workers", "60", "1", "2", "4", "8"), ("workers", "20", "1", "8")),
    "autoscaling": (("autoscaling",), ("autoscaling",)),
    "hop": (("hop", "20000"), ("hop", "3000")),
    "routing": (("routing", "30"), ("routing", "5")),
    "weights": (("weights", "4", "32"), ("weights", "2", "16")),
    "lives": (("lives", "20", "800"), ("lives", "3", "20")),
    "sandbox": (("sandbox", "300", "100000"), ("sandbox", "100", "2000")),
    "symbolic": (("symbolic", "4096", "1024"), ("symbolic", "1024", "1024")),
    "operator": (("operator", "2000", "20000", "50"), ("operator", "100", "500", "10")),
    "flat": (("memory", "flat", "1000000"), ("memory", "flat", "50000")),
}


def main() -> None:
    """Each benchmark in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, for a first look")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    figures: list[Figure] = []
    for name in options.names or BENCHMARKS:
        full, quick = BENCHMARKS[name]
        arguments = quick if options.quick else full
        print(f"{name}: python -m benchmarks.{' '.join(arguments)}", flush=True)
        figures += in_child(*arguments)
    load = os.getloadavg()[0]
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}\n\n{table(figures)}")


if __name__ == "__main__":
    main()
