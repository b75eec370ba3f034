"""Texts of the unit files; `{{` and `}}` stand for braces."""

SYSTEMD_SERVICE = """\
# /etc/systemd/system/modelkin-nightly.service
[Unit]
Description=modelkin nightly scan
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
DynamicUser=yes
ExecStart={command} nightly --config {config}
# The token, readable by root alone, comes as a file and never as an argument.
LoadCredential=hf_token:/etc/modelkin/hf_token
Environment=HF_TOKEN_PATH=%d/hf_token
Environment=HF_HOME={store}/huggingface
StateDirectory=modelkin
WorkingDirectory={store}
ReadWritePaths={store}
TimeoutStartSec={seconds}
TimeoutStopSec=30
KillSignal=SIGTERM
# 3: finished, but not published or not all read; 4: another scan holds the lock.
SuccessExitStatus=3 4 143
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=no
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
LimitCORE=0
MemoryMax=80%
TasksMax=512
"""

SYSTEMD_TIMER = """\
# /etc/systemd/system/modelkin-nightly.timer
[Unit]
Description=Start the modelkin nightly scan

[Timer]
OnCalendar=*-*-* {clock}:00 UTC
Persistent=true
RandomizedDelaySec=15min

[Install]
WantedBy=timers.target
"""

CRON = """\
# /etc/cron.d/modelkin: the scan holds a lock of its own and exits 4 when another one runs.
SHELL=/bin/sh
PATH=/usr/local/bin:/usr/bin:/bin
HF_TOKEN_PATH=/etc/modelkin/hf_token
CRON_TZ=UTC
{minute} {hour} * * * modelkin {command} nightly --config {config} >> {store}/nightly.log 2>&1
"""

KUBERNETES = """\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: modelkin-nightly
spec:
  schedule: "{minute} {hour} * * *"
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 2
      activeDeadlineSeconds: {seconds}
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 30
          securityContext:
            runAsNonRoot: true
            runAsUser: 10001
            fsGroup: 10001
          containers:
            - name: modelkin
              image: {image}
              args: ["nightly", "--config", "/etc/modelkin/modelkin.toml"]
              env:
                - name: HF_TOKEN_PATH
                  value: /var/run/secrets/modelkin/hf_token
                - name: HF_HOME
                  value: {store}/huggingface
              securityContext:
                allowPrivilegeEscalation: false
                readOnlyRootFilesystem: true
                capabilities:
                  drop: ["ALL"]
              volumeMounts:
                - name: store
                  mountPath: {store}
                - name: config
                  mountPath: /etc/modelkin
                  readOnly: true
                - name: token
                  mountPath: /var/run/secrets/modelkin
                  readOnly: true
                - name: scratch
                  mountPath: /tmp
          volumes:
            - name: store
              persistentVolumeClaim:
                claimName: modelkin-store
            - name: config
              configMap:
                name: modelkin-config
            - name: token
              secret:
                secretName: modelkin-hf-token
            - name: scratch
              emptyDir: {{}}
"""

GITHUB = """\
# .github/workflows/modelkin.yml: for a few releases, not for the whole Hub. GitHub starts schedules
# late and stops them after 60 days without a commit: set `healthcheck` in the configuration.
name: modelkin nightly
on:
  schedule:
    - cron: "{minute} {hour} * * *"
  workflow_dispatch: {{}}
permissions:
  contents: read
concurrency:
  group: modelkin-nightly
  cancel-in-progress: false
jobs:
  nightly:
    runs-on: ubuntu-latest
    timeout-minutes: {minutes}
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install modelkin
      - uses: actions/cache@v4
        with:
          path: modelkin-store
          key: modelkin-${{{{ github.run_id }}}}
          restore-keys: modelkin-
      - run: modelkin nightly --config modelkin.toml
        env:
          HF_TOKEN: ${{{{ secrets.HF_TOKEN }}}}
"""
