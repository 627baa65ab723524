{{/* The Secret with the certificate. */}}
{{- define "sidepool.injector.secret" -}}
{{- if eq .Values.injector.certificate.mode "existing" -}}
{{- required "injector.certificate.secretName: name the Secret with the certificate (mode: existing)" .Values.injector.certificate.secretName -}}
{{- else if eq .Values.injector.certificate.mode "generated" -}}
{{- /* Not that of cert-manager, who keeps its own when the mode is changed: Helm takes over nobody else's. */ -}}
{{- printf "%s-generated" (include "sidepool.injector" .) -}}
{{- else -}}
{{- include "sidepool.injector" . -}}
{{- end -}}
{{- end -}}

{{/* The name by which the API server calls. */}}
{{- define "sidepool.injector.host" -}}
{{- printf "%s.%s.svc" (include "sidepool.injector" .) .Release.Namespace -}}
{{- end -}}

{{/* What differs from the flags' own defaults. */}}
{{- define "sidepool.injector.flags" -}}
{{- with .Values.injector.sidecar }}
{{- if ne .cpuRequest "50m" }}
- --cpu-request={{ .cpuRequest }}
{{- end }}
{{- if ne .memoryRequest "32Mi" }}
- --memory-request={{ .memoryRequest }}
{{- end }}
{{- if ne .memoryLimit "128Mi" }}
- --memory-limit={{ .memoryLimit }}
{{- end }}
{{- end }}
{{- if ne .Values.image.pullPolicy "IfNotPresent" }}
- --image-pull-policy={{ .Values.image.pullPolicy }}
{{- end }}
{{- if kindIs "invalid" .Values.runAs }}
- --run-as=none
{{- else if ne (int64 .Values.runAs) 65532 }}
- --run-as={{ int64 .Values.runAs }}
{{- end }}
{{- with .Values.injector.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Who is called, and with which authority: the argument is a list of the root and of the authority's certificate in base64. */}}
{{- define "sidepool.injector.client" -}}
service:
  namespace: {{ (index . 0).Release.Namespace }}
  name: {{ include "sidepool.injector" (index . 0) }}
  path: /inject
  port: 443
{{- with index . 1 }}
caBundle: {{ . }}
{{- end }}
{{- end -}}

{{/* How it is called: the same for both webhooks. */}}
{{- define "sidepool.injector.rules" -}}
rules:
  - operations: [CREATE]
    apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
    scope: Namespaced
failurePolicy: Fail
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: None
timeoutSeconds: 3
admissionReviewVersions: [v1]
{{- end -}}
