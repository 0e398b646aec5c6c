{{/* What the operator is told: KUBEGYM_OPERATOR_*, as kubegym_operator/settings.py reads it; lists and maps as JSON. */}}
{{- define "kubegym.operatorEnvironment" -}}
{{- $images := dict }}
{{- range list "model" "vllm" "agent" "resources" "worker" }}
{{- $_ := set $images . (include "kubegym.image" (list $ .)) }}
{{- end }}
{{- $values := .Values }}
{{- $settings := dict
    "WATCH_NAMESPACES" $values.watchNamespaces
    "LOG_LEVEL" $values.operator.logLevel
    "LOG_FORMAT" $values.operator.logFormat
    "LISTEN" ":8080"
    "LEASE_NAME" (include "kubegym.operatorName" .)
    "IMAGES" $images
    "IMAGE_PULL_SECRETS" $values.images.pullSecrets
    "IMAGE_PULL_POLICY" $values.images.pullPolicy
    "CA_CONFIG_MAP" $values.pods.caConfigMap
    "DNS" $values.network.dns
    "POD_CIDRS" $values.network.podCidrs
    "SERVICE_CIDRS" $values.network.serviceCidrs
    "IDENTITY_EGRESS" $values.network.identityEgress
    "MONITORING" $values.monitoring.scrapers
}}
{{- with $values.pods.proxy }}
{{- $proxy := dict "HTTP_PROXY" .httpProxy "HTTPS_PROXY" .httpsProxy }}
{{- if or .httpProxy .httpsProxy }}
{{- $_ := set $proxy "NO_PROXY" (compact (list "localhost" "127.0.0.1" ".svc" ".cluster.local" .noProxy) | join ",") }}
{{- end }}
{{- range $name, $value := $proxy }}
{{- if not $value }}{{ $_ := unset $proxy $name }}{{ end }}
{{- end }}
{{- $_ := set $settings "PROXY_ENV" $proxy }}
{{- end }}
{{- $settings = merge $values.operator.settings $settings }}
{{- range $name, $value := $settings }}
{{- if not (empty $value) }}
- name: KUBEGYM_OPERATOR_{{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with $values.operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The restricted profile of pod security, and a root file system that nobody writes to. */}}
{{- define "kubegym.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kubegym.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
