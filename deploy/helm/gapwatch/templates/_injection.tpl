{{/* Annotation of the pod, or a default that is an expression of CEL: list "topic" "params.data.topic". */}}
{{- define "gapwatch.annotation" -}}
variables.annotations[?"gapwatch.io/{{ index . 0 }}"].orValue({{ index . 1 }})
{{- end }}

{{/* The configuration of injected sidecars, without models: what annotations may choose is marked. */}}
{{- define "gapwatch.injectedConfiguration" -}}
{{- $config := omit (deepCopy .Values.config) "models" }}
{{- $_ := set $config "role" "sidecar" }}
{{- $_ := set $config "probes" (merge (dict "token_budget_per_round" "@budget@") ($config.probes | default dict)) }}
{{- if $config.kafka }}{{ $_ := set $config.kafka "topic" "@topic@" }}{{ end }}
{{- toYaml $config | replace "'@budget@'" "@budget@" }}
{{- end }}

{{/* The sidecar, as the API knows an init container. It is added last: what fetches a model first goes on to be first. */}}
{{- define "gapwatch.injectedContainer" -}}
{{- $of := "Object.spec.initContainers" -}}
{{ $of }}{
  name: "gapwatch",
  image: variables.image,
  imagePullPolicy: {{ .Values.image.pullPolicy | quote }},
  restartPolicy: "Always",
  args: ["run", "--config", "/etc/gapwatch/gapwatch.yaml"],
  env: [
    {{ $of }}.env{name: "POD_NAME", valueFrom: {{ $of }}.env.valueFrom{fieldRef: {{ $of }}.env.valueFrom.fieldRef{fieldPath: "metadata.name"}}},
    {{ $of }}.env{name: "POD_NAMESPACE", valueFrom: {{ $of }}.env.valueFrom{fieldRef: {{ $of }}.env.valueFrom.fieldRef{fieldPath: "metadata.namespace"}}},
    {{ $of }}.env{name: "OTEL_RESOURCE_ATTRIBUTES", value: {{ printf "k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE),k8s.container.name=gapwatch%s" (ternary (printf ",%s" .Values.resourceAttributes) "" (ne .Values.resourceAttributes "")) | toJson }}},
    {{- range .Values.extraEnv }}
    {{- if .valueFrom }}{{ fail (printf "extraEnv: %s takes its value from elsewhere, which an injected sidecar cannot" .name) }}{{ end }}
    {{ $of }}.env{name: {{ toJson .name }}, value: {{ toJson (.value | default "") }}},
    {{- end }}
    {{ $of }}.env{name: "OMP_NUM_THREADS", value: "2"},
    {{ $of }}.env{name: "GAPWATCH_HEALTH_PORT", value: "{{ include "gapwatch.port" . }}"}
  ],
  ports: [{{ $of }}.ports{name: "gapwatch", containerPort: {{ include "gapwatch.port" . }}}],
  startupProbe: {{ $of }}.startupProbe{
    httpGet: {{ $of }}.startupProbe.httpGet{path: "/livez", port: {{ include "gapwatch.port" . }}}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 150},
  livenessProbe: {{ $of }}.livenessProbe{
    httpGet: {{ $of }}.livenessProbe.httpGet{path: "/livez", port: {{ include "gapwatch.port" . }}}, periodSeconds: 20, timeoutSeconds: 5, failureThreshold: 6},
  securityContext: {{ $of }}.securityContext{
    allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001,
    capabilities: {{ $of }}.securityContext.capabilities{drop: ["ALL"]},
    seccompProfile: {{ $of }}.securityContext.seccompProfile{type: "RuntimeDefault"}},
  resources: {{ $of }}.resources{
    requests: {"cpu": variables.cpu, "memory": variables.memory},
    limits: {"cpu": variables.cpu, "memory": variables.memory}},
  volumeMounts: [
    {{ $of }}.volumeMounts{name: "gapwatch-config", mountPath: "/etc/gapwatch", readOnly: true},
    {{ $of }}.volumeMounts{name: "gapwatch-secrets", mountPath: "/var/run/secrets/gapwatch", readOnly: true},
    {{ $of }}.volumeMounts{name: "gapwatch-state", mountPath: "/var/lib/gapwatch"},
    {{ $of }}.volumeMounts{name: "gapwatch-cache", mountPath: "/var/cache/gapwatch"},
    {{ $of }}.volumeMounts{name: "gapwatch-tmp", mountPath: "/tmp"},
    {{ $of }}.volumeMounts{name: variables.modelsVolume, mountPath: {{ .Values.models.mountPath | quote }}, readOnly: true}
  ]
}
{{- end }}

{{/* Its volumes, each as a patch of its own. Readable by all, because these pods have groups of their own and only this container
     mounts them. */}}
{{- define "gapwatch.injectedVolumes" -}}
{{- $of := "Object.spec.volumes" -}}
JSONPatch{op: "add", path: "/spec/volumes/-", value: variables.configMap != ""
  ? {{ $of }}{name: "gapwatch-config", configMap: {{ $of }}.configMap{name: variables.configMap, optional: true}}
  : {{ $of }}{name: "gapwatch-config", downwardAPI: {{ $of }}.downwardAPI{items: [
      {{ $of }}.downwardAPI.items{path: "gapwatch.yaml", fieldRef: {{ $of }}.downwardAPI.items.fieldRef{fieldPath: "metadata.annotations['gapwatch.io/configuration']"}}]}}},
JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ $of }}{name: "gapwatch-secrets", secret: {{ $of }}.secret{secretName: {{ .Values.secretName | quote }}, defaultMode: 292, optional: true}}},
JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ $of }}{name: "gapwatch-state", emptyDir: {{ $of }}.emptyDir{sizeLimit: "1Gi"}}},
JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ $of }}{name: "gapwatch-cache", emptyDir: {{ $of }}.emptyDir{sizeLimit: "4Gi"}}},
JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ $of }}{name: "gapwatch-tmp", emptyDir: {{ $of }}.emptyDir{sizeLimit: "256Mi"}}}
{{- end }}
