{{- define "mofe.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "mofe.mlflow.selector" -}}
app.kubernetes.io/name: mlflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mofe.mlflow.name" -}}
{{ .Release.Name }}-mlflow
{{- end }}

{{- /* allowed Host headers of MLflow: its service's names, localhost for port-forward, and mlflow.hosts */ -}}
{{- define "mofe.mlflow.hosts" -}}
{{- $name := include "mofe.mlflow.name" . -}}
{{- $service := printf "%s.%s.svc" $name .Release.Namespace -}}
{{- $hosts := list "localhost" "127.0.0.1" $name (printf "%s.%s" $name .Release.Namespace) $service (printf "%s.cluster.local" $service) -}}
{{- range $i, $host := concat $hosts .Values.mlflow.hosts -}}
{{- if $i }},{{ end }}{{ $host }},{{ $host }}:*
{{- end -}}
{{- end }}

{{- /* restrictions of every container */ -}}
{{- define "mofe.container.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "mofe.pod.security" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* parameters of the pipelines that depend on the cluster */ -}}
{{- define "mofe.defaults" -}}
accelerator: {{ .Values.pool.accelerator | quote }}
accelerators: {{ .Values.pool.accelerators | quote }}
train_accelerators: {{ .Values.pool.trainAccelerators | quote }}
node_selector: {{ .Values.pool.nodeSelector | toJson }}
tolerations: {{ .Values.pool.tolerations | toJson }}
cpu: {{ .Values.pool.cpu | quote }}
memory: {{ .Values.pool.memory | quote }}
credentials: {{ .Values.credentials.secretName | quote }}
{{- end }}

{{- /* a Job that runs mofe as a client of Kubeflow Pipelines: root, name, hook, weight, arguments of mofe, configMap */ -}}
{{- define "mofe.client" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .root.Release.Name }}-{{ .name }}
  labels:
    {{- include "mofe.labels" .root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 4
  activeDeadlineSeconds: 600
  template:
    metadata:
      labels:
        app.kubernetes.io/name: mofe-{{ .name }}
        app.kubernetes.io/instance: {{ .root.Release.Name }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .root.Values.serviceAccount.name }}
      automountServiceAccountToken: false
      securityContext:
        {{- include "mofe.pod.security" .root | nindent 8 }}
      {{- include "mofe.pull" .root | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: "{{ .root.Values.registry }}/{{ .root.Values.pipelines.image }}:{{ .root.Chart.AppVersion }}"
          imagePullPolicy: Always # this tag moves with every `make images PUSH=1`
          command: [mofe]
          args:
            {{- range .arguments }}
            - {{ . | quote }}
            {{- end }}
          env:
            - name: HOME
              value: /tmp
            - name: KFP_TOKEN
              valueFrom:
                secretKeyRef:
                  name: {{ .root.Values.credentials.secretName }}
                  key: KFP_TOKEN
                  optional: true
          securityContext:
            {{- include "mofe.container.security" .root | nindent 12 }}
          resources:
            {{- toYaml .root.Values.pipelines.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- with .configMap }}
            - name: parameters
              mountPath: /parameters
              readOnly: true
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {}
        {{- with .configMap }}
        - name: parameters
          configMap:
            name: {{ . }}
        {{- end }}
{{- end }}

{{- define "mofe.pull" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
