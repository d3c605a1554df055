{{- define "slayerfs.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A sidecar's container. Takes root, name, port and args. Copies of big volumes take longer than
     a call: the sidecars ask again, at least every 30 s. */}}
{{- define "slayerfs.sidecar" -}}
{{- $values := index .root.Values.sidecars .name -}}
- name: {{ .name }}
  image: {{ $values.repository }}:{{ $values.tag }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - --csi-address=/run/csi/csi.sock
    - --leader-election
    - --leader-election-namespace={{ .root.Release.Namespace }}
    - --http-endpoint=:{{ .port }}
    - --retry-interval-max=30s
    - -v={{ .root.Values.sidecars.logLevel }}
    {{- range .args }}
    - {{ . }}
    {{- end }}
  securityContext:
    {{- include "slayerfs.restricted" . | nindent 4 }}
  ports:
    - name: {{ .name }}
      containerPort: {{ .port }}
  livenessProbe:
    httpGet: {path: /healthz/leader-election, port: {{ .name }}}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 10
    # It serves this only once the driver has reached S3.
    failureThreshold: 6
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  volumeMounts:
    - name: socket
      mountPath: /run/csi
{{- end -}}
