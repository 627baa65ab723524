{{/* The name of what is installed: that of the release, with the chart's unless it holds it already. */}}
{{- define "sidepool.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The injector's name. */}}
{{- define "sidepool.injector" -}}
{{- printf "%s-injector" (include "sidepool.fullname" .) -}}
{{- end -}}

{{/* The Service that has the port metrics: one that is reached from outside the cluster has not. */}}
{{- define "sidepool.metrics" -}}
{{- include "sidepool.fullname" . -}}
{{- if ne .Values.standalone.service.type "ClusterIP" -}}-metrics{{- end -}}
{{- end -}}

{{/* By what pods are known; the argument is a list of the root and of the value of app.kubernetes.io/name. */}}
{{- define "sidepool.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end -}}

{{/* All labels of an object; the same argument. */}}
{{- define "sidepool.labels" -}}
{{- $root := index . 0 -}}
{{ include "sidepool.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sidepool.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the restricted Pod Security Standard asks of a container, and a file system that cannot be written to. */}}
{{- define "sidepool.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- with .Values.runAs }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods run, and what else is said of them: a list of the root, of the part's values, and of the value of app.kubernetes.io/name. */}}
{{- define "sidepool.placement" -}}
{{- $part := index . 1 -}}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "yes" for something that is asked for, or that is `auto` and whose API the cluster has: a list of the root, of the value, and of the API. */}}
{{- define "sidepool.wanted" -}}
{{- $root := index . 0 -}}
{{- $value := index . 1 -}}
{{- if or (eq (toString $value) "true") (and (eq (toString $value) "auto") ($root.Capabilities.APIVersions.Has (index . 2))) -}}
yes
{{- end -}}
{{- end -}}
