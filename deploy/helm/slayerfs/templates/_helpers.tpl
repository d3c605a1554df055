{{/* Prefix of all names: the release's name, with the chart's where it is not in it. */}}
{{- define "slayerfs.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "slayerfs.driver" -}}csi.slayerfs.io{{- end -}}

{{/* Labels that select a component's pods; they never change. Takes (list $ "node"). */}}
{{- define "slayerfs.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* All labels of a component's object. Takes (list $ "node"). */}}
{{- define "slayerfs.labels" -}}
{{- $root := index . 0 -}}
{{ include "slayerfs.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: slayerfs
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "slayerfs.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The driver's directory in the kubelet's: sockets, records, private mount points. */}}
{{- define "slayerfs.runDirectory" -}}
{{ .Values.kubeletDirectory }}/plugins/{{ include "slayerfs.driver" . }}
{{- end -}}

{{/* A directory of the keeper's socket alone: what the keeper mounts must have no volume below it,
     or the keeper would hold on to unmounted ones. */}}
{{- define "slayerfs.keeperDirectory" -}}
{{ include "slayerfs.runDirectory" . }}/keeper
{{- end -}}

{{- define "slayerfs.secretDirectory" -}}/run/secrets/slayerfs/s3{{- end -}}
{{- define "slayerfs.tokenDirectory" -}}/run/secrets/slayerfs/token{{- end -}}

{{/* Name of the Secret with the driver's credentials, or nothing. */}}
{{- define "slayerfs.secretName" -}}
{{- if .Values.credentials.existingSecret -}}
{{ .Values.credentials.existingSecret }}
{{- else if .Values.credentials.accessKeyId -}}
{{ include "slayerfs.fullname" . }}-credentials
{{- end -}}
{{- end -}}

{{/* Not empty where a role is assumed with a token: there is no key pair to assume it with. */}}
{{- define "slayerfs.usesToken" -}}
{{- if and .Values.credentials.roleArn (not (include "slayerfs.secretName" .)) -}}true{{- end -}}
{{- end -}}

{{/* Mounts and volumes that node and controller have in common. */}}
{{- define "slayerfs.commonMounts" -}}
- name: config
  mountPath: /etc/slayerfs
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if include "slayerfs.secretName" . }}
- name: credentials
  mountPath: {{ include "slayerfs.secretDirectory" . }}
  readOnly: true
{{- end }}
{{- if include "slayerfs.usesToken" . }}
- name: token
  mountPath: {{ include "slayerfs.tokenDirectory" . }}
  readOnly: true
{{- end }}
{{- with (.Values.driver.store).local }}
- name: local
  mountPath: {{ . }}
{{- end }}
{{- end -}}

{{- define "slayerfs.commonVolumes" -}}
- name: config
  configMap:
    name: {{ include "slayerfs.fullname" . }}-config
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with include "slayerfs.secretName" . }}
- name: credentials
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if include "slayerfs.usesToken" . }}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.credentials.tokenAudience | quote }}
          expirationSeconds: 3600
{{- end }}
{{- with (.Values.driver.store).local }}
- name: local
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- end -}}

{{/* Probes of node and controller. Fresh nodes are busy: a start may take a while. */}}
{{- define "slayerfs.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}
