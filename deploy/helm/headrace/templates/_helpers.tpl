{{/* Names and labels. */}}
{{- define "headrace.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "headrace.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "headrace.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "headrace.image" -}}
{{- $own := default dict .own -}}
{{- $repository := default .root.Values.image.repository $own.repository | required "image.repository: the image with headrace and your tasks" -}}
{{- $tag := default .root.Values.image.tag $own.tag | required "image.tag: which build of it" -}}
{{ printf "%s:%s" $repository (toString $tag) }}
{{- end }}

{{/* The environment of every process. Inline and not of a ConfigMap: the migration runs before the chart's objects are there. */}}
{{- define "headrace.env" -}}
{{- $secret := required "database.existingSecret: a Secret with HEADRACE_DATABASE_URL" .Values.database.existingSecret -}}
- name: HEADRACE_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: HEADRACE_DATABASE_URL}
- name: HEADRACE_STORES
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: HEADRACE_STORES, optional: true}
- name: HEADRACE_LISTEN_URL
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: HEADRACE_LISTEN_URL, optional: true}
- name: HEADRACE_STORES_LISTEN
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: HEADRACE_STORES_LISTEN, optional: true}
- name: HEADRACE_POOLER
  value: {{ .Values.database.pooler | quote }}
- name: HEADRACE_POOL_SIZE
  value: {{ .Values.database.poolSize | quote }}
- name: HEADRACE_PAYLOAD_STORE
  value: {{ required "payloadStore: an s3://, gs:// or az:// URL that all pods reach" .Values.payloadStore | quote }}
- name: HEADRACE_DATA_DIR
  value: /tmp/headrace
- name: HEADRACE_API_URL
  value: {{ default (printf "http://%s.%s.svc:%v" (include "headrace.name" .) .Release.Namespace .Values.service.port) .Values.apiUrl | quote }}
- name: HEADRACE_HOST
  value: "0.0.0.0"
- name: HEADRACE_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: HEADRACE_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "headrace.pod" -}}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
{{- end }}

{{- define "headrace.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "headrace.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
