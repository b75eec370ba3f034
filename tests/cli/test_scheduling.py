"""Unit files are right as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from modelkin.cli.main import cli


def printed(*words: str) -> str:
    result = CliRunner().invoke(cli, ["schedule", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def parse_cron(line: str) -> tuple[list[set[int]], str, str]:
    """The five fields, the user and the command of a line of /etc/cron.d, as in crontab(5)."""
    bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    words = line.split(None, 6)
    fields = []
    for word, (low, high) in zip(words[:5], bounds, strict=True):
        values = set(range(low, high + 1)) if word == "*" else {int(word)}
        assert values <= set(range(low, high + 1)), word
        fields.append(values)
    return fields, words[5], words[6]


def test_a_crontab_has_fields_a_user_and_a_command() -> None:
    lines = printed("cron", "--at", "04:05").splitlines()
    jobs = [
        line for line in lines if line and not line.startswith("#") and "=" not in line.split()[0]
    ]
    (fields, user, command) = parse_cron(*jobs)
    assert (fields[0], fields[1], user) == ({5}, {4}, "modelkin")
    assert "%" not in command, "cron reads % as the end of a line"
    assert "nightly --config /etc/modelkin/modelkin.toml" in command


def test_a_kubernetes_cron_job_has_the_fields_of_its_schema() -> None:
    job: Any = yaml.safe_load(printed("k8s", "--store", "/data", "--hours", "3"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    spec = job["spec"]
    assert set(spec) <= {
        "schedule",
        "timeZone",
        "concurrencyPolicy",
        "startingDeadlineSeconds",
        "suspend",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
        "jobTemplate",
    }
    assert spec["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"])
    run = spec["jobTemplate"]["spec"]
    assert run["activeDeadlineSeconds"] == 3 * 3600
    pod = run["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a Job takes Never or OnFailure alone"
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert "/data" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["args"][0] == "nightly"
    assert all(isinstance(env["value"], str) for env in container["env"])


def test_a_github_workflow_has_a_schedule_and_keeps_the_token_a_secret() -> None:
    text = printed("github", "--at", "1:07")
    flow: Any = yaml.safe_load(text)
    assert flow[True]["schedule"] == [{"cron": "7 1 * * *"}]
    assert flow["permissions"] == {"contents": "read"}
    steps = flow["jobs"]["nightly"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert "${{ secrets.HF_TOKEN }}" in text
    assert "${{{{" not in text


def test_systemd_units_name_known_directives(tmp_path: Path) -> None:
    service, timer = printed("systemd", "--store", "/srv/kin").split("\n# /etc/systemd", 1)
    for text, sections in ((service, {"Unit", "Service"}), (timer, {"Unit", "Timer", "Install"})):
        assert set(re.findall(r"^\[(\w+)\]$", text, re.M)) == sections
        for line in text.splitlines():
            assert re.fullmatch(r"|#.*|/system/.*|\[\w+\]|[A-Z]\w+=\S.*", line), line
    assert "Type=oneshot" in service
    assert "ReadWritePaths=/srv/kin" in service
    assert "Persistent=true" in timer
    assert "hf_" not in service.replace("hf_token", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    text = printed("systemd", "--command", "/bin/true")
    service, timer = text.split("\n# /etc/systemd", 1)
    (tmp_path / "modelkin-nightly.service").write_text(service)
    (tmp_path / "modelkin-nightly.timer").write_text("# /etc/systemd" + timer)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "modelkin-nightly.timer")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("cron", "--at", "25:00"),
        ("cron", "--config", "/etc/a b.toml"),
        ("systemd", "--store", "/srv/%d"),
        ("cron", "--store", "relative"),
        ("k8s", "--image", "x; rm"),
        ("systemd", "--config", "/etc/$(id)"),
    ],
)
def test_what_would_break_a_unit_is_refused(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(cli, ["schedule", *words]).exit_code == 2
