"""What runs inside a RolloutJob's pods: workers, the finaliser, and the fetcher of weights.

A thin composition: ``run.json`` becomes a ``local.runspec.RunSpec``, whose episodes, datasets and plan are those of a
local run; ``rollout.BatchRun`` does the work. What is added is what a pod needs: credentials and pace in files that
change, probes, progress for the operator, exit codes and last words.
"""
