"""An environment whose agent is a program that knows a base URL: it asks, and asks again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

APP = """
from kubegym import Environment, Verdict

class Asked(Environment):
    def verify(self, rollout):
        said = [item for item in rollout.messages if item.get("role") == "assistant"]
        return Verdict(float(len(said) == 2 and bool(rollout.final_text)))
"""
# As people write agents: no code of ours, and an HTTP library.
AGENT = """
import json, os, sys, urllib.request

dialect, task = sys.argv[1], sys.stdin.read()
model, history = os.environ["KUBEGYM_MODEL"], []

def post(url, body):
    headers = {"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply)

def ask(question):
    history.append({"role": "user", "content": question})
    if dialect == "responses":
        reply = post(os.environ["OPENAI_BASE_URL"] + "/responses", {"model": model, "input": history})
        history.extend(reply["output"])
    elif dialect == "chat":
        body = {"model": model, "messages": history, "temperature": 1.5}
        reply = post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)
        history.append(reply["choices"][0]["message"])
    else:
        body = {"model": model, "messages": history, "max_tokens": 64}
        reply = post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", body)
        history.append({"role": "assistant", "content": reply["content"]})

ask(task)
ask("Are you sure?")
"""


def program_environment(folder: Path, agent: str = AGENT, *words: str, tasks: int = 3, **limits: Any) -> str:
    """Write it; its folder. ``limits`` are further fields of the manifest's agent."""
    (folder / "data").mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "agent.py").write_text(agent)
    rows = [{"responses_create_params": {"input": f"Say {n}"}} for n in range(tasks)]
    (folder / "data" / "example.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = {"command": [sys.executable, "./agent.py", *words], "env": {"PROBE": str(folder / "probe")}}
    manifest = {
        "apiVersion": "kubegym.dev/v1alpha1",
        "kind": "GymEnvironment",
        "metadata": {"name": "asked"},
        "spec": {"resources": {}, "agent": {"harness": "command", "config": config, **limits}},
    }
    (folder / "environment.yaml").write_text(json.dumps(manifest))
    return str(folder)
