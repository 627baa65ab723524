{{/* A table of sidepool.toml from a map: values first, then the tables below it. The argument has `path` and `table`. */}}
{{- define "sidepool.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "invalid" $value) (include "sidepool.toml.table?" $value)) }}
{{ include "sidepool.toml.key" $key }} = {{ include "sidepool.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if include "sidepool.toml.table?" $value }}
{{- $here := trimPrefix "." (printf "%s.%s" $path (include "sidepool.toml.key" $key)) }}

[{{ $here }}]
{{- include "sidepool.toml" (dict "path" $here "table" $value) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* "yes" for a map, but for one that says where a secret is, {file: TEXT} or {env: TEXT}: a database may be called env, too. */}}
{{- define "sidepool.toml.table?" -}}
{{- if kindIs "map" . -}}
{{- if not (and (eq (len .) 1) (or (hasKey . "file") (hasKey . "env")) (kindIs "string" (values . | first))) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sidepool.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ . | toRawJson }}{{- end -}}
{{- end -}}

{{/* Texts, numbers, yes and no, and lists of them are written in TOML as in JSON. */}}
{{- define "sidepool.toml.value" -}}
{{- if kindIs "map" . -}}
{{- range $key, $value := . -}}
{ {{ $key }} = {{ $value | toRawJson }} }
{{- end -}}
{{- else -}}
{{- . | toRawJson -}}
{{- end -}}
{{- end -}}

{{/* The ports of the standalone pooler as a JSON list of {name, port}, found in its settings. A port's name has 15 characters of a to z, 0 to 9 and -, and no
other port has it: where that is not to be made of the server's name, its number among the servers says it. */}}
{{- define "sidepool.ports" -}}
{{- $settings := .Values.standalone.settings -}}
{{- $ports := list -}}
{{- with $settings.postgres -}}
{{- $ports = append $ports (dict "name" "postgres" "port" (include "sidepool.port" (list "postgres" .listen) | int)) -}}
{{- end -}}
{{- $redis := $settings.redis | default dict -}}
{{- $taken := dict -}}
{{- $index := 0 -}}
{{- range $name, $server := $redis -}}
{{- if $server -}}
{{- $index = add $index 1 -}}
{{- $short := $name | lower | replace "_" "-" | trunc 9 | trimSuffix "-" -}}
{{- $stem := regexMatch "^[a-z0-9]+(-[a-z0-9]+)*$" $short | ternary $short "" -}}
{{- range $more := until 100 -}}
{{- if or (hasKey $taken $short) (and (not $stem) (eq $more 0)) -}}
{{- $number := add $index $more | toString -}}
{{- $short = printf "%s-%s" ($stem | default "n" | trunc (sub 8 (len $number) | int) | trimSuffix "-") $number -}}
{{- end -}}
{{- end -}}
{{- $_ := set $taken $short true -}}
{{- $called := ternary "redis" (printf "redis-%s" $short) (eq (len $redis) 1) -}}
{{- $ports = append $ports (dict "name" $called "port" (include "sidepool.port" (list (printf "redis.%s" $name) $server.listen) | int)) -}}
{{- end -}}
{{- end -}}
{{- if not $ports -}}
{{- fail "standalone.settings names no server: say postgres or redis (values.yaml has examples)" -}}
{{- end -}}
{{- $admin := dig "admin" "listen" "127.0.0.1:9127" $settings -}}
{{- append $ports (dict "name" "metrics" "port" (include "sidepool.port" (list "admin" $admin) | int)) | toJson -}}
{{- end -}}

{{/* The port of the first TCP address that others reach: a list of the section, for the complaint, and of what `listen` says. */}}
{{- define "sidepool.port" -}}
{{- $found := "" -}}
{{- range (kindIs "slice" (index . 1) | ternary (index . 1) (list (index . 1))) -}}
{{- $address := toString . -}}
{{- if and (not $found) (regexMatch ":[0-9]+$" $address) (not (regexMatch "^(127\\.|localhost:|\\[::1\\]|unix:)" $address)) -}}
{{- $found = regexFind "[0-9]+$" $address -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "standalone.settings.%s.listen must have an address that other pods and the kubelet reach, such as 0.0.0.0:%s" (index . 0) (ternary "9127" "6432" (eq (index . 0) "admin"))) -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* A duration of the settings in whole seconds, rounded up. */}}
{{- define "sidepool.seconds" -}}
{{- $text := toString . -}}
{{- if not (regexMatch "^[0-9]+(\\.[0-9]+)?(us|ms|s|m|h|d)$" $text) -}}
{{- fail (printf "standalone.settings.drain: %q is no duration: write 250ms, 25s or 5m" $text) -}}
{{- end -}}
{{- $number := regexFind "^[0-9.]+" $text | float64 -}}
{{- $unit := regexFind "[a-z]+$" $text -}}
{{- mulf $number (get (dict "us" 0.000001 "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit) | ceil -}}
{{- end -}}
