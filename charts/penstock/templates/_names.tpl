{{/* Labels of a part: include "penstock.labels" (list . "csi") */}}
{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "penstock.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{/* The image is for Linux. A selector of the user's: include "penstock.nodeSelector" .Values.nodes.nodeSelector */}}
{{- define "penstock.nodeSelector" -}}
{{- toYaml (merge (dict) (. | default dict) (dict "kubernetes.io/os" "linux")) -}}
{{- end -}}

{{/* What the restricted Pod Security level asks of a container. */}}
{{- define "penstock.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The same of a pod that runs as a user: include "penstock.restrictedPod" 65532 */}}
{{- define "penstock.restrictedPod" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}
