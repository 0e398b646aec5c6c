{{/* What the operator may do where it watches. Secrets can be made, never read; logs not at all. tests/cluster/chart
     holds this to what the code asks for. */}}
{{- define "kubegym.operatorRules" -}}
- apiGroups: [kubegym.dev]
  resources: [gymenvironments, rolloutjobs, modelservers]
  verbs: [get, list, watch]
- apiGroups: [kubegym.dev]
  resources: [gymenvironments/status, rolloutjobs/status, modelservers/status]
  verbs: [patch]
- apiGroups: [kubegym.dev] # an environment's
  resources: [modelservers]
  verbs: [create, patch, delete]
- apiGroups: [kubegym.dev] # idle and waking
  resources: [modelservers/scale]
  verbs: [patch]
- apiGroups: [kubegym.dev] # when its time to live is over
  resources: [rolloutjobs]
  verbs: [delete]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""] # deleted: a replica of a model whose weights do not prove
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""] # session keys of resources servers: written once, never read
  resources: [secrets]
  verbs: [create]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets/scale]
  verbs: [patch]
- apiGroups: [kueue.x-k8s.io] # whether the queue of a job or a model exists
  resources: [localqueues]
  verbs: [get]
- apiGroups: [events.k8s.io] # its own, and what quota and admission said of a Job
  resources: [events]
  verbs: [list, create, patch]
{{- end }}
