"""Alert rules and the dashboards' queries, read as Prometheus itself reads them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from testbed.monitoring import RULES, alerts, promtool, queries

pytestmark = pytest.mark.unit

CASES = Path(__file__).parent / "alerts.yaml"
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "monitoring.md").read_text()


def test_rules_are_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should() -> None:
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    fired = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")}
    assert fired == {name for name, _ in alerts()}


def test_dashboards_ask_in_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(queries())
    ]
    assert rules
    written = tmp_path / "queries.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = promtool("check", "rules", written)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_explained() -> None:
    explained = re.findall(r"^\| (KubeGym\w+) \|", PAGE, re.MULTILINE)
    assert explained == [name for name, _ in alerts()]


def test_the_page_s_configuration_is_one(tmp_path: Path) -> None:
    (config,) = (text for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S) if "scrape_configs" in text)
    discovery = "kubernetes_sd_configs: [{role: pod}]"  # Debian's build knows it not
    assert discovery in config
    (tmp_path / "prometheus.yaml").write_text(config.replace(discovery, "static_configs: [{targets: [none]}]"))
    shutil.copy(RULES, tmp_path)
    done = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
