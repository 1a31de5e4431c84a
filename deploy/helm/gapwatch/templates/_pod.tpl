{{/* The container of one workload: dict "root" $ "component" "witness" "args" list "resources" dict; "writesModels" for an
     enrolment, "secret" and "at" for one more Secret. */}}
{{- define "gapwatch.container" -}}
name: gapwatch
image: {{ include (ternary "gapwatch.modelsImage" "gapwatch.image" (hasKey . "models")) .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: {{ .args | toJson }}
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  - name: OTEL_RESOURCE_ATTRIBUTES
    value: k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE),k8s.container.name=gapwatch{{ with .root.Values.resourceAttributes }},{{ . }}{{ end }}
  - name: GAPWATCH_HEALTH_PORT
    value: {{ include "gapwatch.port" .root | quote }}
  {{- with .root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
resources:
  {{- toYaml .resources | nindent 2 }}
volumeMounts:
  - {name: gapwatch-config, mountPath: /etc/gapwatch, readOnly: true}
  - {name: gapwatch-secrets, mountPath: /var/run/secrets/gapwatch, readOnly: true}
  {{- if .migrationSecret }}
  - {name: gapwatch-migrations, mountPath: /var/run/secrets/gapwatch-migrations, readOnly: true}
  {{- end }}
  - {name: gapwatch-state, mountPath: /var/lib/gapwatch}
  - {name: gapwatch-cache, mountPath: /var/cache/gapwatch}
  - {name: gapwatch-tmp, mountPath: /tmp}
  {{- if and .runs (include "gapwatch.readsDesired" .root) }}
  - {name: gapwatch-api, mountPath: /var/run/secrets/gapwatch-api, readOnly: true}
  {{- end }}
  {{- if .models }}
  - {name: models, mountPath: {{ .root.Values.models.mountPath }}{{ if ne .models "write" }}, readOnly: true{{ end }}}
  {{- end }}
{{- end }}

{{/* Of an agent that runs on: an account of its own, where the desired state is read. */}}
{{- define "gapwatch.account" -}}
{{- if include "gapwatch.readsDesired" . }}
serviceAccountName: {{ include "gapwatch.name" . }}
{{- end }}
{{- end }}

{{/* As above; "config": the ConfigMap, "models": "read", "write" or nothing. */}}
{{- define "gapwatch.volumes" -}}
{{- if .models }}
- name: models
  persistentVolumeClaim: {claimName: {{ .root.Values.models.claimName }}{{ if ne .models "write" }}, readOnly: true{{ end }}}
{{- end }}
- name: gapwatch-config
  configMap: {name: {{ .config }}, optional: true}
- name: gapwatch-secrets
  secret: {secretName: {{ .root.Values.secretName }}, defaultMode: 0440, optional: true}
{{- with .migrationSecret }}
- name: gapwatch-migrations
  secret: {secretName: {{ . }}, defaultMode: 0440, optional: true}
{{- end }}
- name: gapwatch-state
  emptyDir: {sizeLimit: 1Gi}
- name: gapwatch-cache
  emptyDir: {sizeLimit: 4Gi}
- name: gapwatch-tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if and .runs (include "gapwatch.readsDesired" .root) }}
# In place of the token that every pod has by default: short-lived, and in this container alone.
- name: gapwatch-api
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}

{{/* What every pod has of its own account: no token, no root. dict "root" $ */}}
{{- define "gapwatch.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Where a workload may be scheduled, from its own values. */}}
{{- define "gapwatch.placement" -}}
{{- range $key := list "runtimeClassName" "priorityClassName" "nodeSelector" "tolerations" "affinity" "resourceClaims" }}
{{- with index $ $key }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gapwatch.scraped" -}}
{{- /* Beside a PodMonitor they would be scraped twice, and every alert sent twice. */}}
{{- if and .root.Values.monitoring.scrapeAnnotations (not .root.Values.monitoring.podMonitor.enabled) }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ include "gapwatch.port" .root | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- with .own }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "gapwatch.probes" -}}
startupProbe:
  # Five minutes: on a node without a free CPU a start takes one, and each restart takes it again.
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 150
livenessProbe:
  # Fails when the loop has not turned for a minute; two minutes of that, because a starved node answers late and a restart loads
  # its bases again. Readiness is not asked: nothing is served here.
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* Above shutdown_budget of the configuration, or a pod is killed while it hands over. */}}
{{- define "gapwatch.grace" -}}
{{- $budget := (.Values.config.shutdown_budget | default "4s" | toString) -}}
{{- $seconds := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 "" 1.0 -}}
{{- $unit := regexFind "[a-z]*$" (trim $budget) -}}
{{- max 20 (add 10 (ceil (mulf (regexFind "[0-9.]+" $budget | float64) (get $seconds $unit | default 1.0)))) -}}
{{- end }}
