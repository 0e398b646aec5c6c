"""``PYTHONPATH=tests python -m testbed.k8s FOLDER``: a control plane by hand, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from testbed.build import CannotBuild, cache
from testbed.k8s.control_plane import control_plane
from testbed.k8s.controllers import KUEUE, LWS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.k8s", description=__doc__)
    parser.add_argument("folder", type=Path, help="for keys, data and logs; FOLDER/kubeconfig leads to it")
    parser.add_argument("--gpu-nodes", type=int, default=0, metavar="N", help="besides gpu-0 and gpu-1, of 8 GPUs each")
    parser.add_argument("--kueue", action="store_true", help="with LeaderWorkerSet and Kueue")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with control_plane(options.folder.resolve()) as plane:
            if options.gpu_nodes:
                plane.add_nodes("more", options.gpu_nodes)
            if options.kueue:
                plane.start_controllers(LWS, KUEUE)
            print(f"export KUBECONFIG={plane.kubeconfig} PATH={cache()}/k8s/bin:$PATH", flush=True)
            signal.pause()
    except CannotBuild as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
