{{/* Labels that Helm adds to the kustomization's. */}}
{{- define "tritone.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Reference of an image: (list context name). */}}
{{- define "tritone.image" -}}
{{- $context := index . 0 -}}
{{ $context.Values.images.registry }}/{{ index . 1 }}:{{ $context.Values.images.tag | default $context.Chart.AppVersion }}
{{- end }}

{{/* Port of the event store; the default is Valkey's. */}}
{{- define "tritone.eventsPort" -}}
{{ regexFind ":[0-9]+$" (urlParse .Values.events.url).host | trimPrefix ":" | default "6379" }}
{{- end }}
