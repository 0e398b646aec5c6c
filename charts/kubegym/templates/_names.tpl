{{/* Names and labels of the chart's objects. */}}

{{- define "kubegym.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The release's name, unless it holds the chart's already; 40 characters leave room for what follows it. */}}
{{- define "kubegym.fullname" -}}
{{- $name := include "kubegym.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{ default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "kubegym.operatorName" -}}
{{ include "kubegym.fullname" . }}-operator
{{- end }}

{{/* Cluster-wide objects of two releases of one name in two namespaces must not meet. */}}
{{- define "kubegym.clusterName" -}}
{{ .Release.Namespace }}-{{ include "kubegym.fullname" . }}
{{- end }}

{{- define "kubegym.serviceAccountName" -}}
{{- $account := .Values.operator.serviceAccount -}}
{{- if and (not $account.create) (not $account.name) }}
{{- fail "operator.serviceAccount.name: name an account, as operator.serviceAccount.create is false" }}
{{- end -}}
{{ default (include "kubegym.operatorName" .) $account.name }}
{{- end }}

{{- define "kubegym.selectorLabels" -}}
app.kubernetes.io/name: kubegym
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kubegym.labels" -}}
{{ include "kubegym.selectorLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: kubegym
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image of values.images, by key: include "kubegym.image" (list $ "operator"). vLLM's tag is its own. */}}
{{- define "kubegym.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- $name := printf "%s/%s" (default $image.registry $images.registry) $image.repository | trimPrefix "/" -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default (default $root.Chart.AppVersion $images.tag) $image.tag }}
{{- end }}
{{- end }}

{{/* "true" if a switch is on: true, or auto where the cluster serves the API. (list $ switch "group/version") */}}
{{- define "kubegym.on" -}}
{{- $root := index . 0 -}}
{{- $switch := index . 1 -}}
{{- if kindIs "bool" $switch -}}
{{ $switch | ternary "true" "" }}
{{- else if $root.Capabilities.APIVersions.Has (index . 2) -}}
true
{{- end }}
{{- end }}

{{/* A peer of a NetworkPolicy. */}}
{{- define "kubegym.peer" -}}
podSelector:
  {{- if .podLabels }}
  matchLabels: {{ toYaml .podLabels | nindent 4 }}
  {{- else }} {}
  {{- end }}
{{- if hasKey . "namespaceLabels" }}
namespaceSelector:
  {{- if .namespaceLabels }}
  matchLabels: {{ toYaml .namespaceLabels | nindent 4 }}
  {{- else }} {}
  {{- end }}
{{- end }}
{{- end }}
