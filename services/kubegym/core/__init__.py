"""Wire types, rows, outcomes, ids and errors. Depends on nothing else of KubeGym."""
