{{- define "gapwatch.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "gapwatch.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: gapwatch
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: gapwatch
{{- end }}

{{/* Of one workload: dict "root" $ "component" "witness". What a selector holds never changes with a version. */}}
{{- define "gapwatch.selector" -}}
app.kubernetes.io/name: gapwatch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "gapwatch.modelsImage" -}}
{{- with .Values.image }}{{ .repository }}{{ if .modelsDigest }}@{{ .modelsDigest }}{{ else }}:{{ .modelsTag | default (printf "%s-cpu" (.tag | default $.Chart.AppVersion)) }}{{ end }}{{ end }}
{{- end }}

{{- define "gapwatch.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{/* The configuration of one role: dict "root" $ "role" "witness". */}}
{{- define "gapwatch.configuration" -}}
{{- if not .root.Values.config.models }}{{ fail "config.models: there is none; name the base and its adapters, as in deploy/gapwatch.yaml" }}{{ end -}}
{{ merge (dict "role" .role) (deepCopy .root.Values.config) | toYaml }}
{{- end }}

{{/* LLMInferenceServices of the configuration, by namespace. */}}
{{- define "gapwatch.desired" -}}
{{- $found := dict }}
{{- range .Values.config.models }}
{{- with .desired }}
{{- $parts := splitList "/" .llm_inference_service }}
{{- $_ := set $found (first $parts) (append (index $found (first $parts) | default list) (last $parts) | uniq) }}
{{- end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* "yes" where a witness or an agent apart reads one: injected sidecars have the account of a foreign pod. */}}
{{- define "gapwatch.readsDesired" -}}
{{- if and (or .Values.witness.enabled .Values.apart.enabled) (include "gapwatch.desired" . | fromYaml) }}yes{{ end }}
{{- end }}

{{- define "gapwatch.port" -}}
{{ (.Values.config.telemetry | default dict).prometheus_port | default 9464 | int }}
{{- end }}
