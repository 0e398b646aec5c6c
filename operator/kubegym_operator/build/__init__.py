"""Pure desired state: typed specs in, Kubernetes objects as plain dicts out.

Nothing here reads a clock, a random number, an environment variable or a cluster: the same spec and context are always
rendered into the same objects, so that a steady state is recognised by comparing (DESIGN section 5). What others may
write (``replicas``, a Job's ``suspend`` and ``parallelism``, status) is in no object that is applied (rule 1).
"""
