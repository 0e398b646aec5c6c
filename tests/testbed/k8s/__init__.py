"""A real Kubernetes on this machine: control planes with fake nodes, and what tests do with a cluster.

``python -m testbed.k8s FOLDER`` starts one by hand and prints how to reach it.
"""
