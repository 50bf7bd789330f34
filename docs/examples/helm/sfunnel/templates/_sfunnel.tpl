{{- define "sfunnel.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "sfunnel.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/*
The container that attaches and exits. A chart that depends on this one can put it in front of its own init containers:
    initContainers:
      {{- include "sfunnel.initContainer" (dict "Values" .Values.sfunnel "Chart" .Subcharts.sfunnel.Chart) | nindent 6 }}
with a volume `sfunnel` that has the rules as `ruleset`.
*/}}
{{- define "sfunnel.initContainer" -}}
- name: sfunnel
  image: {{ include "sfunnel.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  env:
    - name: IFACES
      value: {{ join " " .Values.interfaces | quote }}
    - name: SFUNNEL_END
      value: {{ .Values.end | quote }}
    - name: DIRECTION
      value: {{ .Values.direction | quote }}
    - name: SFUNNEL_GSO
      value: {{ .Values.gso | quote }}
    - name: SFUNNEL_FINISH_CHECKSUMS
      value: {{ ternary "yes" "no" .Values.finishChecksums | quote }}
    - name: SFUNNEL_COUNTERS
      value: {{ ternary "yes" "no" .Values.counters | quote }}
  securityContext:
    capabilities: { drop: [ALL], add: [BPF, NET_ADMIN] }
    readOnlyRootFilesystem: true
    {{- with .Values.seccompProfile }}
    seccompProfile: {{ toYaml . | nindent 6 }}
    {{- end }}
  volumeMounts:
    - { name: sfunnel, mountPath: /etc/sfunnel }
{{- end -}}
